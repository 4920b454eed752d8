"""What comes from models and files, in great numbers: texts, pictures, policies that behave badly."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import resource
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from scripted import ScriptedPolicy, area
from trust.ledger import Piece, Row

from sifthinker.agent import create_focus_agent
from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.base import Completion, PolicyProfile
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import PolicyTimeout
from sifthinker.policy.messages import Message, count_images
from sifthinker.policy.native import NativeDialect
from sifthinker.policy.trace import parse

TESTS = Path(__file__).parents[1]
IMAGE = Image.new("RGB", (200, 100), (10, 200, 30))
DEPTH = DepthMap(np.full((50, 100), 0.25, np.float32))


def beside(path: str) -> ModuleType:
    """A test module, by its path."""
    name = "trust_" + path.replace("/", "_").removesuffix(".py")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / path)
        assert spec
        assert spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def texts(number: int, size: int) -> Piece:
    properties = beside("policy/test_trace_properties.py")
    rng = random.Random(f"texts {number}")
    piece = Piece(size)
    for _ in range(size):
        text = properties.made_text(rng)
        try:
            properties.check(text, rng)
        except Exception as error:  # noqa: BLE001  # any exception is what is looked for
            piece.failures.append(f"{type(error).__name__} on {text!r}")
    return piece


TOOL_FLOODS = {
    "tool keys": '"tool"',
    "open objects with tools": '{"bbox_2d":[0,0,1,1],"tool":"a","args":{',
    "calls": '<area>[{"bbox_2d":[0,0,1,1],"tool":"rotate","args":{"degrees":90}}]</area>',
    "open braces": '{"tool"',
    "commas before tools": ', "tool" : ',
    "strings that never close": '{"tool":"a","args":{"k":"',
}


def floods() -> list[tuple[str, str]]:
    """Every kind of hostile text: its name, and what it repeats."""
    return [*beside("policy/test_trace_properties.py").HOSTILE.items(), *TOOL_FLOODS.items()]


def hostile(number: int, size: int) -> Piece:
    """One kind of flood, `size` characters of it, through every parser, after every opening."""
    properties = beside("policy/test_trace_properties.py")
    name, unit = floods()[number]
    readers: list[Callable[[str], Any]] = [*properties.READERS]
    for space in (BoxSpace.UNIT, BoxSpace.PERMILLE):
        dialect = NativeDialect(PolicyProfile(name="x", dialect="native", box_space=space))
        readers += [
            partial(dialect.read_span, image_size=(64, 48)),
            partial(dialect.read_completion, image_size=(64, 48)),
            partial(dialect.read_completion, image_size=(64, 48), mode="direct"),
        ]
    piece = Piece(peaks={"slowest, s": 0.0})
    for opening in (*properties.OPENINGS, '{"tool":"a"} '):
        text = (opening + unit * (size // len(unit) + 1))[:size]
        for reader in readers:
            taken = properties.timed(reader, text)
            if taken > 0.5:
                taken = min(taken, properties.timed(reader, text))  # the machine may have been busy
            piece.tried += 1
            piece.peaks["slowest, s"] = max(piece.peaks["slowest, s"], round(taken, 2))
            if taken >= 1:
                piece.failures.append(f"{taken:.2f} s for {name} after {opening!r}: {reader}")
    return piece


def pictures(number: int, size: int) -> Piece:
    fuzz = beside("nodes/test_images_fuzz.py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = fuzz.run(max(1, size // 10), seed=1000 + 2 * number)  # what is taken once is taken here
        before = highest()
        outcomes += fuzz.run(size - size // 10, seed=1001 + 2 * number)
    grown = max(0, round((highest() - before) / 2**20))
    piece = Piece(outcomes.total(), sums={"loaded": outcomes["loaded"]}, peaks={"memory grown by at most, MiB": grown})
    if grown >= 100:
        piece.failures.append(f"memory grew by {grown} MiB")
    return piece


def highest() -> int:
    """The most memory that this process had since it was asked last, in bytes; where that is not told, ever."""
    with contextlib.suppress(OSError):
        told = Path("/proc/self/status").read_text(encoding="ascii")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return 1024 * int(told.split("VmHWM:")[1].split()[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# Policies that behave badly


def _misbehaving(rng: random.Random) -> Callable[[Sequence[Message]], str | Completion]:
    """A policy's manner: never stopping, repeating itself, the same box, nothing, a flood, silence, or all of these."""
    boxes = [tuple(sorted(rng.random() for _ in range(2))) for _ in range(2)]
    same = area((boxes[0][0], boxes[1][0], boxes[0][1] + 0.001, boxes[1][1] + 0.001))

    def elsewhere() -> str:
        x, y = rng.uniform(0, 0.6), rng.uniform(0, 0.6)
        return area(
            *[(x, y, x + rng.uniform(0.01, 0.4), y + rng.uniform(0.01, 0.4)) for _ in range(rng.choice((1, 1, 9)))]
        )

    manners: list[Callable[[], str | Completion]] = [
        lambda: f"<text>more</text>{elsewhere()}",
        lambda: same,
        lambda: f"<think>{same}<text>again</text>" * 3,
        lambda: "",
        lambda: "<area>[]</area>",
        lambda: "on and on " * rng.choice((10, 10_000)),
        lambda: Completion("<think>" + "blah " * 40_000, completion_tokens=10),
        lambda: Completion("<think><area>", finish_reason="length", completion_tokens=4000),
        lambda: Completion("hm", finish_reason="deadline"),
        lambda: "\ud800\x00\x1b[2J",
        lambda: '<area>[{"bbox_2d":[NaN,1e999,-5,2],"depth":7}]</area>',
        lambda: "<answer></answer>",
        lambda: "<answer>late</answer>" if rng.random() < 0.3 else elsewhere(),
        lambda: '<area>[{"bbox_2d":[0,0,1,1],"tool":"no_such","args":{"a":' + "[" * 500 + "}}]</area>",
    ]
    some = rng.sample(manners, rng.randint(1, 4))

    def say(messages: Sequence[Message]) -> str | Completion:
        if rng.random() < 0.02:
            raise PolicyTimeout("The server did not answer within 60 s.")
        return rng.choice(some)()

    return say


def policies(number: int, size: int) -> Piece:
    piece = Piece(size)
    for one in range(number * size, (number + 1) * size):
        failure = misbehaved(one)
        piece.failures += [failure] if failure else []
    return piece


def misbehaved(number: int) -> str | None:
    """A run with one policy that behaves badly; what was wrong with how it ended."""
    rng = random.Random(number)
    mode = rng.choice(("direct", "internal", "tools", "adaptive"))
    dialect = rng.choice(("sif", "native"))
    policy = ScriptedPolicy(_misbehaving(rng), dialect=dialect)
    steps, images = rng.randint(0, 5), rng.randint(2, 8)
    agent = create_focus_agent(policy, depth=DEPTH, mode=mode, max_steps=steps, max_images=images)
    try:
        result = agent.ask("What colour?", image=IMAGE)
        _true(result, policy, mode, dialect, steps=steps, images=images)
    except PolicyTimeout:
        return None  # a silent server is an error where nothing was said before
    except Exception as error:  # noqa: BLE001  # any other exception is what is looked for
        return f"number {number} ({mode}, {dialect}): {type(error).__name__} {' '.join(str(error).split())[:300]}"
    return None


def _true(result: Any, policy: ScriptedPolicy, mode: str, dialect: str, *, steps: int, images: int) -> None:
    """The run kept to its budgets and says what happened."""
    parts = 2 if mode == "adaptive" else 1
    assert policy.calls <= parts * 3 + steps + 1, (policy.calls, steps)
    assert max(count_images(heard) for heard in policy.heard) <= images
    assert len(result.crops) <= images
    assert len(result.calls) <= policy.calls
    assert len(result.trace_text.encode()) <= (policy.calls + 1) * 32_768
    assert result.answer or any("answer" in warning for warning in result.warnings), result.warnings
    json.dumps(result.to_dict()).encode()
    if result.valid_trace and mode != "direct":
        assert parse(result.trace_text, require_depth=dialect == "sif").answer.strip() == result.answer


def rows() -> list[Row]:
    """The checks, with the counts of the long run."""
    flood = "A megabyte of hostile text, through every parser: each in under a second of processor time"
    return [
        Row("inputs", "texts", "Texts that are nearly traces, through every parser", "texts", 1_000_000, 5000, texts),
        Row("inputs", "hostile", flood, "readings", 1_000_000 * len(floods()), 1_000_000, hostile),
        Row(
            "inputs", "pictures", "Damaged picture files end in a picture or in the declared error, in bounded memory",
            "files", 200_000, 10_000, pictures,
        ),
        Row(
            "inputs", "policies",
            "Policies that never stop, repeat themselves, flood or say nothing: the run ends in its budget, truly told",
            "runs", 20_000, 500, policies,
        ),
    ]  # fmt: skip
