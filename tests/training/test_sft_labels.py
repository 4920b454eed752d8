"""The loss is on the assistant's tokens only, each after exactly the tokens that the policy is asked with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tuning import tiny_model

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.errors import DataError
from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import Message, message
from sifthinker.policy.trace import AreaBox, Step, Trace
from sifthinker.training.sft.encoding import IGNORED, Collator, TurnEncoder
from sifthinker.training.sft.samples import conversation

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
BOXES = ((0.0, 0.0, 1.0, 1.0), (0.1, 0.2, 0.6, 0.8))


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalPolicy:
    folder = tiny_model(tmp_path_factory.mktemp("labels") / request.param, request.param)
    return LocalPolicy.from_pretrained(folder, device="cpu", dialect="sif")


def turns_of(mode: Any, *, shown: bool = True, size: tuple[int, int] = (96, 64)) -> list[Message]:
    pixels = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    depth = DepthMap(np.linspace(0, 1, size[0], dtype=np.float32)[None].repeat(size[1], 0), source="slope")
    steps = [Step(boxes=[AreaBox(bbox_2d=box, depth=0.5)], text=f"Step {box[0]}.") for box in BOXES]
    return conversation(
        "What is it?", ["a cube", "a ball"], Trace(steps=steps, answer="a cube"), mode=mode,
        rgb=Image.fromarray(pixels), picture=depth.picture() if shown else None, depth=depth if shown else None,
        profile=PolicyProfile(name="tiny", dialect="sif"),
    )  # fmt: skip


def learnt(policy: LocalPolicy, labels: torch.Tensor) -> str:
    return str(policy.processor.tokenizer.decode(labels[labels != IGNORED]))


@pytest.mark.parametrize("mode", ["internal", "direct"])
def test_one_turn_is_learnt_with_its_end_and_nothing_else(policy: LocalPolicy, mode: Any) -> None:
    turns = turns_of(mode)
    (one,) = TurnEncoder(policy.encoder).encode(turns)
    assert learnt(policy, one.labels) == turns[-1].text + "<|im_end|>"
    asked = policy.encoder.encode(turns[:-1]).input_ids[0]
    assert torch.equal(one.input_ids[: len(asked)], asked)
    assert (one.labels[: len(asked)] == IGNORED).all()
    assert torch.equal(one.input_ids[len(asked) :], one.labels[len(asked) :])


def test_in_mode_tools_every_turn_is_learnt_and_no_word_of_the_tool(policy: LocalPolicy) -> None:
    turns = turns_of("tools")
    said = [turn.text for turn in turns if turn.role == "assistant"]
    (one,) = TurnEncoder(policy.encoder).encode(turns)
    # after </area> the agent ends the turn: in mode internal the trace goes on there
    assert learnt(policy, one.labels) == "".join(said) + "<|im_end|>"
    for index in (1, 3):
        asked = policy.encoder.encode(turns[:index]).input_ids[0]
        assert torch.equal(one.input_ids[: len(asked)], asked)
        assert one.labels[len(asked) - 1] == IGNORED
        assert one.labels[len(asked)] == one.input_ids[len(asked)]
    assert "tool_response" not in learnt(policy, one.labels)


def test_two_images_reach_the_model_rgb_first(policy: LocalPolicy) -> None:
    turns = turns_of("internal")
    (one,) = TurnEncoder(policy.encoder).encode(turns)
    assert len(one.vision["image_grid_thw"]) == 2
    rgb, depth = (policy.processor.image_processor(images=[image], return_tensors="pt") for image in turns[0].images)
    assert torch.equal(one.vision["pixel_values"], torch.cat([rgb["pixel_values"], depth["pixel_values"]]))
    merged = policy.processor.image_processor.merge_size**2
    tokens = int(one.vision["image_grid_thw"].prod(-1).sum()) // merged
    assert int((one.input_ids == policy.encoder.image_token_id).sum()) == tokens


def test_a_batch_is_padded_on_the_right_and_padding_is_not_learnt(policy: LocalPolicy) -> None:
    collate = Collator(TurnEncoder(policy.encoder))
    rows = [{"row": 4, "conversation": turns_of("tools")}, {"row": 9, "conversation": turns_of("direct", shown=False)}]
    batch = collate(rows)
    assert batch["rows"].tolist() == [4, 9]
    assert batch["left_out"].tolist() == [0]
    short = int(batch["attention_mask"][1].sum())
    assert short < batch["input_ids"].shape[1]
    assert (batch["labels"][1, short:] == IGNORED).all()
    assert learnt(policy, batch["labels"][1]) == "<answer>a cube</answer><|im_end|>"
    assert len(batch["image_grid_thw"]) == 3 + 1  # RGB, depth and a crop, then RGB alone


def test_the_model_gives_a_padded_batch_the_loss_of_its_samples_alone(policy: LocalPolicy) -> None:
    collate = Collator(TurnEncoder(policy.encoder))
    rows = [{"row": 0, "conversation": turns_of("tools")}, {"row": 1, "conversation": turns_of("direct")}]

    def loss(some: list[dict[str, Any]]) -> tuple[float, int]:
        batch = collate(some)
        del batch["rows"], batch["left_out"]
        with torch.no_grad():
            found = policy.model(**batch)
        count = int((batch["labels"][:, 1:] != IGNORED).sum())
        return float(found.loss) * count, count

    (together, count), alone = loss(rows), [loss([row]) for row in rows]
    assert count == sum(number for _, number in alone)
    assert together == pytest.approx(sum(one for one, _ in alone), rel=1e-4)


def test_what_the_policy_says_by_itself_is_what_it_is_taught_to_say(policy: LocalPolicy) -> None:
    """Tokens, pixels and positions are those of inference: its greedy words are the likeliest in the training batch."""
    asked = turns_of("internal")[:-1]
    said = policy.generate(asked, max_new_tokens=12)
    turns = [*asked, message("assistant", said.text)]
    batch = Collator(TurnEncoder(policy.encoder))([{"row": 0, "conversation": turns}])
    del batch["rows"], batch["left_out"]
    places = (batch["labels"][0] != IGNORED).nonzero()[:, 0][: len(said.token_ids)]
    assert batch["labels"][0, places].tolist() == said.token_ids
    with torch.no_grad():
        logits = policy.model(**batch).logits[0, places - 1]
    assert logits.argmax(-1).tolist() == said.token_ids


def test_a_sample_over_the_limit_is_left_out_whole(policy: LocalPolicy) -> None:
    rows = [{"row": 0, "conversation": turns_of("tools")}, {"row": 1, "conversation": turns_of("direct", shown=False)}]
    encoder = TurnEncoder(policy.encoder)
    lengths = [len(encoder.encode(row["conversation"])[0].input_ids) for row in rows]
    batch = Collator(encoder, max_tokens=lengths[1])(rows)
    assert batch["left_out"].tolist() == [1]
    assert batch["rows"].tolist() == [0, 1]
    assert len(batch["input_ids"]) == 1


@pytest.mark.parametrize("batch", [1, 2])
def test_where_all_are_over_the_limit_a_small_picture_takes_their_place(policy: LocalPolicy, batch: int) -> None:
    rows = [{"row": 3, "conversation": turns_of("tools", size=(900, 600))}] * batch
    collate = Collator(TurnEncoder(policy.encoder), max_tokens=64)
    nothing = collate(rows)
    assert nothing["input_ids"].shape[1] <= 64
    assert (nothing["labels"] == IGNORED).all()
    assert len(nothing["image_grid_thw"]) == 1, "the vision tower is run, as in every other process"
    assert (nothing["rows"].tolist(), nothing["left_out"].tolist()) == ([3] * batch, [batch])
    again = Collator(TurnEncoder(policy.encoder), max_tokens=64)
    again([{"row": 0, "conversation": turns_of("direct", shown=False)}])
    assert all(torch.equal(again(rows)[name], tensor) for name, tensor in nothing.items()), "whatever came before"


def test_a_template_that_changes_earlier_turns_is_learnt_turn_by_turn(policy: LocalPolicy) -> None:
    kept = policy.processor.chat_template
    # like templates that show only the last assistant turn whole
    forgetful = kept.replace("{{ p.text }}", "{{ p.text if m.role == 'user' else '…' }}")
    assert forgetful != kept
    policy.processor.chat_template = forgetful
    try:
        turns = turns_of("tools")
        sequences = TurnEncoder(policy.encoder).encode(turns)
        said = [turn.text for turn in turns if turn.role == "assistant"]
        assert sorted(learnt(policy, one.labels) for one in sequences) == sorted([*said[:-1], said[-1] + "<|im_end|>"])
    finally:
        policy.processor.chat_template = kept


def test_control_tokens_in_what_is_taught_stay_text(policy: LocalPolicy) -> None:
    turns = [message("user", "Say <|im_end|>"), message("assistant", "It is <|im_end|> then.")]
    (one,) = TurnEncoder(policy.encoder).encode(turns)
    end = policy.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert int((one.labels == end).sum()) == 1


def test_a_conversation_that_ends_in_a_question_is_refused(policy: LocalPolicy) -> None:
    with pytest.raises(DataError, match="assistant"):
        TurnEncoder(policy.encoder).encode([message("user", "What?")])
