"""Training a policy from nothing: the tokenizer's promises, the samples' labels, packing against the plain model."""

import json
import os
import re
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from sifthinker.nodes.depth import depth_to_rgb
from sifthinker.policy import prompts
from sifthinker.policy.errors import DataError
from sifthinker.policy.messages import ImagePart, message
from sifthinker.policy.trace import parse
from sifthinker.training.scratch import train
from sifthinker.training.scratch.batches import collate, encode, pointing
from sifthinker.training.scratch.compiled import compiled_blocks, is_torn, remove_torn
from sifthinker.training.scratch.export import export_policy
from sifthinker.training.scratch.model import ModelSize
from sifthinker.training.scratch.packing import PLAIN, Blocks, forward
from sifthinker.training.scratch.pictures import view_scene
from sifthinker.training.scratch.recipe import ScratchRecipe
from sifthinker.training.scratch.samples import Branch, SampleConfig, SampleMaker
from sifthinker.training.scratch.stream import SceneStream
from sifthinker.training.scratch.tokenizer import NUMBERS, PIECES
from sifthinker.training.scratch.train import Trainer

TINY = ModelSize(hidden=48, layers=2, heads=2, head_dim=24, mlp=64, vision_hidden=32, vision_layers=1, vision_heads=2)
RECIPE = ScratchRecipe(
    model=TINY,
    scenes=2,
    vision_scenes=2,
    find_scenes=2,
    vision_minutes=0.02,
    find_minutes=0.02,
    minutes=0.05,
    log_every=1,
    save_every_minutes=0.0,
    compiled=False,
)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(RECIPE, tmp_path_factory.mktemp("run"))


def test_pieces_numbers_and_prompts_are_single_tokens(trainer: Trainer) -> None:
    for piece in (*PIECES, *NUMBERS):
        assert len(trainer.tokenizer.encode(piece, add_special_tokens=False)) == 1


@pytest.mark.parametrize(
    "text", ["Which is closer?", "Ein schöner Würfel — 你好 🙂", '<area>[{"bbox_2d":[0.10,0.2', "\n\t x"]
)
def test_any_text_survives_the_tokenizer(trainer: Trainer, text: str) -> None:
    assert trainer.tokenizer.decode(trainer.tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("kind", ["direct", "internal", "tools"])
def test_only_the_assistants_tokens_are_learnt(trainer: Trainer, kind: str) -> None:
    maker = SampleMaker(trainer.tokenizer, SampleConfig(jitter_share=0.0, end_share=0.0))
    view = view_scene(5)
    sample = maker.sample(view, np.random.default_rng(0))
    branch = next(branch for branch in sample.branches if branch.kind == kind)
    learnt = [token for token, weight in zip(branch.ids, branch.weights, strict=True) if weight > 0]
    said = trainer.tokenizer.decode(learnt).removesuffix("<|im_end|>")
    if kind == "direct":
        assert said.startswith("<answer>")
        assert said.endswith("</answer>")
    else:
        assert parse(said).steps[0].boxes[0].bbox_2d == (0.0, 0.0, 1.0, 1.0)
    assert "tool_response" not in said


def test_jittered_areas_are_shown_but_their_numbers_are_not_learnt(trainer: Trainer) -> None:
    maker = SampleMaker(trainer.tokenizer, SampleConfig(jitter_share=1.0, ground=0, verdict=0, direct=0, tools=0))
    branch = maker.sample(view_scene(5), np.random.default_rng(0)).branches[0]
    numbers = set(trainer.tokenizer.convert_tokens_to_ids(list(NUMBERS)))
    spans = _areas(branch.ids, trainer.tokenizer)
    for place, (start, end) in enumerate(spans):
        weights = [branch.weights[i] for i in range(start, end) if branch.ids[i] in numbers]
        assert all(weights) if place in (0, len(spans) - 1) else not any(weights)


def test_grounding_branches_learn_boxes_of_names_and_names_of_boxes(trainer: Trainer) -> None:
    config = SampleConfig(verdict=0, direct=0, internal=0, tools=0, ground_questions=2, families=("closer", "left"))
    maker = SampleMaker(trainer.tokenizer, config)
    view = view_scene(5)
    branch = maker.sample(view, np.random.default_rng(0)).branches[0]
    assert branch.kind == "ground"
    said = trainer.tokenizer.decode(branch.ids)
    learnt = trainer.tokenizer.decode([t for t, weight in zip(branch.ids, branch.weights, strict=True) if weight > 0])
    assert said.count("<area>") == 5  # three objects by name or box, two questions
    assert learnt.count("<area>") == 4  # the first object's box is given
    assert learnt.count("This is the ") == 1
    assert "I look for" not in learnt


def test_verdict_branches_learn_what_follows_from_given_boxes(trainer: Trainer) -> None:
    maker = SampleMaker(trainer.tokenizer, SampleConfig(ground=0, verdict=1, direct=0, internal=0, tools=0))
    branch = maker.sample(view_scene(5), np.random.default_rng(0)).branches[0]
    said = trainer.tokenizer.decode(branch.ids)
    learnt = trainer.tokenizer.decode([t for t, weight in zip(branch.ids, branch.weights, strict=True) if weight > 0])
    assert parse(said[said.rindex("<think>") :].removesuffix("<|im_end|>")).steps
    assert learnt.startswith("<text>")
    assert "</answer>" in learnt


@pytest.mark.parametrize("kind", ["verdict", "tools"])
def test_what_is_said_of_a_moved_last_area_follows_from_it(trainer: Trainer, kind: str) -> None:
    alone = {"ground": 0, "verdict": 0, "direct": 0, "internal": 0, "tools": 0, kind: 6}
    config = SampleConfig(**alone, families=("closer",), tools_families=("closer",), jitter_share=0.0, end_share=1.0)
    view, numbers = view_scene(5), set(trainer.tokenizer.convert_tokens_to_ids(list(NUMBERS)))
    exact, moved = [target.box for target in view.targets], 0
    for branch in SampleMaker(trainer.tokenizer, config).sample(view, np.random.default_rng(0)).branches:
        said = trainer.tokenizer.decode(branch.ids)
        boxes = json.loads(said.rsplit("<area>", 1)[1].split("</area>")[0])
        told = [float(number) for number in re.findall(r"depth (\d\.\d\d)", said.rsplit("<text>", 1)[1])]
        assert told == pytest.approx(sorted(box["depth"] for box in boxes), abs=0.011)
        if all(min(np.abs(np.subtract(box["bbox_2d"], one)).max() for one in exact) < 0.006 for box in boxes):
            continue  # moved, the other one would have been closer
        moved += 1
        start, end = _areas(branch.ids, trainer.tokenizer)[-1]
        assert not any(branch.weights[i] for i in range(start, end) if branch.ids[i] in numbers)
    assert moved >= 3


def _of(branch: Branch, part: str, tokenizer: PreTrainedTokenizerFast) -> str:
    return tokenizer.decode([token for token, own in zip(branch.ids, branch.parts, strict=True) if own == part])


def test_what_a_relation_concludes_weighs_more_than_what_is_copied(trainer: Trainer) -> None:
    config = SampleConfig(ground=0, verdict=6, direct=0, internal=1, tools=0, families=("closer", "behind"))
    branches = SampleMaker(trainer.tokenizer, config).sample(view_scene(5), np.random.default_rng(0)).branches
    assert {branch.family for branch in branches} == {"closer", "behind"}
    for branch in branches:
        said = trainer.tokenizer.decode(branch.ids)
        concluded, answer = _of(branch, "conclusion", trainer.tokenizer), _of(branch, "answer", trainer.tokenizer)
        assert f":{concluded}</text>" in said
        assert f"<answer>{answer}</answer>" in said
        assert concluded.endswith("is closer.") if branch.family == "closer" else " the " in concluded
        weights = {weight for weight, part in zip(branch.weights, branch.parts, strict=True) if part == "conclusion"}
        assert weights == {config.weight_conclusion}


def test_a_ground_branch_never_guesses_which_of_two_is_meant(trainer: Trainer) -> None:
    config = SampleConfig(ground=4, verdict=0, direct=0, internal=0, tools=0, ground_questions=6)
    samples = [SampleMaker(trainer.tokenizer, config).sample(view_scene(5), np.random.default_rng(n)) for n in range(4)]
    concluded = " ".join(_of(branch, "conclusion", trainer.tokenizer) for s in samples for branch in s.branches)
    assert "is in front of" in concluded
    assert not any(word in concluded for word in ("closer", "farther", "further"))


@pytest.mark.parametrize("kind", ["ground", "internal", "tools"])
def test_the_numbers_of_a_box_are_told_of_the_object_that_it_is_of(trainer: Trainer, kind: str) -> None:
    maker = SampleMaker(trainer.tokenizer, SampleConfig(jitter_share=0.0, end_share=0.0, families=("closer",)))
    view = view_scene(5)
    sample = maker.sample(view, np.random.default_rng(0))
    branch = next(branch for branch in sample.branches if branch.kind == kind)
    boxes = {target.index: target.box for target in view.targets}
    numbers = [
        (told, float(trainer.tokenizer.decode([token])))
        for token, told in zip(branch.ids, branch.objects, strict=True)
        if told >= 0
    ]
    assert len(numbers) % 5 == 0
    found = [numbers[at : at + 5] for at in range(0, len(numbers), 5)]
    assert all(len({told for told, _ in five}) == 1 for five in found)
    exact = found if kind == "ground" else found[len(found) // 2 :]  # in a trace the expanded boxes come before
    for five in exact:
        assert [number for _, number in five[:4]] == pytest.approx(boxes[five[0][0]], abs=0.006)


def test_looking_at_the_object_costs_nothing_and_elsewhere_much(trainer: Trainer) -> None:
    samples = [trainer.maker.sample(view_scene(5), np.random.default_rng(0))]
    images = encode(trainer.model.model.visual, samples)
    prefix, groups, members = collate(trainer.maker, samples, images.order)
    start = trainer.maker.prefix_ids.index(trainer.maker.image_id)

    def cost(*, right: bool) -> float:
        looks = []
        for group, branches in zip(groups, members, strict=True):
            one = torch.zeros(*group.ids.shape, prefix.ids.shape[1] + group.ids.shape[1])
            for row, branch in enumerate(branches):
                for place, told in enumerate(branch.objects):
                    on = np.flatnonzero((images.objects[0] == told) == right)
                    if told >= 0 and len(on):
                        one[row, place - 1, start + int(on[0])] = 1.0
            looks.append([one])
        return float(pointing(trainer.maker, looks, groups, members, images.objects))

    assert cost(right=True) == pytest.approx(0.0, abs=1e-3)
    assert cost(right=False) > 9


def test_a_head_that_is_not_there_cannot_be_watched() -> None:
    assert ScratchRecipe(model=TINY).heads_to_watch == ((0, 0), (1, 0))
    assert ScratchRecipe().heads_to_watch == ((2, 0), (3, 0))
    with pytest.raises(ValueError, match="layer 2, head 0"):
        ScratchRecipe(model=TINY, watched=((2, 0),))


def _areas(ids: list[int], tokenizer: object) -> list[tuple[int, int]]:
    opening, closing = tokenizer.convert_tokens_to_ids(["<area>", "</area>"])  # type: ignore[attr-defined]
    return list(
        zip([i for i, t in enumerate(ids) if t == opening], [i for i, t in enumerate(ids) if t == closing], strict=True)
    )


def test_packed_branches_equal_the_plain_model(trainer: Trainer) -> None:
    trainer.model.eval()
    samples = [trainer.maker.sample(view_scene(seed), np.random.default_rng(seed)) for seed in (1, 2)]
    with torch.no_grad():
        images = encode(trainer.model.model.visual, samples)
        prefix, groups, members = collate(trainer.maker, samples, images.order)
        hidden, _ = forward(trainer.model, prefix, groups, images.tokens)
        for group, branches, states in zip(groups, members, hidden, strict=True):
            for row, branch in enumerate(branches):
                sample = samples[int(group.owner[row])]
                plain = _plain(trainer, sample.rgb, sample.depth, branch)
                assert torch.allclose(states[row, : len(branch.ids)], plain, atol=2e-5)
    trainer.model.train()


@pytest.mark.slow
def test_compiled_layers_give_the_same_loss_and_gradients(trainer: Trainer) -> None:
    blocks = compiled_blocks()
    if blocks is PLAIN:
        pytest.skip("nothing to compile with")
    samples = [trainer.maker.sample(view_scene(seed), np.random.default_rng(seed)) for seed in (1, 2)]
    told = []
    for some in (PLAIN, blocks):
        trainer.model.zero_grad(set_to_none=True)
        images = encode(trainer.model.model.visual, samples, some)
        prefix, groups, _ = collate(trainer.maker, samples, images.order)
        hidden, looks = forward(trainer.model, prefix, groups, images.tokens, ((1, 0),), some)
        (sum(h.square().mean() for h in hidden) + sum(look.square().mean() for of in looks for look in of)).backward()
        gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        told.append((hidden, looks, gradients))
    (hidden, looks, gradients), (hidden_c, looks_c, gradients_c) = told
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(hidden, hidden_c, strict=True))
    assert all(torch.allclose(a[0], b[0], atol=2e-5) for a, b in zip(looks, looks_c, strict=True))
    assert gradients.keys() == gradients_c.keys()
    assert all(torch.allclose(gradients[name], gradients_c[name], atol=1e-5, rtol=1e-3) for name in gradients)


def test_without_a_compiler_training_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: object, **more: object) -> object:
        raise RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    assert compiled_blocks() is PLAIN
    assert "goes on uncompiled" in caplog.text
    assert "and more" not in caplog.text


def test_what_a_killed_compiler_left_is_removed(tmp_path: Path) -> None:
    head = bytearray(64)
    head[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", head, 40, 100)  # where the table of sections begins, …
    struct.pack_into("<HH", head, 58, 64, 2)  # … the width of a row and how many there are
    whole = bytes(head) + bytes(100 + 128 - 64)
    files = {
        "whole": whole,
        "cut": whole[:-1],
        "short": whole[:20],
        "empty": b"",
        "zeros": bytes(300),
        "macho": b"\xcf\xfa",
    }
    for name, content in files.items():
        (tmp_path / name).mkdir()
        path = tmp_path / name / "kernel.so"
        path.write_bytes(content)
        os.utime(path, (time.time() - 60,) * 2)
    assert {path.parent.name for path in remove_torn(tmp_path)} == {"cut", "short", "empty", "zeros"}
    assert {path.parent.name for path in tmp_path.rglob("*.so")} == {"whole", "macho"}


def test_a_library_in_the_making_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "kernel.so"
    path.touch()
    writer = threading.Timer(0.3, path.write_bytes, [b"\xcf\xfa"])
    writer.start()
    assert remove_torn(tmp_path, settled_s=20.0) == []
    writer.join()
    assert not is_torn(path)
    path.write_bytes(b"")
    assert remove_torn(tmp_path, settled_s=0.2) == [path]


def test_the_step_that_compiles_is_no_part_of_a_phase_s_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "compiled_blocks", lambda: Blocks(PLAIN.text, PLAIN.vision))
    clock = iter(range(0, 100_000, 3600))
    monkeypatch.setattr(train.time, "monotonic", lambda: float(next(clock)))
    recipe = RECIPE.model_copy(update={"vision_minutes": 60.0, "find_minutes": 0.0, "minutes": 0.0, "compiled": True})
    Trainer(recipe, tmp_path).run()
    steps = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["minutes"]) for line in steps] == [(1, 0.0), (2, 60.0)]


def _plain(trainer: Trainer, rgb: np.ndarray, depth: np.ndarray, branch: object) -> torch.Tensor:
    """Hidden states of the branch from transformers' own forward pass over the whole sequence."""
    images = [rgb, depth, *branch.crops]  # type: ignore[attr-defined]
    ids = torch.tensor([trainer.maker.prefix_ids + branch.ids])  # type: ignore[attr-defined]
    processed = _image_processor()(images=[Image.fromarray(image) for image in images], return_tensors="pt")
    out = trainer.model.model(
        input_ids=ids,
        mm_token_type_ids=(ids == trainer.model.config.image_token_id).int(),
        **processed,
    )
    return out.last_hidden_state[0, len(trainer.maker.prefix_ids) :]


def _image_processor() -> Any:
    from transformers import Qwen2VLImageProcessor

    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 256, "longest_edge": 192 * 192}
    return Qwen2VLImageProcessor(patch_size=8, merge_size=2, size=size, image_mean=half, image_std=half)


@pytest.mark.slow
def test_every_process_of_many_has_scenes_of_its_own() -> None:
    recipe = ScratchRecipe(buffer_scenes=3000)
    streams = [SceneStream(recipe, rank, 5, world=16) for rank in range(16)]
    assert len({stream.next for stream in streams}) == 16
    assert next(iter(streams[-1])).targets is not None
    assert sum(stream.kept for stream in streams) == 2 * recipe.buffer_scenes
    assert [SceneStream(recipe, rank, 5, world=2).next for rank in (0, 1)] == [5, 500_005]
    assert SceneStream(recipe, 1, 5, world=2).kept == recipe.buffer_scenes


def test_the_first_phase_teaches_the_vision_tower_alone(tmp_path: Path) -> None:
    trainer = Trainer(RECIPE.model_copy(update={"find_minutes": 0.0, "minutes": 0.0}), tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all("visual" in name for name in moved)
    assert trainer.cursor.phase == "done"


def test_once_it_can_see_the_tower_learns_slower_also_after_a_resume(tmp_path: Path) -> None:
    def shares(trainer: Trainer) -> dict[bool, set[float]]:
        seeing = {id(p) for p in trainer.model.model.visual.parameters()}
        found: dict[bool, set[float]] = {True: set(), False: set()}
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    found[id(parameter) in seeing].add(group["share"])
        return found

    trainer = Trainer(RECIPE.model_copy(update={"vision_share": 0.25}), tmp_path)
    assert shares(trainer) == {True: {1.0}, False: {1.0}}
    trainer.cursor.phase = "find"
    trainer.optimizers = trainer._optimizers()
    assert shares(trainer) == {True: {0.25}, False: {1.0}}
    trainer.save()
    assert shares(Trainer(trainer.recipe, tmp_path)) == {True: {0.25}, False: {1.0}}


def test_a_run_trains_resumes_and_is_exported(tmp_path: Path) -> None:
    Trainer(RECIPE, tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == {"vision", "find", "traces"}
    resumed = Trainer(RECIPE, tmp_path)
    assert resumed.cursor.phase == "done"
    (tmp_path / "recipe.json").write_text(RECIPE.model_dump_json())
    export_policy(tmp_path, tmp_path / "policy")

    from sifthinker.policy.load import load_policy

    policy = load_policy(str(tmp_path / "policy"))
    assert policy.profile.dialect == "sif"
    view = view_scene(3)
    asked = prompts.first_turn(
        "What color is the cube?", rgb=view.render.image, depth=Image.fromarray(depth_to_rgb(view.render.depth))
    )
    assert policy.generate([asked], max_new_tokens=5).completion_tokens == 5


def test_inference_tokens_are_the_training_tokens(trainer: Trainer, tmp_path: Path) -> None:
    """What `load_policy` makes of a conversation is, token for token, what the model was trained on."""
    trainer.out = tmp_path
    (tmp_path / "recipe.json").write_text(RECIPE.model_dump_json())
    trainer.save()
    export_policy(tmp_path, tmp_path / "policy")

    from sifthinker.policy.load import load_policy

    policy = load_policy(str(tmp_path / "policy"))
    view = view_scene(7)
    maker = SampleMaker(
        trainer.tokenizer, SampleConfig(jitter_share=0.0, end_share=0.0, depth_noise=0.0, with_options=1.0)
    )
    sample = maker.sample(view, np.random.default_rng(0))
    branch = next(branch for branch in sample.branches if branch.kind == "direct")
    text = trainer.tokenizer.decode(branch.ids)
    asked = text[: text.index(prompts.DIRECT_SUFFIX)]
    turn = message(
        "user",
        prompts.ORIGINAL_IMAGE,
        ImagePart(view.render.image, "rgb"),
        prompts.DEPTH_IMAGE,
        ImagePart(Image.fromarray(depth_to_rgb(view.render.depth)), "depth"),
        asked + prompts.DIRECT_SUFFIX,
    )
    encoded = policy._encoder.encode([turn])  # type: ignore[attr-defined]
    learnt_from = next(i for i, weight in enumerate(branch.weights) if weight > 0)
    assert encoded.input_ids[0].tolist() == maker.prefix_ids + branch.ids[:learnt_from]
    pixels = torch.cat([image["pixel_values"] for image in encoded.pixels])
    shown = [Image.fromarray(sample.rgb), Image.fromarray(sample.depth)]
    expected = _image_processor()(images=shown, return_tensors="pt")
    assert torch.allclose(pixels, expected["pixel_values"], atol=1e-6)


def test_a_checkpoint_that_was_cut_off_anywhere_is_told(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"ema": [torch.zeros(500 + number) for number in range(8)]}, path)
    whole = path.read_bytes()
    for size in (*range(0, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="is damaged"):
            export_policy(tmp_path, tmp_path / "policy")
