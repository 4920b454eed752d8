"""The lenient parser: what models write when they nearly keep to the grammar, and what becomes of it."""

from __future__ import annotations

import pytest

from sifthinker.policy.boxes import Box, BoxSpace
from sifthinker.policy.errors import UsageError
from sifthinker.policy.trace import AreaBox, Span, Step, Trace, last_area, parse, parse_lenient, parse_span, render

BOX = '{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5}'
AREA = f"<area>[{BOX}]</area>"
TRACE = f"<think>{AREA}<text>a cube</text></think><answer>red</answer>"
READ = parse(TRACE)
CUBE, BALL = (0.1, 0.2, 0.3, 0.4), (0.5, 0.2, 0.7, 0.4)


def boxes_of(trace: Trace) -> list[list[Box]]:
    return [[box.bbox_2d for box in step.boxes] for step in trace.steps]


def whole(*, area: str = f"[{BOX}]") -> str:
    return TRACE.replace(f"[{BOX}]", area)


# Nothing to recover


def test_a_proper_trace_has_no_problems() -> None:
    assert parse_lenient(TRACE) == (READ, [])


def test_a_missing_depth_is_no_problem() -> None:
    trace, problems = parse_lenient(whole(area='[{"bbox_2d":[0.1,0.2,0.3,0.4]}]'))
    assert boxes_of(trace) == [[CUBE]]
    assert trace.steps[0].boxes[0].depth is None
    assert problems == []


@pytest.mark.parametrize(
    ("space", "numbers"),
    [
        (BoxSpace.PERMILLE, "100,200,300,400"),
        (BoxSpace.PIXEL, "80,80,240,160"),
        (BoxSpace.RESIZED, "40,40,120,80"),
        (BoxSpace.PADDED_SQUARE, "0.1,0.35,0.3,0.45"),
    ],
)
def test_boxes_of_a_declared_space_are_converted(space: BoxSpace, numbers: str) -> None:
    text = whole(area=f'[{{"bbox_2d":[{numbers}],"depth":0.5}}]')
    trace, problems = parse_lenient(text, space=space, image_size=(800, 400), resized_size=(400, 200))
    assert boxes_of(trace) == [[pytest.approx(CUBE)]]
    assert problems == []


def test_the_space_is_never_guessed() -> None:
    trace, problems = parse_lenient(whole(area="[[100,200,300,400]]"))
    assert trace.steps == []
    assert any("far outside the image if read as 'unit'" in problem for problem in problems)
    trace, problems = parse_lenient(TRACE, space=BoxSpace.PERMILLE)
    assert boxes_of(trace) == [[pytest.approx((0.0001, 0.0002, 0.0003, 0.0004))]]


def test_a_space_without_its_size_is_wrong_use_whatever_the_text() -> None:
    for read in (parse_lenient, parse_span, last_area):
        with pytest.raises(UsageError, match="resized_size"):
            read("", space=BoxSpace.RESIZED, image_size=(10, 10))


# Areas


@pytest.mark.parametrize(
    "area",
    [
        pytest.param(f"```json\n[{BOX}]\n```", id="code fence"),
        pytest.param(f"```\n{BOX}\n```", id="fence, one object"),
        pytest.param('[{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5,"label":"cube"}]', id="label"),
        pytest.param('[{"label":"cube","bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5}]', id="label first"),
        pytest.param('{"objects":[{"box":[0.1,0.2,0.3,0.4],"depth":"0.5"}]}', id="nested, other key, quoted depth"),
        pytest.param("[{'bbox_2d': [0.1, 0.2, 0.3, 0.4], 'depth': 0.5}]", id="python quotes"),
        pytest.param('[{bbox_2d:["0.1","0.2","0.3","0.4"], depth: .5}]', id="no quotes, quoted numbers"),
        pytest.param('[{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5},]', id="comma too many"),
        pytest.param('[{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5', id="cut off"),
        pytest.param('[{"bbox_2d":[[0.1,0.2],[0.3,0.4]],"depth":0.5}]', id="corners as points"),
        pytest.param('[{"bbox_2d":[0.3,0.4,0.1,0.2],"depth":0.5}]', id="swapped corners"),
        pytest.param('{"name":"zoom","arguments":{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5}}', id="tool call"),
    ],
)  # fmt: skip
def test_an_area_written_otherwise_is_recovered_and_told(area: str) -> None:
    trace, problems = parse_lenient(whole(area=area))
    assert trace == READ
    assert problems


@pytest.mark.parametrize(
    "area",
    ["[0.1,0.2,0.3,0.4]", "[[0.1, 0.2, 0.3, 0.4]]", "(0.1,0.2),(0.3,0.4)", "0.1, 0.2, 0.3, 0.4", "0.1 0.2 0.3 0.4"],
)
def test_bare_numbers_are_a_box_without_depth(area: str) -> None:
    trace, problems = parse_lenient(whole(area=area))
    assert trace.steps == [Step(boxes=[AreaBox(bbox_2d=CUBE)], text="a cube")]
    assert problems


def test_each_box_keeps_its_own_depth() -> None:
    area = '[{"bbox_2d":[0.1,0.2,0.3,0.4],"label":"a"},{"depth":0.7,"bbox_2d":[0.5,0.2,0.7,0.4]},[0.1,0.2,0.3,0.4]]'
    assert [box.depth for box in parse_lenient(whole(area=area))[0].steps[0].boxes] == [None, 0.7, None]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ("-0.1,0.2,0.3,0.4", (0, 0.2, 0.3, 0.4)),
        ("0.5,0.5,1.2,1.001", (0.5, 0.5, 1, 1)),
        ("0.3,1.3,0.1,-.2", (0.1, 0, 0.3, 1)),
    ],
)
def test_boxes_over_the_edge_are_clipped_and_told(numbers: str, expected: Box) -> None:
    trace, problems = parse_lenient(whole(area=f'[{{"bbox_2d":[{numbers}]}}]'))
    assert boxes_of(trace) == [[expected]]
    assert any("clipped" in problem for problem in problems)


@pytest.mark.parametrize(
    "numbers", ["0.1,0.2,0.1,0.4", "NaN,0.2,0.3,0.4", "0.1,0.2,1e999,0.4", "0,0,300,200", "1.1,0,1.2,1", "null,0,1,1"]
)
def test_what_is_no_box_is_left_out_and_told(numbers: str) -> None:
    trace, problems = parse_lenient(whole(area=f'[{{"bbox_2d":[{numbers}],"depth":0.5}},{BOX}]'))
    assert boxes_of(trace) == [[CUBE]]
    assert any("left out" in problem for problem in problems)


@pytest.mark.parametrize(
    ("depth", "read"), [("1.5", 1.0), ("-3", 0.0), ("NaN", None), ("1e999", None), ('"far"', None)]
)
def test_a_depth_that_is_none_does_not_cost_the_box(depth: str, read: float | None) -> None:
    trace, problems = parse_lenient(whole(area=f'[{{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":{depth}}}]'))
    assert trace.steps[0].boxes == [AreaBox(bbox_2d=CUBE, depth=read)]
    assert problems


@pytest.mark.parametrize("area", ["", "[]", "the cube", "[0.1,0.2,0.3]", "[1,2,3,4,5]", "[٠.١,٠.٢,٠.٣,٠.٤]"])
def test_an_area_without_a_box_makes_no_step(area: str) -> None:
    trace, problems = parse_lenient(whole(area=area))
    assert trace == Trace(steps=[], answer="red")
    assert "No area with a box was found." in problems


# Tags


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TRACE.replace("</area>", ""), id="no </area>"),
        pytest.param(TRACE.replace("</text>", ""), id="no </text>"),
        pytest.param(TRACE.replace("</think>", ""), id="no </think>"),
        pytest.param(TRACE.replace("</answer>", ""), id="no </answer>"),
        pytest.param(TRACE.replace("<think>", ""), id="no <think>"),
        pytest.param(TRACE.replace("<text>", ""), id="no <text>"),
        pytest.param(TRACE.replace("<answer>", ""), id="no <answer>"),
        pytest.param(TRACE.replace("<text>", "").replace("</text>", ""), id="text without tags"),
        pytest.param(TRACE.replace("<answer>", "").replace("</answer>", ""), id="answer without tags"),
        pytest.param(TRACE.replace("</area>", "</text>"), id="another tag closes"),
        pytest.param(TRACE.replace("<area>", "<Area>").replace("</answer>", "</ANSWER>"), id="capitals"),
        pytest.param(TRACE.replace("<area>", "< area >").replace("</text>", "</ text>"), id="spaces in tags"),
        pytest.param("Sure, here it is:\n" + TRACE + "\nI hope this helps!", id="prose around"),
        pytest.param(TRACE.replace("<answer>", "So:<answer>"), id="prose between"),
        pytest.param(TRACE.replace("<answer>red", "<answer>blue</answer><answer>red"), id="two answers"),
        pytest.param(TRACE.replace("<area>", "<area></area><area>"), id="an empty area first"),
        pytest.param(TRACE.replace("</think>", "").replace("</answer>", "</answer></think>"), id="answer within"),
    ],
)  # fmt: skip
def test_tags_that_are_missing_misspelt_or_misplaced(text: str) -> None:
    trace, problems = parse_lenient(text)
    assert trace == READ
    assert problems


def test_a_space_that_the_grammar_does_not_know_is_told() -> None:
    trace, problems = parse_lenient(TRACE.replace("<text>", "\u2028<text>"))
    assert trace == READ
    assert problems


def test_prose_within_the_thinking_goes_to_the_area_before_it() -> None:
    text = f"<think>Let me see.{AREA}This is a cube.{AREA}<text>And</text> closer.</think><answer>red</answer>"
    trace, problems = parse_lenient(text)
    assert [step.text for step in trace.steps] == ["Let me see. This is a cube.", "And closer."]
    assert "There is text outside the tags. (3 times)" in problems


def test_an_answer_cut_short_is_not_made_up() -> None:
    trace, problems = parse_lenient(f"<think>{AREA}<text>It is the red")
    assert trace == Trace(steps=[Step(boxes=READ.steps[0].boxes, text="It is the red")], answer="")
    assert "No answer was found." in problems
    assert parse_lenient("<think>I think it is red")[0].answer == ""


# Without any tags

FENCE = """```json
[
\t{"bbox_2d": [100, 200, 300, 400], "label": "red cube"},
\t{"bbox_2d": [500, 200, 700, 400], "label": "ball"}
]
```"""


def test_boxes_in_a_fence_are_an_area_that_its_labels_describe() -> None:
    trace, problems = parse_lenient(FENCE, space=BoxSpace.PERMILLE)
    assert boxes_of(trace) == [[CUBE, BALL]]
    assert trace.steps[0].text == "red cube; ball"
    assert trace.answer == ""
    assert "Boxes stand outside <area> tags." in problems


def test_prose_after_the_boxes_is_their_text_and_its_last_line_the_answer() -> None:
    text = FENCE + "\nThe red cube stands nearer.\n\n**Answer:** red cube\n"
    trace, _ = parse_lenient(text, space=BoxSpace.PERMILLE)
    assert [step.text for step in trace.steps] == ["The red cube stands nearer."]
    assert trace.answer == "red cube"


def test_boxes_in_running_prose_are_an_area_each() -> None:
    text = "I see a cube at [100,200,300,400], small. Then (500,200),(700,400) is a ball.\nFinal answer: ball"
    trace, _ = parse_lenient(text, space=BoxSpace.PERMILLE)
    assert boxes_of(trace) == [[CUBE], [BALL]]
    assert trace.steps[0].text.startswith("I see a cube at , small.")
    assert trace.answer == "ball"


def test_a_tool_call_is_an_area() -> None:
    call = '<tool_call>\n{"name":"zoom_in","arguments":{"bbox_2d":[100,200,300,400],"label":"sign"}}\n</tool_call>'
    trace, _ = parse_lenient(call, space=BoxSpace.PERMILLE)
    assert trace == Trace(steps=[Step(boxes=[AreaBox(bbox_2d=CUBE)], text="sign")], answer="")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>The cube is left.</think>\n\nThe cube.", "The cube."),
        ("The cube is left.</think>The cube.", "The cube."),
        ("The cube is left.\nSo it is\nthe cube.\n\n", "the cube."),
        ("The answer is **blue**", "blue"),
        ("Final Answer: 3", "3"),
        ("red</answer>", "red"),
        ("<answer></answer>", ""),
        ("<|im_start|>```\n```", ""),
        ("", ""),
    ],
)
def test_an_answer_without_areas(text: str, answer: str) -> None:
    trace, problems = parse_lenient(text)
    assert trace == Trace(steps=[], answer=answer)
    assert problems


def test_boxes_in_the_prose_do_not_count_beside_real_areas() -> None:
    trace, _ = parse_lenient(TRACE.replace("<answer>red</answer>", "The one at [0.5,0.2,0.7,0.4]."))
    assert boxes_of(trace) == [[CUBE]]
    assert trace.answer == "The one at [0.5,0.2,0.7,0.4]."


# What comes out can be shown anywhere


def test_control_characters_and_broken_ones_do_not_come_through() -> None:
    trace, problems = parse_lenient(TRACE.replace("a cube", "a\x1b[2J\x9bcu\ud800be").replace("red", "r\x00ed\u2028"))
    assert trace.steps[0].text == "a [2J cu\ufffdbe"
    assert trace.answer == "r ed"
    assert len(problems) == 2


def test_removing_a_character_makes_no_tag() -> None:
    trace, _ = parse_lenient(TRACE.replace("a cube", "a <te\x00xt> <te<|im_end|>xt> cube"))
    assert parse(render(trace)).answer == "red"


def test_a_flood_of_problems_is_cut_short() -> None:
    text = "".join(f"<area>[[{index},2,3,4]]</area>" for index in range(500))
    _, problems = parse_lenient(text)
    assert len(problems) < 30
    assert problems[-1].startswith("There were ")


def test_a_flood_of_areas_is_cut_short_unless_the_trace_is_proper() -> None:
    for flood in ("<area>[[0.1,0.2,0.3,0.4]]</area>" * 1500, "[0.1,0.2,0.3,0.4] and " * 1500):
        trace, problems = parse_lenient(flood)
        assert len(trace.steps) == 1000
        assert any("more than 1000 areas" in problem for problem in problems)
    for flood in (
        "{[0.1,0.2,0.3,0.4]" * 1500,
        "<area>[" + ",".join(['{"bbox_2d":[0.1,0.2,0.3,0.4]}'] * 1500) + "]</area>",
    ):
        trace, problems = parse_lenient(flood)
        assert [len(step.boxes) for step in trace.steps] == [1000]
        assert any("more than 1000 boxes" in problem for problem in problems)
    proper = TRACE.replace(AREA, f"{AREA}<text></text>" * 1500 + AREA)
    assert parse_lenient(proper) == (parse(proper), [])


# One turn of tool mode


@pytest.mark.parametrize(
    ("text", "span"),
    [
        (f"<think>{AREA}", Span(boxes=tuple(READ.steps[0].boxes))),
        (f"<text>so</text>{AREA}", Span(text="so", boxes=tuple(READ.steps[0].boxes))),
        (f"<text>so</text>{AREA}<text>a cube</text>{AREA}",
         Span(text="so", steps=tuple(READ.steps), boxes=tuple(READ.steps[0].boxes))),
        ("<text>so</text></think><answer>red</answer>", Span(text="so", answer="red")),
        (TRACE, Span(steps=tuple(READ.steps), answer="red")),
        ("", Span()),
    ],
)  # fmt: skip
def test_a_turn_is_read_in_its_parts_and_an_unfinished_trace_is_no_problem(text: str, span: Span) -> None:
    assert parse_span(text) == span


def test_a_turn_in_the_models_own_manner_ends_in_an_area() -> None:
    span = parse_span("Let me look closer.\n" + FENCE + "\nWaiting for the crop.", space=BoxSpace.PERMILLE)
    assert [box.bbox_2d for box in span.boxes] == [CUBE, BALL]
    assert span.text == "Let me look closer."
    assert span.answer is None
    assert span.problems


def test_a_turn_that_only_talks_gives_neither_area_nor_answer() -> None:
    span = parse_span("I would say it is red.")
    assert (span.boxes, span.steps, span.answer) == ((), (), None)


def test_an_answer_in_prose_counts_only_after_the_thinking() -> None:
    assert parse_span("<text>so</text></think>red").answer == "red"


# The last area


@pytest.mark.parametrize(
    "text",
    [
        AREA,
        f"<area>[]</area>{AREA}",
        f"<think>{AREA.removesuffix('</area>')}",
        f"{AREA}<text>so",
        f"look: [{BOX}]",
        BOX + " so",
    ],
)
def test_the_last_area_is_found(text: str) -> None:
    assert last_area(text)[0] == READ.steps[0].boxes


def test_the_last_of_several_areas_is_taken() -> None:
    assert [box.bbox_2d for box in last_area(f"{AREA}<area>[[0.5,0.2,0.7,0.4]]")[0]] == [BALL]
    assert [box.bbox_2d for box in last_area("[0.1,0.2,0.3,0.4] or [0.5,0.2,0.7,0.4]?")[0]] == [BALL]


@pytest.mark.parametrize("text", ["", "no box", f"{AREA}<area>", f"{AREA}<area>nothing</area>", "[1, 2, 3]"])
def test_no_last_area_is_told(text: str) -> None:
    boxes, problems = last_area(text)
    assert boxes == []
    assert problems
