"""Tiny models, built once a session, and photographs made of noise."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import ImagePart, Message, message


def _beside(name: str) -> ModuleType:
    """A helper module of this folder: with importlib mode a test cannot import its neighbour by name."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec
        assert spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a family, built when first asked for."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(family: str) -> Path:
        if not (root / family).exists():
            first, more = _beside("tiny_models"), _beside("tiny_models_more")
            build = getattr(first, f"build_{family}", None) or getattr(more, f"build_{family}")
            build(root / family)
        return root / family

    return folder


@pytest.fixture(scope="session")
def tiny_policy(tiny_folder: Callable[[str], Path]) -> Callable[..., LocalPolicy]:
    """A policy on a tiny model of a family, with options of `LocalPolicy.from_pretrained`."""

    def policy(family: str, **options: object) -> LocalPolicy:
        return LocalPolicy.from_pretrained(tiny_folder(family), device="cpu", **options)

    return policy


@pytest.fixture(scope="session")
def shared_policy(tiny_policy: Callable[..., LocalPolicy]) -> Callable[[str], LocalPolicy]:
    """One policy of a family for all tests that change nothing about it."""
    return functools.cache(tiny_policy)


@pytest.fixture(scope="session")
def greedy() -> Callable[..., Any]:
    """`greedy(policy, messages, count)`: the ids that transformers' own `generate` gives, and its inputs."""
    return reference


def reference(policy: LocalPolicy, messages: list[Message], count: int) -> tuple[Any, Any]:
    """Greedy decoding by transformers alone, from its own way of encoding."""
    chat = [{"role": turn.role, "content": [_plain(part, policy.profile) for part in turn.parts]} for turn in messages]
    inputs = policy.processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    suppressed = sorted(policy._control.never_generated)
    ids = policy.model.generate(**inputs, max_new_tokens=count, do_sample=False, suppress_tokens=suppressed)
    return ids[0, inputs["input_ids"].shape[1] :], inputs


def _plain(part: Any, profile: PolicyProfile) -> dict[str, Any]:
    if not isinstance(part, ImagePart):
        return {"type": "text", "text": part.text}
    size = profile.shown_size(part.image.size, part.kind)
    larger = max(size) > max(part.image.size)
    image = part.image.resize(size, Image.Resampling.BICUBIC if larger else Image.Resampling.LANCZOS)
    return {"type": "image", "image": part.image if size == part.image.size else image}


@pytest.fixture
def asked() -> Callable[..., list[Message]]:
    """A question about a noisy picture: `asked("text", size=(w, h), mark=n)`; each mark is another picture."""

    def conversation(text: str = "What is this?", size: tuple[int, int] = (90, 70), mark: int = 0) -> list[Message]:
        return [message("user", "Look: ", ImagePart(noise(size, mark)), text)]

    return conversation


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A picture of noise: `picture((w, h), mark)`."""
    return noise


@pytest.fixture(scope="session")
def stub() -> ModuleType:
    """The module of the stub server: `stub.stream("text")` and the other acts."""
    return _beside("stub_server")


@pytest.fixture
def serve(stub: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts stub servers that answer with the given acts, and stops them at the end; retries wait but a moment."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.02)
    servers: list[Any] = []

    def start(*acts: Any) -> Any:
        servers.append(stub.StubServer(*acts))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def noise(size: tuple[int, int] = (90, 70), mark: int = 0) -> Image.Image:
    """The same picture for the same size and mark."""
    import numpy as np

    pixels = np.random.default_rng(mark).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
