"""What a teacher's trace must keep to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.policy.trace import AreaBox, Step, Trace, parse, render
from sifthinker.training.data.expansion import Area
from sifthinker.training.data.verify import MAX_STEP_TEXT, verify

AREAS = (
    Area("whole", (AreaBox(bbox_2d=(0, 0, 1, 1), depth=0.5),)),
    Area(
        "answer",
        (
            AreaBox(bbox_2d=(0.1, 0.2, 0.3, 0.4), depth=0.123),
            AreaBox(bbox_2d=(0.5, 0.5, 0.75, 0.9), depth=0.6),
        ),
    ),
)
GOOD = render(
    Trace(steps=[Step(boxes=list(one.boxes), text=f"I see {i}.") for i, one in enumerate(AREAS)], answer="the red cube")
)


def test_a_trace_that_keeps_to_it_is_taken() -> None:
    verdict = verify(GOOD, AREAS, "the red cube")
    assert verdict.trace is not None
    assert render(verdict.trace) == GOOD


def test_what_is_kept_has_the_given_numbers_and_the_given_answer_in_one_spelling() -> None:
    loose = GOOD.replace("0.123", "0.1230").replace("</area>", "</area>\n").replace("I see 0.", " I \n see 0. ")
    loose = loose.replace("the red cube", "The Red Cube.")
    verdict = verify(loose, AREAS, "the red cube")
    assert verdict.trace is not None
    assert render(verdict.trace) == GOOD


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("0.300", "0.301"), "boxes"),
        (("0.100,0.200", "0.200,0.100"), "boxes"),
        (("0.123", "0.124"), "depths"),
        (("<text>I see 0.</text>", "<text> </text>"), "empty_text"),
        (("I see 0.", "x" * (MAX_STEP_TEXT + 1)), "long_text"),
        (("I see 0.", "<|im_end|>"), "control"),
        (("the red cube", "the blue cube"), "answer"),
        (("the red cube", "the red cube, I think"), "answer"),
        (("</think>", ""), "grammar:tag"),
        (("<think>", "Sure! <think>"), "grammar:outside"),
        ((',"depth":0.123', ""), "grammar:depth"),
        (("0.123", "NaN"), "grammar:number"),
    ],
)
def test_what_does_not_is_refused_with_its_reason(change: tuple[str, str], reason: str) -> None:
    verdict = verify(GOOD.replace(*change), AREAS, "the red cube")
    assert verdict.trace is None
    assert verdict.reason == reason
    assert verdict.message


def test_areas_may_be_neither_left_out_nor_added_nor_moved() -> None:
    def written(order: tuple[Area, ...]) -> str:
        return render(Trace(steps=[Step(boxes=list(one.boxes), text="Here.") for one in order], answer="x"))

    assert verify(written((AREAS[1],)), AREAS, "x").reason == "areas"
    assert verify(written((*AREAS, AREAS[1])), AREAS, "x").reason == "areas"
    assert verify(written((AREAS[1], AREAS[0])), AREAS, "x").reason == "boxes"


@pytest.mark.parametrize(
    ("said", "truth", "options", "taken"),
    [
        ("(B) blue", "blue", ("(A) red", "(B) blue"), True),
        ("blue", "blue", ("red", "blue"), True),
        ("red", "blue", ("red", "blue"), False),
        ("three", "3", (), True),
        ("4", "3", (), False),
        ("Yes", "yes", (), True),
        ("The man holds a cup", "The man holds a cup.", (), True),
        ("The man holds a cap.", "The man holds a cup.", (), False),
    ],
)
def test_an_answer_is_right_or_it_is_not(said: str, truth: str, options: tuple[str, ...], taken: bool) -> None:
    text = GOOD.replace("the red cube", said)
    verdict = verify(text, AREAS, truth, options=options)
    assert (verdict.trace is not None) is taken
    if verdict.trace is not None:
        assert verdict.trace.answer == truth


def test_without_depths_none_may_be_said() -> None:
    bare = tuple(Area(one.kind, tuple(AreaBox(bbox_2d=box) for box in one.xyxy)) for one in AREAS)
    assert verify(GOOD, bare, "the red cube").reason == "depths"
    text = render(Trace(steps=[Step(boxes=list(one.boxes), text="Here.") for one in bare], answer="x"))
    assert verify(text, bare, "x").trace is not None


@given(st.text(max_size=200) | st.builds(lambda a, b: GOOD[:a] + GOOD[b:], st.integers(0, 300), st.integers(0, 300)))
def test_no_text_makes_it_raise_and_what_is_taken_is_a_trace(text: str) -> None:
    verdict = verify(text, AREAS, "the red cube")
    if verdict.trace is not None:
        assert parse(render(verdict.trace)) == verdict.trace
    else:
        assert verdict.reason
