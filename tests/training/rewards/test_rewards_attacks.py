"""No attack outscores the honest trace; the published forms are fooled where they are known to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import WHOLE, Box, hull
from sifthinker.policy.trace import AreaBox, Step, Trace, render
from sifthinker.training.rewards.attacks import (
    ATTACKS,
    REWARDS,
    WRONG_ANSWERS,
    Sample,
    answering,
    earned,
    honest,
    open_sample,
    world_samples,
)

SAME_WORTH = {"bad first box on purpose", "bad first box, then all again", "repeated areas", "endless text"}
"""What ends where the honest trace ends earns what it earns."""

FOOLED = [
    ("empty areas", "format"),
    ("empty last area", "format"),
    ("text before the tags", "format"),
    ("text after the tags", "format"),
    ("text between the tags", "format"),
    ("two traces", "format"),
    ("two answers", "answer"),
    ("text before the tags", "answer"),
    ("unclosed tags", "grounding"),
    ("empty areas", "depth"),
    ("nested tags", "depth"),
    ("right depth in a wrong place", "depth"),
    ("right answer without looking", "depth"),
    ("whole image again and again", "depth"),
    ("boxes sprayed", "depth"),
    ("one box to spare", "depth"),
]
"""An attack and the published reward that it earns in full, or as much of as the honest trace."""


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(world_samples(40, seed=3))


@pytest.fixture(scope="module")
def deserved(samples: list[Sample]) -> dict[str, dict[str, list[float]]]:
    return earned([honest(sample) for sample in samples], samples)


def test_the_honest_trace_earns_all_there_is(samples: list[Sample], deserved: dict) -> None:
    robust = deserved["robust"]
    assert set(robust["format"]) == set(robust["answer"]) == set(robust["depth"]) == {1.0}
    best = [2 - _of_the_whole(sample) for sample in samples]
    assert all(value > 0.95 * top for value, top in zip(robust["grounding"], best, strict=True))


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_outscores_the_honest_trace(name: str, samples: list[Sample], deserved: dict) -> None:
    rewards = earned([ATTACKS[name](sample) for sample in samples], samples)["robust"]
    for reward in REWARDS:
        assert all(math.isfinite(value) and 0 <= value <= 2 for value in rewards[reward])
        for value, fair in zip(rewards[reward], deserved["robust"][reward], strict=True):
            assert value <= fair + 1e-9, reward
    if name not in SAME_WORTH:
        assert _sum(rewards) < _sum(deserved["robust"])


@pytest.mark.parametrize(("name", "reward"), FOOLED)
def test_the_published_form_is_fooled(name: str, reward: str, samples: list[Sample], deserved: dict) -> None:
    rewards = earned([ATTACKS[name](sample) for sample in samples], samples)
    assert np.mean(rewards["published"][reward]) >= np.mean(deserved["published"][reward]) - 1e-9
    assert np.mean(rewards["robust"][reward]) < 0.7 * np.mean(deserved["robust"][reward])


@pytest.mark.parametrize("name", ["bad first box on purpose", "empty areas"])
def test_the_published_grounding_pays_more_for_it_than_for_the_honest_trace(
    name: str, samples: list[Sample], deserved: dict
) -> None:
    rewards = earned([ATTACKS[name](sample) for sample in samples], samples)["published"]["grounding"]
    assert np.mean(rewards) > np.mean(deserved["published"]["grounding"]) + 0.2


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_no_wrong_answer_to_a_question_without_options_is_paid(name: str, samples: list[Sample]) -> None:
    question, truth, said = WRONG_ANSWERS[name]
    sample = open_sample(samples[0], question, truth)
    wrong, right = earned([answering(sample, said), honest(sample)], [sample, sample])["robust"]["answer"]
    assert (wrong, right) == (0.0, 1.0)


def test_the_published_answer_is_compared_by_its_letters_as_before(samples: list[Sample]) -> None:
    question, truth, said = WRONG_ANSWERS["another number"]
    sample = open_sample(samples[0], question, truth)
    assert earned([answering(sample, said)], [sample])["published"]["answer"] == [pytest.approx(15 / 16)]


# Traces made of all sorts of areas

TRUE: tuple[Box, ...] = ((0.2, 0.25, 0.45, 0.6), (0.6, 0.1, 0.8, 0.4))
POOL: tuple[Box, ...] = (*TRUE, WHOLE, hull(TRUE), (0.15, 0.2, 0.5, 0.65), (0.6, 0.1, 0.79, 0.4), (0.0, 0.7, 0.2, 0.9))


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    box = st.builds(
        lambda box, depth: AreaBox(bbox_2d=box, depth=_DEPTH.mean(box) if depth is None else depth),
        st.sampled_from(POOL),
        st.none() | st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    )
    steps = draw(st.lists(st.lists(box, min_size=1, max_size=4), min_size=1, max_size=5))
    answer = draw(st.sampled_from(["red", "blue", "red, blue", "not blue"]))
    return Trace(steps=[Step(boxes=area, text="t") for area in steps], answer=answer)


_DEPTH = DepthMap(np.random.default_rng(1).random((60, 80)).astype(np.float32))
_FAIR = Trace(
    steps=[
        Step(boxes=[AreaBox(bbox_2d=box, depth=_DEPTH.mean(box)) for box in boxes], text="t")
        for boxes in ([WHOLE], [hull(TRUE)], TRUE)
    ],
    answer="red",
)
_SAMPLE = Sample("red", ["red", "blue"], list(TRUE), _DEPTH, _FAIR)


@given(traces())
def test_no_other_trace_outscores_the_honest_one(trace: Trace) -> None:
    rewards = earned([render(trace), render(_FAIR)], [_SAMPLE, _SAMPLE])["robust"]
    assert all(other <= fair + 1e-9 for other, fair in rewards.values())


# Hostile text

PIECES = st.sampled_from(
    [
        "<think>", "</think>", "<area>", "</area>", "<text>", "</text>", "<answer>", "</answer>", "red", " ", "\n",
        '[{"bbox_2d":[0.1,0.1,0.5,0.5],"depth":0.4}]', '[{"bbox_2d":[0.1,0.1,', "NaN", "-Infinity", "1e999", "null",
        "[" * 3000, "{" * 3000, "9" * 5000, '"bbox_2d"', '"depth":', "0.5", "-", "\ud800", "\x00", "٣", "ｆ", "�",
        '{"bbox_2d":{},"depth":[]}', '[["bbox_2d"]]', '"bbox_2d depth"', "[true,false,null,1]", "0" * 400, "\u202e",
    ]
)  # fmt: skip


@given(st.lists(PIECES | st.text(max_size=8), max_size=25).map("".join))
def test_no_text_makes_a_reward_raise(text: str) -> None:
    for messages in (text, [{"role": "assistant", "content": text}]):
        for form in earned([messages], [_SAMPLE]).values():
            for values in form.values():
                assert all(isinstance(value, float) and math.isfinite(value) and 0 <= value <= 2 for value in values)


@given(st.lists(PIECES | st.text(max_size=8), max_size=8).map("".join))
def test_no_area_makes_a_reward_raise(content: str) -> None:
    text = f"<think><area>{content}</area><text>t</text></think><answer>red</answer>"
    for form in earned([text], [_SAMPLE]).values():
        assert all(math.isfinite(value) for values in form.values() for value in values)


def _of_the_whole(sample: Sample) -> float:
    trace = Trace(steps=[Step(boxes=[AreaBox(bbox_2d=WHOLE, depth=0.5)], text="t")], answer="a")
    return earned([render(trace)], [sample])["robust"]["grounding"][0]


def _sum(rewards: dict[str, list[float]]) -> float:
    return sum(sum(values) for values in rewards.values())
