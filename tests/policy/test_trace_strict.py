"""The strict parser and the renderer: what is a trace, what is not and why, and the one way to write it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from sifthinker.policy.boxes import WHOLE, BoxSpace
from sifthinker.policy.errors import TraceError
from sifthinker.policy.trace import (
    AreaBox,
    Step,
    Trace,
    last_area_strict,
    parse,
    render,
    render_boxes,
)

BOX = '{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5}'
AREA = f"<area>[{BOX}]</area>"
STEP = f"{AREA}<text>a cube</text>"
TRACE = f"<think>{STEP}</think><answer>red</answer>"


def area(content: str) -> str:
    """A trace whose one area holds the content."""
    return TRACE.replace(f"[{BOX}]", content)


# What is a trace


def test_a_trace_is_read_into_steps_and_answer() -> None:
    trace = parse(
        '<think><area>[{"bbox_2d":[0,0,1,1],"depth":0.44}]</area><text>The whole table.</text>'
        '<area>[{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.2},{"bbox_2d":[0.5,0.5,0.7,0.9],"depth":1e-05}]</area>'
        "<text>A cube, and a ball.</text></think><answer>the ball</answer>"
    )
    assert [step.text for step in trace.steps] == ["The whole table.", "A cube, and a ball."]
    assert trace.steps[0].boxes == [AreaBox(bbox_2d=WHOLE, depth=0.44)]
    assert trace.steps[1].boxes[1] == AreaBox(bbox_2d=(0.5, 0.5, 0.7, 0.9), depth=1e-05)
    assert trace.answer == "the ball"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TRACE.replace("><", "> \t\r\n<"), id="white space between the tags"),
        pytest.param(area(f" [ \n {BOX.replace(',', ' , ').replace(':', ' : ')} ] "), id="white space in the JSON"),
        pytest.param(area('[{"depth":0.5,"bbox_2d":[0.1,0.2,0.3,0.4]}]'), id="keys in the other order"),
        pytest.param(area('[{"bbox_2d":[1E-1,0.20,3e-1,4.0e-1],"depth":0.5e+0}]'), id="numbers with exponents"),
        pytest.param(TRACE.replace("a cube", " a cube\n").replace("red", "\tred "), id="space inside the tags"),
    ],
)
def test_the_same_trace_written_otherwise(text: str) -> None:
    assert render(parse(text)) == render(parse(TRACE))


@pytest.mark.parametrize(
    "words", ["", "1 < 2 & 3 > 2", "<b>bold</b>", "<TEXT>", "< text>", "日本語 🦊", "a\x00b\x1b[2J", "]}{[", "<area"]
)
def test_a_text_may_hold_anything_but_the_tags(words: str) -> None:
    assert parse(TRACE.replace("a cube", words)).steps[0].text == words.strip()


def test_depth_may_be_left_out_only_where_it_was_not_asked_for() -> None:
    text = area('[{"bbox_2d":[0.1,0.2,0.3,0.4]}]')
    assert parse(text, require_depth=False).steps[0].boxes[0].depth is None
    assert parse(TRACE, require_depth=False) == parse(TRACE)
    with pytest.raises(TraceError) as caught:
        parse(text)
    assert caught.value.reason == "depth"


def test_minus_zero_is_zero() -> None:
    box = parse(area('[{"bbox_2d":[-0.0,-0,1,1],"depth":-0e5}]')).steps[0].boxes[0]
    assert str(box.bbox_2d) == "(0.0, 0.0, 1.0, 1.0)"
    assert str(box.depth) == "0.0"


# What is not, and why

WRONG = [
    ("", "empty", 0),
    (" \n", "empty", 2),
    ("red", "outside", 0),
    ("Sure! " + TRACE, "outside", 0),
    (TRACE + " Bye", "outside", len(TRACE) + 1),
    (TRACE + TRACE, "outside", len(TRACE)),
    (TRACE.replace("<text>", "so <text>"), "outside", len("<think>" + AREA)),
    (TRACE.replace("</think>", "</think>so"), "outside", len(f"<think>{STEP}</think>")),
    ("<answer>red</answer>", "tag", 0),
    (TRACE.replace("</think>", ""), "tag", len(f"<think>{STEP}")),
    (TRACE.replace("<text>a cube</text>", ""), "tag", len("<think>" + AREA)),
    ("<think><text>a</text></think><answer>red</answer>", "tag", 7),
    ("<think></think><answer>red</answer>", "steps", 7),
    ("<think>", "unclosed", 7),
    (f"<think>{STEP}", "unclosed", len(f"<think>{STEP}")),
    (f"<think>{AREA}<text>a cu", "unclosed", len(f"<think>{AREA}<text>a cu")),
    (TRACE.replace("</answer>", ""), "unclosed", len(TRACE) - len("</answer>")),
    ('<think><area>[{"bbox_2d":[0.1', "unclosed", len('<think><area>[{"bbox_2d":[0.1')),
    (TRACE.replace("a cube", "a <text>cube"), "nested", len(f"<think>{AREA}<text>a ")),
    (TRACE.replace("red", "<answer>red"), "nested", len(TRACE) - len("red</answer>")),
    (area("[<area>]"), "nested", 14),
    (area(""), "nested", 13),
    (area("[]"), "no_box", 14),
    (area("[ \n ]"), "no_box", 14),
    (area("red"), "json", 13),
    (area(BOX), "json", 13),
    (area("[[0.1,0.2,0.3,0.4]]"), "json", 14),
    (area(f"[{BOX},]"), "json", 14 + len(BOX) + 1),
    (area(f"[{BOX}{BOX}]"), "json", 14 + len(BOX)),
    (area(f"[{BOX}] so"), "json", 14 + len(BOX) + 2),
    (area(f"```json\n[{BOX}]\n```"), "json", 13),
    (area('[{"bbox_2d":[0.1,0.2,0.3],"depth":0.5}]'), "json", 14 + len('{"bbox_2d":[0.1,0.2,0.3')),
    (area('[{"bbox_2d":[0.1,0.2,0.3,0.4,0.5],"depth":0.5}]'), "json", 14 + len('{"bbox_2d":[0.1,0.2,0.3,0.4')),
    (area("[{}]"), "json", 15),
    (area("[{'bbox_2d':[0.1,0.2,0.3,0.4],'depth':0.5}]"), "json", 15),
    (area('[{"depth":0.5}]'), "keys", 14),
    (area(BOX.replace("depth", "label").join("[]")), "keys", 14 + len('{"bbox_2d":[0.1,0.2,0.3,0.4],')),
    (area(f'[{BOX[:-1]},"depth":0.5}}]'), "keys", 14 + len(BOX)),
    (area(f'[{BOX[:-1]},"bbox_2d":[0.1,0.2,0.3,0.4]}}]'), "keys", 14 + len(BOX)),
    (area(f'[{BOX[:-1]},"label":"x"}}]'), "keys", 14 + len(BOX)),
    (area('[{"bbox_2d":[1.5,0.2,0.3,0.4],"depth":0.5}]'), "range", 26),
    (area('[{"bbox_2d":[0.1,0.2,0.3,-0.4],"depth":0.5}]'), "range", 26 + len("0.1,0.2,0.3,")),
    (area('[{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":1.01}]'), "range", 26 + len('0.1,0.2,0.3,0.4],"depth":')),
    (area('[{"bbox_2d":[0.3,0.2,0.1,0.4],"depth":0.5}]'), "order", 14),
    (area('[{"bbox_2d":[0.1,0.2,0.3,0.2],"depth":0.5}]'), "order", 14),
    (TRACE.replace("red", " \n"), "answer", len(TRACE) - len("red</answer>")),
    (TRACE.replace("red", "\udcff"), "surrogate", len(TRACE) - len("red</answer>")),
]


@pytest.mark.parametrize(("text", "reason", "offset"), WRONG)
def test_what_is_no_trace_is_refused_with_reason_and_place(text: str, reason: str, offset: int) -> None:
    with pytest.raises(TraceError) as caught:
        parse(text)
    assert (caught.value.reason, caught.value.offset) == (reason, offset)
    assert str(caught.value).startswith("expected ")


@pytest.mark.parametrize(
    "number",
    [
        "NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "1e99999999999999999999", ".5", "0.", "+0.5", "00.5", "0x1",
        "0,5", "0.5.5", "1e", "5e-", "٠.٥", "０.5", "½", '"0.5"', "null", "true", "0_5", "0.5f", "--0.5", "- 0.5",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["0.1", "0.5}"])
def test_only_finite_decimal_numbers_count(number: str, place: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse(TRACE.replace(place, place.replace("0.1", number).replace("0.5", number)))
    assert caught.value.reason in ("number", "json", "keys")


def test_a_long_but_honest_number_is_read() -> None:
    assert parse(area('[{"bbox_2d":[0.1' + "0" * 5000 + ',0.2,0.3,0.4],"depth":0.5}]')) == parse(TRACE)


# The last area of an unfinished span


@pytest.mark.parametrize("number", ["0.46ea", "0.46e", "0.46e+", "1.x", "1."])
def test_a_number_that_breaks_off_is_refused(number: str) -> None:
    with pytest.raises(TraceError, match="number"):
        parse(area(f'[{{"bbox_2d":[{number}'))


def test_no_pattern_has_a_possessive_group() -> None:
    """Up to CPython 3.11.4 one that fails keeps what it had read: the patterns would differ with the interpreter."""
    sources = sorted((Path(__file__).resolve().parents[2] / "policy").glob("trace*.py"))
    found = {
        path.name: re.findall(r"\)(?:[?*+]|\{[0-9,]+\})\+.*", path.read_text(encoding="utf-8")) for path in sources
    }
    assert sources
    assert not any(found.values()), found


def test_the_last_area_of_a_span_is_read_by_the_same_rules() -> None:
    assert last_area_strict(f"<text>so</text>{AREA}") == parse(TRACE).steps[0].boxes
    assert last_area_strict(f"<think><area>[]</area>{AREA}\n") == parse(TRACE).steps[0].boxes


@pytest.mark.parametrize(
    ("span", "reason"),
    [("", "steps"), ("<answer>red</answer>", "steps"), ("<area>[]</area>", "no_box"), (f"{AREA} so", "outside"),
     (f"<area>[{BOX}]", "unclosed"), (f"{AREA}<area>[", "unclosed"), (f"<area>[{BOX} so]</area>", "json")],
)  # fmt: skip
def test_a_span_without_a_proper_last_area_is_refused(span: str, reason: str) -> None:
    with pytest.raises(TraceError) as caught:
        last_area_strict(span)
    assert caught.value.reason == reason


# Writing


def test_a_trace_is_written_in_one_spelling() -> None:
    trace = Trace(
        steps=[Step(boxes=[AreaBox(bbox_2d=WHOLE, depth=0.5), AreaBox(bbox_2d=(0.1, 0.2, 0.3, 0.45678))], text=" so ")],
        answer="red\n",
    )
    assert render(trace, decimals=2) == (
        '<think><area>[{"bbox_2d":[0.00,0.00,1.00,1.00],"depth":0.50},{"bbox_2d":[0.10,0.20,0.30,0.46]}]</area>'
        "<text>so</text></think><answer>red</answer>"
    )


@pytest.mark.parametrize(
    ("box", "written"),
    [
        ((0.501, 0.1, 0.504, 0.2), "[0.50,0.10,0.51,0.20]"),
        ((0.496, 0.1, 0.499, 0.2), "[0.49,0.10,0.50,0.20]"),
        ((0.999, 0.999, 1.0, 1.0), "[0.99,0.99,1.00,1.00]"),
        ((0.0, 0.0, 0.001, 0.001), "[0.00,0.00,0.01,0.01]"),
    ],
)
def test_a_box_that_rounding_would_flatten_is_widened(box: tuple[float, float, float, float], written: str) -> None:
    assert render_boxes([AreaBox(bbox_2d=box)], decimals=2) == f'[{{"bbox_2d":{written}}}]'


def test_boxes_are_written_in_the_space_of_the_policy() -> None:
    boxes = [AreaBox(bbox_2d=(0.1, 0.5, 0.2504, 1.0), depth=0.25)]
    sizes = {"image_size": (640, 320), "resized_size": (280, 140)}
    assert render_boxes(boxes, space=BoxSpace.PERMILLE) == '[{"bbox_2d":[100,500,250,1000],"depth":0.250}]'
    assert render_boxes(boxes, space=BoxSpace.PIXEL, **sizes) == '[{"bbox_2d":[64,160,160,320],"depth":0.250}]'
    assert (
        render_boxes(boxes, space=BoxSpace.RESIZED, **sizes, decimals=1) == '[{"bbox_2d":[28,70,70,140],"depth":0.2}]'
    )
    assert render_boxes(boxes, space=BoxSpace.PADDED_SQUARE, **sizes, decimals=2).startswith(
        '[{"bbox_2d":[0.10,0.50,0.25,0.75]'
    )


@pytest.mark.parametrize(
    ("trace", "reason", "place"),
    [
        (Trace(steps=[], answer="red"), "steps", 0),
        (Trace(steps=[Step(boxes=[], text="")], answer="red"), "no_box", 0),
        (Trace(steps=[Step(boxes=[AreaBox(bbox_2d=WHOLE)], text="<think>")], answer="red"), "nested", 0),
        (Trace(steps=[Step(boxes=[AreaBox(bbox_2d=WHOLE)], text="")], answer="</answer>"), "nested", 1),
        (Trace(steps=[Step(boxes=[AreaBox(bbox_2d=WHOLE)], text="")], answer=" "), "answer", 1),
    ],
)
def test_what_would_not_be_a_trace_is_not_written(trace: Trace, reason: str, place: int) -> None:
    with pytest.raises(TraceError) as caught:
        render(trace)
    assert (caught.value.reason, caught.value.offset) == (reason, place)


@pytest.mark.parametrize("box", [(0.3, 0.2, 0.1, 0.4), (0.1, 0.2, 1.1, 0.4), (float("nan"), 0.2, 0.3, 0.4)])
def test_an_area_holds_boxes_of_the_inner_form_only(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValidationError, match="bbox_2d"):
        AreaBox(bbox_2d=box)
