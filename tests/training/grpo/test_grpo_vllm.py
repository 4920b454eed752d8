"""What vLLM is handed when a recipe says `use_vllm`: TRL's own code up to vLLM's border, where a stand-in waits.

The stand-in keeps vLLM's side of the bargain with plain transformers: it loads the folder it is named, takes the
weights it is sent, and looks at the raw images with that folder's processor. Colocated it puts as many image tokens as
that makes of an image in place of the first one it finds, whatever follows it; as a server it is told where they lie.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trl.generation.vllm_generation as border
from building import built, questions
from transformers import AutoModelForImageTextToText, AutoProcessor

from sifthinker.policy.errors import UsageError
from sifthinker.policy.load import load_policy
from sifthinker.training.grpo.recipe import read_recipe
from sifthinker.training.grpo.run import train
from sifthinker.training.grpo.start import bar_images
from sifthinker.training.grpo.trainer import placeholders


class Engine:
    """vLLM's `LLM`, as far as TRL asks it."""

    last: Engine

    def __init__(self, *, model: str, max_model_len: int | None, **_: Any) -> None:
        Engine.last = self
        self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(model)
        self.max_model_len = max_model_len
        self.asleep, self.loads, self.seen, self.barred = False, 0, [], []
        holder = SimpleNamespace(load_weights=self.load_weights)
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=holder))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=runner))
        self.draw = np.random.default_rng(0)

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        own = self.model.state_dict()
        for name, value in weights:
            own[name].copy_(value)  # a name that vLLM would not know is a KeyError
            self.loads += 1

    def sleep(self, level: int) -> None:
        self.asleep = True

    def wake_up(self, tags: list[str]) -> None:
        self.asleep = False

    def reset_prefix_cache(self) -> None: ...

    def generate(self, prompts: list[dict[str, Any]], *, sampling_params: Any, use_tqdm: bool) -> list[Any]:
        assert not self.asleep
        replies = []
        for prompt in prompts:
            ids, images = prompt["prompt_token_ids"], prompt["multi_modal_data"]["image"]
            expanded: list[int] = []
            for count in self.counts(images):
                place = ids.index(self.processor.image_token_id)
                expanded += [*ids[:place], *[self.processor.image_token_id] * count]
                ids = ids[place + 1 :]
            replies.append(self.complete([*expanded, *ids], images, sampling_params))
        return replies

    def counts(self, images: list[Any]) -> list[int]:
        """Tokens of each image."""
        looked = self.processor.image_processor(images=images, return_tensors="pt")
        return [int(grid.prod()) // self.processor.image_processor.merge_size**2 for grid in looked["image_grid_thw"]]

    @torch.no_grad()
    def complete(self, ids: list[int], images: list[Any], params: Any) -> Any:
        self.seen.append([image.size for image in images])
        self.barred.append(params.logit_bias)
        assert len(ids) + params.max_tokens <= (self.max_model_len or 10_000)
        pad, looked = self.processor.image_token_id, self.processor.image_processor(images=images, return_tensors="pt")
        if ids.count(pad) != sum(self.counts(images)):
            raise ValueError(f"There are {ids.count(pad)} image tokens and {self.counts(images)} features.")
        said, logprobs, begun = [], [], len(ids)
        while len(said) < params.max_tokens:
            tokens = torch.tensor([ids])
            logits = self.model(input_ids=tokens, mm_token_type_ids=(tokens == pad).int(), **looked).logits[0, -1]
            odds = torch.log_softmax(logits / params.temperature, -1)
            drawn = odds.double()
            for barred, bias in params.logit_bias.items():
                drawn[int(barred)] += bias
            token = int(self.draw.choice(len(odds), p=drawn.softmax(-1).numpy()))
            said.append(token)
            # vLLM tells the odds after the bias, which differ by what barred tokens have of them: of so few words, 1 %
            logprobs.append({token: SimpleNamespace(logprob=float(odds[token]), rank=1)})
            ids = [*ids, token]
        reply = SimpleNamespace(token_ids=said, logprobs=logprobs)
        return SimpleNamespace(prompt_token_ids=ids[:begun], outputs=[reply])


class Client:
    """TRL's client of a vLLM server, the server included."""

    def __init__(self, **_: Any) -> None: ...

    def init_communicator(self, device: Any) -> None: ...

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, told: list[Any], weights: Any) -> None:
        for (name, _, shape), (sent, value) in zip(told, weights, strict=True):  # merged only while they are walked
            assert (name, shape) == (sent, list(value.shape))
            Engine.last.load_weights([(sent, value)])

    def reset_prefix_cache(self) -> None: ...

    def image_features(self, images: list[list[Any]]) -> list[dict[str, Any]]:
        return [{"images": some, "mm_placeholders": {"image": [None] * len(some)}} for some in images]

    def generate(self, *, prompts: list[list[int]], features: list[Any], n: int, **params: Any) -> dict[str, Any]:
        params = json.loads(json.dumps(params | params["generation_kwargs"]))  # as they travel
        told = SimpleNamespace(**params)
        for ids, one in zip(prompts, features, strict=True):
            lies = [(run["offset"], run["length"]) for run in one["mm_placeholders"]["image"]]
            assert [length for _, length in lies] == Engine.last.counts(one["images"])
            assert all(set(ids[at : at + n]) == {Engine.last.processor.image_token_id} for at, n in lies)
        replies = [
            Engine.last.complete(ids, one["images"], told).outputs[0]
            for ids, one in zip(prompts, features, strict=True)
            for _ in range(n)
        ]
        logprobs = [[[one.logprob for one in step.values()] for step in reply.logprobs] for reply in replies]
        said = [reply.token_ids for reply in replies]
        return {"prompt_ids": prompts, "completion_ids": said, "logprobs": logprobs}


@pytest.fixture(autouse=True)
def untouched_environment() -> Iterator[None]:
    """TRL names this process's rank to vLLM in the environment, and leaves it there."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(border, "is_vllm_available", lambda: True)
    monkeypatch.setattr(border, "LLM", Engine, raising=False)
    monkeypatch.setattr(border, "SamplingParams", lambda **given: SimpleNamespace(**given), raising=False)
    monkeypatch.setattr(border, "VLLMClient", Client)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(("mode", "adapter"), [("colocate", True), ("colocate", False), ("server", True)])
def test_the_sampler_sees_what_the_trainer_sees_with_the_weights_of_the_step(
    family: str,
    mode: str,
    adapter: bool,
    tiny_folders: dict[str, Path],
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    built(questions(tmp_path / "s", 4, size=(200, 130)), tmp_path / "data")
    start = tiny_folders[family]
    if mode == "server":
        Engine(model=str(start), max_model_len=None)  # what the server was started with
    recipe = {
        **settings,
        "policy": str(start),
        "data": {"kind": "records", "path": str(tmp_path / "data")},
        "rewards": {"form": "random"},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0} if adapter else None,
        "train_vision": not adapter,
        "share_prompts": False,
        "max_pixels": 10_000,  # less than the folder's own processor allows, and than the pictures have
    }
    recipe["trl"] = {
        **settings["trl"], "max_steps": 2, "max_completion_length": 6, "learning_rate": 1e-2,
        "use_vllm": True, "vllm_mode": mode,
        **({"vllm_enable_sleep_mode": True, "vllm_max_model_length": 2048} if mode == "colocate" else {}),
    }  # fmt: skip
    made = train(read_recipe(recipe), tmp_path / "run")
    assert load_policy(str(made)).profile.dialect == "sif"
    engine = Engine.last
    assert engine.loads > 0
    assert all(len(sizes) == 2 and max(w * h for w, h in sizes) <= 10_000 for sizes in engine.seen)
    pads = {engine.processor.image_token_id: -100.0, engine.processor.video_token_id: -100.0}
    assert all({int(token): bias for token, bias in barred.items()} == pads for barred in engine.barred)
    assert mode == "server" or all(isinstance(token, int) for barred in engine.barred for token in barred)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "reward" in line]
    assert len(steps) == 2
    assert all(line["grad_norm"] > 0 for line in steps)
    for line in steps:  # after the first step too: the weights of the step have arrived
        assert line["sampling/sampling_logp_difference/max"] < 1e-3
        assert line["sampling/importance_sampling_ratio/min"] == pytest.approx(1, abs=1e-2)


def test_a_prompt_holds_one_token_for_each_image_or_is_refused() -> None:
    assert placeholders([7, 5, 5, 5, 8, 5, 9], pad=5, images=2) == [7, 5, 8, 5, 9]
    assert placeholders([5, 5], pad=5, images=1) == [5]
    assert placeholders([7, 8, 8], pad=None, images=0) == [7, 8, 8]
    for pad, images in ((5, 3), (None, 1)):
        with pytest.raises(UsageError, match="use_vllm: false"):
            placeholders([7, 5, 5, 8, 5], pad=pad, images=images)


def test_what_a_recipe_says_of_sampling_stays_beside_what_is_barred() -> None:
    settings: Any = SimpleNamespace(generation_kwargs={"seed": 1, "logit_bias": {3: 2.0, 4: 1.0}})
    bar_images(settings, SimpleNamespace(image_token_id=4, video_token_id=None))
    assert settings.generation_kwargs == {"seed": 1, "logit_bias": {3: 2.0, 4: -100.0}}
