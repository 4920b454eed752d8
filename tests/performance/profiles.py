"""Where the time goes, before and after: the plain way and ours under cProfile, by processor time on one thread.

`python tests/performance --profile NAME` prints the table of one of `PROFILES`. A profiler makes Python dearer than it
is, and matrices not: the shares say where to look, the table of the benchmark says how much was won.
"""

from __future__ import annotations

import cProfile
import inspect
import pstats
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from sifthinker.policy.local import LocalPolicy


@dataclass(frozen=True)
class Profile:
    """What a run came to.

    Attributes:
        stats: of the profiled thread.
        seconds: of processor time, all threads.
    """

    stats: pstats.Stats
    seconds: float

    def of(self, *functions: Callable[..., Any]) -> tuple[int, float]:
        """Calls of these functions and seconds in them, what they call included."""
        found = [self._entry(function) for function in functions]
        return sum(calls for calls, _ in found), sum(seconds for _, seconds in found)

    def _entry(self, function: Callable[..., Any]) -> tuple[int, float]:
        code = inspect.unwrap(function).__code__
        key = (code.co_filename, code.co_firstlineno, code.co_name)
        _, calls, _, seconds, _ = self.stats.stats.get(key, (0, 0, 0.0, 0.0, {}))  # type: ignore[attr-defined]
        return calls, seconds


Row = tuple[str, Sequence[Callable[..., Any]]]
"""What a row is called, and the functions it sums; none: all that the others leave of the whole. A name that begins
with a dash is part of the row before it."""


def table(names: tuple[str, str], profiles: tuple[Profile, Profile], rows: Sequence[Row]) -> str:
    """Both ways side by side, as Markdown."""
    lines = [f"| where | {names[0]} | {names[1]} |", "|---|---|---|"]
    taken = [0.0, 0.0]
    for name, functions in rows:
        cells = []
        for index, profile in enumerate(profiles):
            calls, seconds = profile.of(*functions)
            if not functions:
                cells.append(f"{_seconds(profile.seconds - taken[index])}")
                continue
            if not name.startswith("–"):
                taken[index] += seconds
            cells.append(f"{_seconds(seconds)} in {calls:,} calls" if calls else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    whole = " | ".join(f"**{_seconds(profile.seconds)}**" for profile in profiles)
    return "\n".join([*lines, f"| **whole** | {whole} |"])


def here(work: Callable[[], object]) -> Profile:
    """Work done in the calling thread."""
    profile, began = cProfile.Profile(time.thread_time), time.process_time()
    profile.runcall(work)
    return Profile(pstats.Stats(profile), time.process_time() - began)


def in_forward_thread(policy: LocalPolicy, work: Callable[[], object]) -> Profile:
    """What the policy's forward thread does meanwhile; the callers' threads are in `seconds` only."""
    profile, engine = cProfile.Profile(time.thread_time), policy._engine
    step = engine.step
    began = time.process_time()
    with patch.object(engine, "step", lambda: profile.runcall(step)):
        work()
    return Profile(pstats.Stats(profile), time.process_time() - began)


def focus() -> str:
    """Five turns of the focus loop: `generate` on everything against the engine with its cache."""
    from performance.lines import focus as line
    from performance.worlds import photo, tiny_qwen3_vl
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, Qwen3VLVisionModel
    from transformers.processing_utils import ProcessorMixin

    from sifthinker.policy.decoding import pick

    pictures = photo((1024, 768), 1), photo((1024, 768), 2)
    crops = [photo(size, 3 + index) for index, size in enumerate(line.CROPS)]
    with TemporaryDirectory() as folder:
        policy = tiny_qwen3_vl(Path(folder))
        line.our_loop(policy, *pictures, crops[:1])
        line.plain_loop(policy, *pictures, crops[:1])
        before = here(lambda: line.plain_loop(policy, *pictures, crops))
        after = in_forward_thread(policy, lambda: line.our_loop(policy, *pictures, crops))
    rows: list[Row] = [
        ("vision tower", [Qwen3VLVisionModel.forward]),
        ("language model, prefill and a token in each pass", [Qwen3VLTextModel.forward]),
        ("chat template, text and pictures to tensors", [ProcessorMixin.apply_chat_template]),
        ("picking tokens", [pick]),
        ("all else (ours: template and pictures too)", []),
    ]
    return table(("`generate` on everything each turn", "the engine with its cache"), (before, after), rows)


def batching() -> str:
    """Sixteen questions in mode tools: one after another against at once."""
    from performance.lines import batching as line
    from performance.worlds import block_questions, embedded
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from sifthinker.agent import create_focus_agent
    from sifthinker.policy.batch import Batch, _RowsLayer
    from sifthinker.policy.decoding import pick
    from sifthinker.policy.kv_cache import GrowingLayer
    from sifthinker.policy.prefill import Prefill
    from sifthinker.policy.running import Running

    policy, asked = embedded(max_batch=line.QUESTIONS), block_questions(line.QUESTIONS)
    agent = create_focus_agent(policy, mode="tools")
    line.at_once(policy, agent, asked)
    before = in_forward_thread(policy, lambda: line.in_turn(policy, agent, asked))
    after = in_forward_thread(policy, lambda: line.at_once(policy, agent, asked))
    rows: list[Row] = [
        ("prefill", [Prefill.run]),
        ("decoding", [Running._decode]),
        ("– of both, attention", [sdpa_attention_forward]),
        ("– of both, matrices", [torch.nn.Linear.forward]),
        ("– of both, writing tokens into the caches", [_RowsLayer.update, GrowingLayer.update]),
        ("– of both, picking tokens", [pick]),
        ("turns into the batch and out of it", [Running._join, Running._leave]),
        ("– of it copying rows", [Batch.join, Batch.leave]),
        ("all else: graph, template, pictures", []),
    ]
    return table(("one after another", "at once"), (before, after), rows)


def rewards() -> str:
    """All four rewards of 48 completions: the depth picture read by nearest neighbours for each, against depth maps."""
    from performance.lines import rewards as line

    from sifthinker.nodes.depth import DepthMap
    from sifthinker.training.rewards import answer_reward, depth_reward, format_reward, grounding_reward

    pixels = line._arrays(480, 640)
    line._decoding(pixels[0])

    def published() -> None:
        for one in pixels:
            for _ in range(line.GROUP):
                line._decoding(one)
        line.reward_all([DepthMap(one) for one in pixels], boxes=2, seed=0)

    before = here(published)
    after = here(lambda: line.reward_all([DepthMap(one) for one in pixels], boxes=2, seed=1))
    rows: list[Row] = [
        ("depth pictures read by the nearest of 256 colours", [line._decoding]),
        ("format, and reading each completion for all four", [format_reward]),
        ("answer", [answer_reward]),
        ("grounding", [grounding_reward]),
        ("depth", [depth_reward]),
        ("all else: making the completions and the maps", []),
    ]
    return table(("a picture read for each completion", "depth maps"), (before, after), rows)


def starting() -> str:
    """What starting imports beyond what it is held against."""
    from performance.import_times import tables

    return tables()


PROFILES = {"focus": focus, "batching": batching, "rewards": rewards, "starting": starting}


def printed(name: str) -> str:
    """The table of a profile, taken on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return PROFILES[name]()
    finally:
        torch.set_num_threads(threads)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.1f} ms"
