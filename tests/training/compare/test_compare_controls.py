"""Controls: which boxes, and that these and no others are looked at."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparing import compared, patches
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scripted import ScriptedPolicy, area

from sifthinker.policy.boxes import WHOLE, Box, expand, hull, iou, is_valid
from sifthinker.policy.messages import Message, message
from sifthinker.policy.trace import last_area
from sifthinker.training.compare.console import show
from sifthinker.training.compare.controls import CENTRE, ControlledPolicy, control_boxes, elsewhere
from sifthinker.training.compare.data import Question
from sifthinker.training.compare.findings import findings
from sifthinker.training.compare.records import CONTROLS
from sifthinker.training.compare.report import render_page
from sifthinker.training.compare.words import points

QUESTION = Question("q", "?", "a", boxes=((0.1, 0.2, 0.4, 0.5), (0.6, 0.1, 0.7, 0.2)))


def size(box: Box) -> tuple[float, float]:
    return round(box[2] - box[0], 4), round(box[3] - box[1], 4)


def test_the_boxes_of_each_control() -> None:
    assert control_boxes("oracle", QUESTION, 0) == QUESTION.boxes
    assert control_boxes("centre", QUESTION, 0) == (CENTRE,)
    for control in ("random", "wrong"):
        boxes = control_boxes(control, QUESTION, 0)
        assert boxes
        assert sorted(map(size, boxes)) == sorted(map(size, QUESTION.boxes))
        assert boxes == control_boxes(control, QUESTION, 0) != control_boxes(control, QUESTION, 1)
    assert all(iou(box, true) == 0 for box in control_boxes("wrong", QUESTION, 0) or () for true in QUESTION.boxes)


def test_there_may_be_no_such_boxes() -> None:
    unknown, whole = Question("q", "?", "a"), Question("q", "?", "a", boxes=((0.0, 0.0, 0.9, 0.9),))
    assert [control_boxes(control, unknown, 0) for control in ("oracle", "random", "wrong")] == [None] * 3
    assert control_boxes("wrong", whole, 0) is None


def test_on_the_way_to_wrong_boxes_no_right_one_is_seen() -> None:
    for number in range(60):
        question = replace(QUESTION, id=str(number), boxes=((0.3, 0.3, 0.5, 0.5), (0.55, 0.6, 0.65, 0.7)))
        boxes = control_boxes("wrong", question, 0) or ()
        assert all(iou(expand(box, 1.36), true) < 1e-9 for box in boxes for true in question.boxes)
        heard: list[str] = []
        policy = ControlledPolicy(naming(9), boxes, lambda box: 0.5, (80, 60), avoid=question.boxes)
        talk = [message("user", "?")]
        for _ in range(4):
            heard.append(policy.generate(talk, stop=("</area>",)).text)
            talk += [message("assistant", heard[-1]), message("user", "Go on.")]
        seen = [box.bbox_2d for said in heard[1:] for box in last_area(said)[0]]
        assert len(seen) in (1 + 2 + 2, 2 + 2 + 2)  # with their hull, and without
        assert all(iou(box, true) < 1e-2 for box in seen for true in question.boxes)  # they are written in 3 decimals


def test_of_one_wrong_box_the_widened_form_is_clear_too() -> None:
    for number in range(60):
        question = replace(QUESTION, id=str(number), boxes=((0.3, 0.3, 0.6, 0.6),))
        (box,) = control_boxes("wrong", question, 0) or ()
        assert iou(expand(box, 1.36), question.boxes[0]) < 1e-9


unit = st.floats(0, 0.8)
boxes = st.lists(st.tuples(unit, unit, st.floats(0.02, 0.4), st.floats(0.02, 0.4)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(0, 999))
def test_elsewhere_touches_nothing(raw: list[tuple[float, float, float, float]], seed: int) -> None:
    given_boxes: list[Box] = [(x, y, min(x + w, 1.0), min(y + h, 1.0)) for x, y, w, h in raw]
    found = elsewhere(given_boxes, given_boxes, np.random.default_rng(seed))
    if found is None:
        return
    assert all(is_valid(box) for box in found)
    assert sorted(map(size, found)) == sorted(map(size, given_boxes))
    everything = [*given_boxes, *found]
    for index, box in enumerate(found):
        others = everything[: len(given_boxes) + index]
        assert all(iou(box, other) < 1e-9 for other in others)


def naming(count: int) -> ScriptedPolicy:
    """A policy that names the whole and then so many areas of its own before it answers red."""

    def line(messages: Sequence[Message]) -> str:
        turns = sum(turn.role == "assistant" for turn in messages)
        if turns > count:
            return "<text>There.</text></think><answer>red</answer>"
        start = "<text>Further.</text>" if turns else "<think>"
        return start + area((0.5, 0.5, 0.9, 0.9) if turns else WHOLE)

    return ScriptedPolicy(line)


def test_areas_narrow_down_to_the_controls_boxes_and_the_policys_own_are_never_seen(tmp_path: Path) -> None:
    data = patches(tmp_path / "d", 2)
    finished = compared(data, tmp_path / "o", naming(2), modes=("tools",), controls=CONTROLS)
    rows = [row for row in finished.rows if row.control]
    assert {row.control for row in rows} == set(CONTROLS)
    for row in rows:
        (box,) = control_boxes(row.control, finished.asked.questions[int(row.question[1:])], 0) or ()  # type: ignore[arg-type]
        seen = [[said.bbox_2d for said in step.boxes] for step in row.steps]
        assert seen == [[WHOLE], [pytest.approx(expand(box, 1.36), abs=1e-3)], [pytest.approx(box, abs=1e-3)]]
        assert [step.cropped for step in row.steps] == [False, True, True]
        assert [step.text for step in row.steps] == ["Further.", "Further.", "There."]  # in its own words
        assert "[0.500,0.500,0.900,0.900]" not in row.text
    oracle = [row for row in rows if row.control == "oracle"]
    assert all(row.hiou == pytest.approx(1.0, abs=0.02) and row.images == 3 for row in oracle)


def test_several_boxes_are_come_to_through_their_hull(tmp_path: Path) -> None:
    pair = [(0.1, 0.2, 0.3, 0.4), (0.6, 0.5, 0.8, 0.8)]
    data = patches(tmp_path / "d", 1, boxes=pair)
    finished = compared(data, tmp_path / "o", naming(4), modes=("tools",), controls=("oracle",))
    (row,) = (row for row in finished.rows if row.control)
    wide = [expand(box, 1.36) for box in pair]
    assert [len(step.boxes) for step in row.steps] == [1, 1, 2, 2, 2]
    assert row.steps[1].boxes[0].bbox_2d == pytest.approx(hull(wide), abs=1e-3)
    assert [box.bbox_2d for box in row.steps[2].boxes] == [pytest.approx(box, abs=1e-3) for box in wide]
    assert row.last_boxes == [pytest.approx(box, abs=1e-3) for box in pair]
    assert [step.cropped for step in row.steps] == [False, True, True, True, False]  # what it has is not shown again


def test_a_control_that_cannot_be_asked_leaves_a_line(tmp_path: Path) -> None:
    data = patches(tmp_path / "d", 3, boxes=[])
    finished = compared(data, tmp_path / "o", modes=("direct", "tools"), controls=("oracle", "centre"))
    oracle, centre = (finished.results.controls[name] for name in ("oracle", "centre"))
    assert (oracle.n, oracle.skipped) == (0, {"the boxes that decide it are not known": 3})
    assert (centre.n, centre.skipped) == (3, {})
    assert sum(row.control == "oracle" for row in finished.rows) == 3


def test_a_control_that_was_never_asked_has_no_score(tmp_path: Path) -> None:
    data = patches(tmp_path / "d", 3, boxes=[])
    finished = compared(data, tmp_path / "o", modes=("direct", "tools"), controls=("oracle", "centre"), timed=0)
    told = json.loads((tmp_path / "o" / "results.json").read_text())["controls"]["oracle"]
    assert [told[name] for name in ("accuracy", "valid", "tokens_in", "images", "seconds")] == [None] * 5
    (sentence,) = (one for one in findings(finished.results.all_policies()[0]) if one.startswith("In place of"))
    assert "oracle" not in sentence
    assert "centre" in sentence
    console = Console(width=200, record=True, file=io.StringIO())
    show(console, finished.results)
    (line,) = (line for line in console.export_text().splitlines() if line.lstrip("│ ").startswith("accuracy"))
    assert [cell.strip() for cell in line.split("│")][4] == "–"
    assert 'oracle boxes</span></th><td>0</td><td class="none">–</td>' in render_page(finished)


def test_of_a_control_asked_in_part_the_paired_difference_is_told(tmp_path: Path) -> None:
    data = patches(tmp_path / "d", 4)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows[:3]:
        row["boxes"] = []
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finished = compared(data, tmp_path / "o", modes=("tools",), controls=("oracle",), timed=0)
    gain = finished.results.controls["oracle"].against_tools
    assert gain
    (sentence,) = (one for one in findings(finished.results.all_policies()[0]) if one.startswith("In place of"))
    assert f"of the 1 that could be asked: {points(gain.difference.value)} points" in sentence
