"""Which rewards count, by which weights, with which memory and which judge."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sifthinker.training.grpo.recipe import JudgeConfig, RewardConfig
from sifthinker.training.grpo.rewards import build_rewards, load_judge
from sifthinker.training.rewards import ProgressMemory, published
from sifthinker.training.rewards.answer import Case

TRACE = (
    '<think><area>[{{"bbox_2d":[0.000,0.000,1.000,1.000],"depth":0.500}}]</area><text>all</text></think>'
    "<answer>{}</answer>"
)


def _said(*answers: str) -> list[str]:
    return [TRACE.format(answer) for answer in answers]


def test_a_reward_of_weight_zero_is_left_out() -> None:
    rewards, weights = build_rewards(RewardConfig(depth=0, answer=2.0), memory=ProgressMemory())
    assert [reward.__name__ for reward in rewards] == ["format_reward", "answer_reward", "grounding_reward"]
    assert weights == [1.0, 2.0, 1.0]


def test_the_published_form_is_there_under_the_same_names() -> None:
    rewards, _ = build_rewards(RewardConfig(form="published"), memory=ProgressMemory())
    assert rewards[0] is published.format_reward
    assert isinstance(rewards[1], published.AnswerReward)
    assert [reward.__name__ for reward in rewards] == [
        f"{n}_reward" for n in ("format", "answer", "grounding", "depth")
    ]


@pytest.mark.parametrize("progress", [True, False])
def test_the_second_visit_pays_progress_where_it_is_on(progress: bool) -> None:
    memory = ProgressMemory()
    rewards, _ = build_rewards(RewardConfig(progress=progress), memory=memory)
    answer = rewards[1]
    columns = {"id": ["a", "a"], "answer": ["red", "red"], "options": [["red", "blue"]] * 2}
    assert answer(completions=_said("red", "blue"), **columns) == [1.0, 0.0]
    assert answer(completions=_said("red", "red"), **columns) == [1.5 if progress else 1.0] * 2
    assert len(memory) == int(progress)


def test_random_rewards_know_nothing_and_are_the_same_again() -> None:
    rewards, weights = build_rewards(RewardConfig(form="random", answer=2.0, depth=0), memory=ProgressMemory())
    assert [reward.__name__ for reward in rewards] == ["format_reward", "answer_reward", "grounding_reward"]
    assert weights == [1.0, 2.0, 1.0]
    said = [*_said(*map(str, range(999))), "\ud800"]
    columns = {"id": ["a"] * 1000, "answer": ["1"] * 1000, "options": [None] * 1000}
    drawn = np.array([reward(completions=said, **columns) for reward in rewards], dtype=float)
    assert np.array_equal(drawn, [reward(completions=said, **columns) for reward in rewards])
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.std() == pytest.approx(12**-0.5, abs=0.02)
    assert abs(np.corrcoef(drawn)[np.triu_indices(3, 1)]).max() < 0.1


class _Broken:
    """A judge that fails on every second case."""

    def __call__(self, cases: Sequence[Case]) -> list[float | None]:
        return [None if index % 2 else 0.5 for index, _ in enumerate(cases)]


def test_a_judge_that_fails_gives_the_mean_of_its_group_never_a_zero() -> None:
    rewards, _ = build_rewards(RewardConfig(), memory=ProgressMemory(), judge=_Broken())
    columns = {"id": ["a"] * 4, "answer": ["a long free text"] * 4, "options": [None] * 4, "question": ["why?"] * 4}
    assert rewards[1](completions=_said("one", "two", "three", "four"), **columns) == [0.5] * 4


def test_a_judge_is_made_from_the_recipe(tmp_path: Path) -> None:
    assert load_judge(None, tmp_path) is None
    pytest.importorskip("httpx")
    judge = load_judge(JudgeConfig(model="qwen3-32b", url="http://localhost:1/v1", attempts=2), tmp_path)
    assert judge is not None
    assert judge.attempts == 2  # type: ignore[attr-defined]
    assert judge.cache.folder == tmp_path / "judge"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("processes", "each"), [(1, 16), (8, 2), (32, 1)])
def test_the_calls_of_a_judge_are_shared_by_the_processes(processes: int, each: int, tmp_path: Path) -> None:
    pytest.importorskip("httpx")
    judge: Any = load_judge(JudgeConfig(model="qwen3-32b", url="http://localhost:1/v1"), tmp_path, processes=processes)
    assert judge.max_concurrent == each
