"""The incremental parser: parts are told as they close, wherever the text is cut."""

from __future__ import annotations

import pytest

from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import UsageError
from sifthinker.policy.trace import AnswerEvent, AreaBox, AreaEvent, TextEvent, TraceEvent, TraceStream

CUBE = AreaBox(bbox_2d=(0.1, 0.2, 0.3, 0.4), depth=0.5)
AREA = '<area>[{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5}]</area>'
TRACE = f"<think>{AREA}<text>a cube</text>\n{AREA}<text>1 < 2</text></think><answer>red</answer>"
EVENTS = [AreaEvent(0, [CUBE]), TextEvent(0, "a cube"), AreaEvent(1, [CUBE]), TextEvent(1, "1 < 2"), AnswerEvent("red")]


def streamed(text: str, size: int = 1, stream: TraceStream | None = None) -> list[TraceEvent]:
    stream = stream or TraceStream()
    events = [event for at in range(0, len(text), size) for event in stream.feed(text[at : at + size])]
    return [*events, *stream.close()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 1000])
def test_the_parts_come_however_the_text_is_cut(size: int) -> None:
    assert streamed(TRACE, size) == EVENTS


def test_a_part_is_told_as_soon_as_its_closing_tag_is_there() -> None:
    stream = TraceStream()
    assert stream.feed("<think>" + AREA.removesuffix(">")) == []
    assert stream.feed(">") == [AreaEvent(0, [CUBE])]
    assert stream.feed("<text>a cu") == []
    assert stream.feed("be</text") == []
    assert stream.feed("></think><answer>red") == [TextEvent(0, "a cube")]
    assert stream.feed("</answer>") == [AnswerEvent("red")]
    assert stream.close() == []


def test_the_spans_of_tool_mode_are_one_trace() -> None:
    stream = TraceStream()
    assert stream.feed(f"<think>{AREA}") == EVENTS[:1]
    assert stream.feed(f"<text>a cube</text>\n{AREA}") == EVENTS[1:3]
    assert stream.feed("<text>1 < 2</text></think><answer>red</answer>") == EVENTS[3:]


def test_closing_tells_what_stands_open() -> None:
    assert streamed("<think>" + AREA.removesuffix("</area>")) == [AreaEvent(0, [CUBE])]
    assert streamed(f"{AREA}<text>so</te") == [AreaEvent(0, [CUBE]), TextEvent(0, "so</te")]
    assert streamed("<answer>red") == [AnswerEvent("red")]
    assert streamed("<answer> ") == []


def test_after_closing_nothing_is_read() -> None:
    stream = TraceStream()
    stream.close()
    assert stream.feed(TRACE) == []
    assert stream.close() == []


def test_a_part_that_is_not_closed_ends_where_the_next_begins() -> None:
    assert streamed(TRACE.replace("</area>", "").replace("</text>", "").replace("</answer>", "")) == EVENTS


def test_boxes_are_read_leniently_and_in_the_declared_space() -> None:
    area = '<area>```json\n[{"bbox_2d":[100,200,300,400],"depth":0.5,"label":"cube"}]\n```</area>'
    assert streamed(area, stream=TraceStream(space=BoxSpace.PERMILLE)) == [AreaEvent(0, [CUBE])]
    with pytest.raises(UsageError, match="image_size"):
        TraceStream(space=BoxSpace.PIXEL)


def test_an_area_without_a_box_is_passed_over() -> None:
    text = f"<area>[]</area><text>nothing</text>{AREA}<text>a cube</text>"
    assert streamed(text) == [TextEvent(0, "nothing"), AreaEvent(0, [CUBE]), TextEvent(0, "a cube")]


def test_broken_characters_do_not_come_through() -> None:
    assert streamed("<answer>r\x1b\ud800ed</answer>") == [AnswerEvent("r \ufffded")]
