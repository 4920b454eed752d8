"""The rewards of a run, as TRL calls them: which forms, which weights, the memory of the progress bonus, the judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sifthinker.policy.errors import UsageError
from sifthinker.training import rewards as robust
from sifthinker.training.grpo.recipe import JudgeConfig, RewardConfig
from sifthinker.training.rewards import ProgressMemory, published
from sifthinker.training.rewards.answer import Judges
from sifthinker.training.rewards.control import random_reward

Reward = Callable[..., list[float | None]]


def build_rewards(
    config: RewardConfig,
    *,
    memory: ProgressMemory,
    judge: Judges | None = None,
    gather: Callable[[list[Any]], list[Any]] | None = None,
) -> tuple[list[Reward], list[float]]:
    """The rewards that count, and their weights.

    Args:
        config: which.
        memory: for the progress bonus; it is left empty where the bonus is off.
        judge: of free answers.
        gather: brings the rows of all processes together.
    """
    weights = config.weights
    if config.form == "random":
        return [random_reward(name) for name in weights], list(weights.values())
    forms: Any = robust if config.form == "robust" else published
    answer = forms.AnswerReward(judge=judge, memory=memory if config.progress else None, gather=gather)
    all_of_them: dict[str, Reward] = {
        "format": forms.format_reward,
        "answer": answer,
        "grounding": forms.grounding_reward,
        "depth": forms.depth_reward,
    }
    return [all_of_them[name] for name in weights], list(weights.values())


def load_judge(config: JudgeConfig | None, run: Path, *, processes: int = 1) -> Judges | None:
    """The judge of a run; None where there is none.

    Args:
        config: which.
        run: the run's folder, which keeps its verdicts.
        processes: that each have one, and share its calls.

    Raises:
        UsageError: what it needs is not installed, or its address is none.
    """
    if config is None:
        return None
    try:
        from sifthinker.training.rewards.judge import Judge
    except ImportError as error:
        raise UsageError("A judge needs httpx and tenacity: pip install 'sifthinker[remote]'.") from error
    return Judge(
        config.model,
        config.url,
        cache=config.cache or run / "judge",
        max_concurrent=max(1, config.max_concurrent // processes),
        attempts=config.attempts,
        call_timeout=config.call_timeout,
        batch_timeout=config.batch_timeout,
    )
