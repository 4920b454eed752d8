"""What holds for every trace and for every text.

The quick run tries a few thousand texts. A long one:

    SIFTHINKER_FUZZ_EXAMPLES=100000 pytest -m "slow or not slow" tests/policy/test_trace_properties.py

The million of docs/trust.md goes through the same `check`, in pieces that can be gathered over several runs.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sifthinker.policy.boxes import BoxSpace, is_valid
from sifthinker.policy.errors import TraceError
from sifthinker.policy.trace import (
    AnswerEvent,
    AreaBox,
    AreaEvent,
    Step,
    TextEvent,
    Trace,
    TraceEvent,
    TraceStream,
    last_area,
    last_area_strict,
    parse,
    parse_lenient,
    parse_span,
    render,
    render_boxes,
)

Read = TypeVar("Read")

EXAMPLES = int(os.environ.get("SIFTHINKER_FUZZ_EXAMPLES", "2000"))
FUZZ = settings(
    max_examples=max(50, EXAMPLES // 100), deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)

TAGS = [f"<{mark}{name}>" for name in ("think", "area", "text", "answer") for mark in ("", "/")]
SPACES = list(BoxSpace)
REASONS = {
    "empty", "tag", "outside", "unclosed", "nested", "steps", "json", "keys", "no_box", "number", "range", "order",
    "depth", "answer", "surrogate",
}  # fmt: skip
FRAGMENTS = [
    *TAGS * 3, "<Area>", "< text >", "</ answer>", "<think", "/area>", "<", ">", "</", "<te<text>xt>", "<tool_call>",
    "</tool_call>", "<|im_end|>", "<|box_start|>", "```json", "```", "\n", " ", "\t", "\r", "\x00", "\x1b[0m", "\x85",
    "\u2028", "\ufeff", "\ud800", "\udfff", "\U0001f98a", "ſ", "[", "]", "{", "}", "(", ")", ",", ":", '"', "'", "\\",
    '"bbox_2d"', '"depth"', '"label":"cube"', '"bbox_2d":', '"depth":', "0", "1", "0.5", "0.25", "-0.0", "1e-3",
    "1e999", "-1e999", "NaN", "Infinity", "null", "true", "٣", "½", "0x1F", "9" * 30, "500", "1000", ".", "-", "e",
    "[0.1,0.2,0.3,0.4]", "[0.3,0.4,0.1,0.2]", "[[100,200],[300,400]]", "(1,2),(3,4)", "0.1,0.2,0.3,0.4",
    '{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5}', '[{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5}]',
    '{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5,"depth":0.6}', '[{"bbox_2d":[0.1,0.2,0.3,0.4]}]',
    '<area>[{"bbox_2d":[0,0,1,1],"depth":0.5}]</area><text>the whole</text>', "a red cube", "Answer: red", "red",
]  # fmt: skip


# Traces

unit = st.floats(0, 1, allow_nan=False)


@st.composite
def area_boxes(draw: st.DrawFn, *, decimals: int | None = None) -> AreaBox:
    """A box; with `decimals`, one whose numbers have no more than these."""
    numbers = unit if decimals is None else st.integers(0, 10**decimals).map(lambda units: units / 10**decimals)
    x1, x2 = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
    return AreaBox(bbox_2d=(x1, y1, x2, y2), depth=draw(st.none() | numbers))


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
words |= st.lists(st.sampled_from(["a", " ", "<", ">", "text", "area", "/", "\n", "red"]), max_size=8).map("".join)
said = words.map(str.strip).filter(lambda text: not any(tag in text for tag in TAGS))


def traces(*, decimals: int | None = None) -> st.SearchStrategy[Trace]:
    boxes = st.lists(area_boxes(decimals=decimals), min_size=1, max_size=3)
    steps = st.lists(st.builds(Step, boxes=boxes, text=said), min_size=1, max_size=4)
    return st.builds(Trace, steps=steps, answer=said.filter(bool))


@FUZZ
@given(traces(decimals=3))
def test_reading_a_written_trace_gives_the_trace(trace: Trace) -> None:
    assert parse(render(trace), require_depth=False) == trace


@FUZZ
@given(traces(), st.integers(1, 6))
def test_reading_gives_the_trace_up_to_rounding(trace: Trace, decimals: int) -> None:
    read = parse(render(trace, decimals=decimals), require_depth=False)
    assert [(step.text, len(step.boxes)) for step in read.steps] == [
        (step.text, len(step.boxes)) for step in trace.steps
    ]
    for step, true in zip(read.steps, trace.steps, strict=True):
        for box, wanted in zip(step.boxes, true.boxes, strict=True):
            assert box.bbox_2d == pytest.approx(wanted.bbox_2d, abs=1.01 * 10**-decimals)
            assert box.depth == pytest.approx(wanted.depth, abs=0.51 * 10**-decimals)


@FUZZ
@given(traces(), st.integers(1, 6))
def test_writing_a_read_trace_gives_the_text(trace: Trace, decimals: int) -> None:
    text = render(trace, decimals=decimals)
    assert render(parse(text, require_depth=False), decimals=decimals) == text


@FUZZ
@given(traces(decimals=3), st.sampled_from([" ", "\n", "\r\n\t"]))
def test_white_space_between_the_tags_changes_nothing(trace: Trace, space: str) -> None:
    spaced = render(trace)
    for tag in ("</area>", "<text>", "<area>", "</think>", "<answer>"):
        spaced = spaced.replace(tag, space + tag) if tag in ("<area>", "<text>", "<answer>") else spaced
    assert parse(space + spaced + space, require_depth=False) == trace


@FUZZ
@given(
    st.lists(area_boxes(), min_size=1, max_size=3),
    st.sampled_from(list(BoxSpace)),
    st.tuples(st.integers(20, 4000), st.integers(20, 4000)),
)
def test_boxes_written_in_a_space_are_read_back_from_it(
    boxes: list[AreaBox], space: BoxSpace, size: tuple[int, int]
) -> None:
    area = render_boxes(boxes, space=space, image_size=size, resized_size=size)
    back, problems = last_area(f"<area>{area}</area>", space=space, image_size=size, resized_size=size)
    step = 1 / min(size) if space in (BoxSpace.PIXEL, BoxSpace.RESIZED) else 0.001 * max(size) / min(size)
    # Half a step from rounding, and a whole one where a flat box was widened.
    assert [box.bbox_2d for box in back] == [pytest.approx(box.bbox_2d, abs=1.51 * step) for box in boxes]
    assert not any("left out" in problem for problem in problems)


# Texts


def made_text(rng: random.Random) -> str:
    """A text that is, or nearly is, or hardly is a trace."""
    if rng.random() < 0.3:
        return "".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 25)))
    text = render(made_trace(rng), decimals=rng.randrange(1, 5))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 0, 1, 2, 5, 20)))
        change = rng.random()
        if change < 0.4:
            new = rng.choice(FRAGMENTS)
        elif change < 0.5:
            new = chr(rng.randrange(0x110000))
        elif change < 0.6:
            new = text[start:end] * 2
        elif change < 0.7:
            cut = rng.randrange(len(text) + 1)
            new = text[cut : cut + 30]
        else:
            new = ""
        text = text[:start] + new + text[end:]
    return text


def made_trace(rng: random.Random) -> Trace:
    def box() -> AreaBox:
        x1, y1 = rng.uniform(0, 0.8), rng.uniform(0, 0.8)
        depth = rng.random() if rng.random() < 0.8 else None
        return AreaBox(bbox_2d=(x1, y1, rng.uniform(x1 + 0.01, 1), rng.uniform(y1 + 0.01, 1)), depth=depth)

    steps = [
        Step(
            boxes=[box() for _ in range(rng.choice((1, 1, 2, 3)))],
            text=rng.choice(("", "a cube", "1 < 2", "a\nb", "<te")),
        )
        for _ in range(rng.choice((1, 1, 2, 3)))
    ]
    return Trace(steps=steps, answer=rng.choice(("red", "0.5", "[0.1,0.2,0.3,0.4]", "a <b> c")))


def streamed(text: str, rng: random.Random, space: BoxSpace = BoxSpace.UNIT) -> list[TraceEvent]:
    stream = TraceStream(space=space, image_size=(64, 48), resized_size=(56, 56))
    events: list[TraceEvent] = []
    at = 0
    while at < len(text):
        size = rng.choice((1, 2, 5, 11, 40))
        events += stream.feed(text[at : at + size])
        at += size
    return events + stream.close()


def events_of(trace: Trace) -> list[TraceEvent]:
    events: list[TraceEvent] = []
    for index, step in enumerate(trace.steps):
        events += [AreaEvent(index, step.boxes), TextEvent(index, step.text)]
    return [*events, AnswerEvent(trace.answer)]


CONTROL = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - set("\t\n\r")


def shown_safely(text: str) -> bool:
    """Whether a text can be shown and written anywhere."""
    return not any(tag in text for tag in TAGS) and is_tame(text)


def is_tame(text: str) -> bool:
    """Whether a text holds nothing that the lenient readers replace."""
    return not any(character in CONTROL or "\ud800" <= character <= "\udfff" for character in text)


def accepted(read: Callable[[], Read], text: str) -> Read | None:
    """What a strict reader makes of the text, None when it refuses as it should."""
    try:
        return read()
    except TraceError as error:
        problem = error
    assert problem.reason in REASONS
    assert 0 <= problem.offset <= len(text)
    return None


def check(text: str, rng: random.Random) -> None:
    """All that holds for any text."""
    tame = is_tame(text)
    strict = accepted(lambda: parse(text, require_depth=False), text)
    if strict is not None:
        written = render(strict, decimals=9)
        assert render(parse(written, require_depth=False), decimals=9) == written

    trace, problems = parse_lenient(text)
    if tame:
        assert (strict is None) == bool(problems)
        assert strict is None or strict == trace
    check_recovered(trace)

    events = streamed(text, rng)
    whole = TraceStream(image_size=(64, 48))
    assert events == whole.feed(text) + whole.close(), "the events depend on where the text is cut"
    if strict is not None and tame:
        assert events == events_of(strict)

    span = parse_span(text)
    check_recovered(Trace(steps=list(span.steps), answer=span.answer or ""))
    assert span.answer != ""
    assert not (span.boxes and span.answer)

    boxes, problems = last_area(text)
    assert boxes or problems
    last = accepted(lambda: last_area_strict(text, require_depth=False), text)
    assert last is None or not tame or boxes == last

    if rng.random() < 0.7:  # the other spaces differ in arithmetic alone
        return
    space = rng.choice(SPACES)
    check_recovered(parse_lenient(text, space=space, image_size=(64, 48), resized_size=(56, 56))[0])
    parse_span(text, space=space, image_size=(64, 48), resized_size=(56, 56))
    last_area(text, space=space, image_size=(64, 48), resized_size=(56, 56))
    streamed(text, rng, space)


def check_recovered(trace: Trace) -> None:
    """What is recovered can be shown and written, whatever it came from."""
    for step in trace.steps:
        assert step.boxes
        assert all(is_valid(box.bbox_2d) and (box.depth is None or 0 <= box.depth <= 1) for box in step.boxes)
        assert shown_safely(step.text)
    assert shown_safely(trace.answer)
    if trace.steps and trace.answer:
        again = parse(render(trace, decimals=9), require_depth=False)
        assert [step.text for step in again.steps] == [step.text.strip() for step in trace.steps]
        assert again.answer == trace.answer.strip()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(4))
def test_no_nearly_trace_brings_a_parser_down(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(EXAMPLES // 4):
        text = made_text(rng)
        try:
            check(text, rng)
        except Exception as error:
            raise AssertionError(f"on the text {text!r}") from error


@FUZZ
@given(st.text(st.characters()) | st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join), st.integers(0, 99))
def test_no_text_brings_a_parser_down(text: str, seed: int) -> None:
    check(text, random.Random(seed))


# Time

HOSTILE = {
    "opening marks": "<",
    "opening marks and spaces": "<   ",
    "white space": " ",
    "wide white space": "\u2003",
    "brackets": "[",
    "objects": '[{"bbox_2d":[',
    "digits": "1",
    "signs": "-",
    "quotes": '"',
    "escapes": '"\\',
    "open areas": "<area>",
    "closed areas": "</area>",
    "areas of lists": "<area>[[0.5,0.2,0.3,0.4]]</area>",
    "areas with NaN": '<area>[{"bbox_2d":[0.1,0.2,0.3,NaN],"depth":0.5}]</area>',
    "proper areas": '<area>[{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5}]</area><text>a</text>',
    "texts": "<text>a</text>",
    "all tags": "<area>x<text>y</answer><think>",
    "nearly lists of four": "[0.1,0.2,0.3,",
    "nearly pairs of points": "[[1,2],[3,",
    "long numbers": "[" + "1" * 59 + ",",
    "spaced lists": "[" + " " * 29,
    "lists in prose": "[0.1,0.2,0.3,0.4] so ",
    "objects in prose": '{"bbox_2d":[0.1,0.2,0.3,0.4],"label":"x"} and ',
    "unclosed objects": "{[0.1,0.2,0.3,0.4]",
    "labels": '{[0.1,0.2,0.3,0.4]"label":"',
    "depths": '"depth":',
    "fences": "```json ",
    "template tokens": "<|a",
    "answer answer": "answer ",
    "stars": "*",
    "lines": "a\n",
    "control characters": "\x00",
    "surrogates": "\ud800",
}
OPENINGS = ["", "<think>", '<think><area>[{"bbox_2d":[0.', "<think><area>[", "<answer>", '{[0.1,0.2,0.3,0.4]"label":']


def streamed_in_fours(text: str) -> None:
    stream = TraceStream()
    for at in range(0, len(text), 4):
        stream.feed(text[at : at + 4])
    stream.close()


def parsed(text: str) -> None:
    with contextlib.suppress(TraceError):
        parse(text)


READERS: list[Callable[[str], object]] = [parsed, parse_lenient, parse_span, last_area, streamed_in_fours]


def slowest(size: int, openings: list[str]) -> tuple[float, str]:
    """The longest processor time that a reader took over a hostile text of `size` characters."""
    worst = (0.0, "")
    for name, unit_text in HOSTILE.items():
        for opening in openings:
            text = (opening + unit_text * (size // len(unit_text) + 1))[:size]
            for reader in READERS:
                taken = min(timed(reader, text), timed(reader, text)) if size < 10**6 else timed(reader, text)
                if taken > 1:
                    taken = min(taken, timed(reader, text))  # the machine may have been busy
                worst = max(worst, (taken, f"{reader.__name__} on {name} after {opening!r}"))
    return worst


def timed(reader: Callable[[str], object], text: str) -> float:
    started = time.process_time()
    reader(text)
    return time.process_time() - started


def test_time_is_in_proportion_to_length() -> None:
    taken, where = slowest(20_000, OPENINGS[:1])
    assert taken < 0.2, f"{taken:.2f} s for 20 kB: {where}"


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_megabyte_of_hostile_text_takes_under_a_second() -> None:
    taken, where = slowest(1_000_000, OPENINGS)
    assert taken < 1, f"{taken:.2f} s: {where}"
