"""The focus loop: each turn the conversation grows by a crop; the KV cache encodes the crop, a plain loop everything.

The simple version is what one would write with transformers alone: `generate` on the whole conversation, turn after
turn. Between the two stands our own engine with its prefix cache off.

Sizes are those of a question to Qwen3-VL about a photograph of 1024 × 768: RGB and depth are 768 tokens each, the four
crops 704 (by its processor's own arithmetic); a turn is 72 tokens (an area with one box and a sentence, where its
tokenizer takes each digit by itself). The text of the opening turn, in bytes here, is cut to its 210 tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from performance.figures import Figure, number
from performance.measure import rounds
from performance.worlds import photo, tiny_qwen3_vl

from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import ImagePart, Message, message

STEPS = 4
TURN_TOKENS = 72
OPENING = "Which of the two is closer to the camera? ".ljust(210, ".")
CROPS = ((576, 448), (512, 384), (384, 320), (448, 320))


@dataclass
class Run:
    """What a run of the loop came to."""

    said: list[str] = field(default_factory=list)
    encoded: list[int] = field(default_factory=list)
    """Prompt tokens that went through the model, of each turn."""
    first: list[float] = field(default_factory=list)
    """Seconds before the first token of each turn."""
    seconds: float = 0.0


def figures(repeat: int, *, photo_size: tuple[int, int] = (1024, 768)) -> Iterator[Figure]:
    """See `performance.command.LINES`."""
    rgb, depth = photo(photo_size, 1), photo(photo_size, 2)
    crops = [photo(size, 3 + index) for index, size in enumerate(CROPS)]
    with TemporaryDirectory() as folder:
        ours = tiny_qwen3_vl(Path(folder), depth_px=None, crop_min_px=None)  # the simple version resizes nothing
        uncached = LocalPolicy(ours.model, ours.processor, ours.profile, cache_bytes=0)
        found = rounds(
            repeat,
            lambda: our_loop(ours, rgb, depth, crops),
            lambda: plain_loop(ours, rgb, depth, crops),
            lambda: our_loop(uncached, rgb, depth, crops),
            lambda: one_completion(ours, rgb, depth, crops),
        )
    runs = [(row[0], row[1], row[2]) for row in found]
    assert all(len({tuple(run.said) for run in row}) == 1 for row in runs), "the three loops should say the same"
    tokens = f"{STEPS} focus steps: tokens encoded"
    a, b = sum(runs[0][0].encoded), sum(runs[0][1].encoded)
    against = "`generate` on the whole conversation each turn"
    yield Figure(
        tokens, [sum(p.encoded) / sum(o.encoded) for o, p, _ in runs], against, at_least=3, note=f"{b:,} and {a:,}"
    )
    for index, name in ((1, against), (2, "our engine, its cache off")):
        plain, cached = (_median([sum(row[i].first[1:]) for row in runs]) / STEPS for i in (index, 0))
        yield Figure(
            "time before the first token, turns 2 to 5 together",
            [sum(row[index].first[1:]) / sum(row[0].first[1:]) for row in runs],
            name,
            at_least=2.5,
            note=f"against {name}: {plain * 1000:.0f} and {cached * 1000:.0f} ms a turn",
        )
    each = [_median([row[1].first[turn] / row[0].first[turn] for row in runs]) for turn in range(STEPS + 1)]
    yield Figure(
        "time before the first token, the turn that gains least (2 to 5)",
        [min(p / o for o, p in zip(row[0].first[1:], row[1].first[1:], strict=True)) for row in runs],
        against,
        at_least=2.5,
        note="turn by turn " + ", ".join(f"{value:.1f}" for value in each) + " (the first has nothing to reuse)",
    )
    whole, single = (_median([row[i].seconds for row in found]) for i in (0, 3))
    yield Figure(
        "whole run, five turns",
        [row[0].seconds / row[3].seconds for row in found],
        f"one completion of {TURN_TOKENS * (STEPS + 1)} tokens over the same six pictures",
        at_most=1.15,
        note=f"{number(whole)} and {number(single)} s",
    )
    yield Figure("whole run, five turns", [row[1].seconds / row[0].seconds for row in found], against)


def our_loop(policy: LocalPolicy, rgb: Any, depth: Any, crops: Sequence[Any]) -> Run:
    """The loop on our engine, from an empty cache."""
    forget(policy)
    run, messages = Run(), opening(rgb, depth)
    began = time.perf_counter()
    for crop in (*crops, None):
        asked = time.perf_counter()
        came: list[float] = []
        completion = policy.generate(
            messages, max_new_tokens=TURN_TOKENS, on_token=lambda _, came=came: came.append(time.perf_counter())
        )
        run.first.append(came[0] - asked)
        run.encoded.append(completion.prompt_tokens - completion.cached_tokens)
        run.said.append(completion.text)
        messages = following(messages, completion.text, crop)
    run.seconds = time.perf_counter() - began
    return run


def plain_loop(policy: LocalPolicy, rgb: Any, depth: Any, crops: Sequence[Any]) -> Run:
    """The loop with transformers alone: template, processor and `generate` on everything, each turn."""
    model, processor = policy.model, policy.processor
    run, messages = Run(), opening(rgb, depth)
    began = time.perf_counter()
    for crop in (*crops, None):
        asked = time.perf_counter()
        chat = [{"role": turn.role, "content": [_plain(part) for part in turn.parts]} for turn in messages]
        inputs = processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        clock = _Clock()
        ids = model.generate(**inputs, max_new_tokens=TURN_TOKENS, do_sample=False, streamer=clock)
        length = inputs["input_ids"].shape[1]
        said = processor.tokenizer.decode(ids[0, length:], skip_special_tokens=True)
        run.first.append(clock.times[1] - asked)  # the first call brings the prompt
        run.encoded.append(length)
        run.said.append(said)
        messages = following(messages, said, crop)
    run.seconds = time.perf_counter() - began
    return run


def one_completion(policy: LocalPolicy, rgb: Any, depth: Any, crops: Sequence[Any]) -> Run:
    """One completion as long as all turns together, over all pictures at once, from an empty cache."""
    forget(policy)
    [first] = opening(rgb, depth)
    messages = [Message("user", (*first.parts, *(ImagePart(crop, "crop") for crop in crops)))]
    began = time.perf_counter()
    completion = policy.generate(messages, max_new_tokens=TURN_TOKENS * (STEPS + 1))
    return Run([completion.text], [completion.prompt_tokens], [], time.perf_counter() - began)


def opening(rgb: Any, depth: Any) -> list[Message]:
    """The first turn: RGB, depth, question."""
    return [message("user", "RGB: ", ImagePart(rgb), "\nDepth: ", ImagePart(depth, "depth"), f"\n{OPENING}")]


def following(messages: list[Message], said: str, crop: Any) -> list[Message]:
    """The conversation with what was said, and the crop that was asked for (None: it has ended)."""
    if crop is None:
        return messages
    reply = message("user", "<tool_response>[0.12,0.30,0.52,0.66] 0.41", ImagePart(crop, "crop"), "</tool_response>")
    return [*messages, message("assistant", said), reply]


def forget(policy: LocalPolicy) -> None:
    """Empty the policy's caches: of keys and values, and of prepared pictures."""
    policy.forget()
    policy.encoder._prepared.clear()


class _Clock:
    """A streamer for `generate` that notes when each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is held back."""


def _plain(part: Any) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": "image", "image": part.image}
    return {"type": "text", "text": part.text}


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
