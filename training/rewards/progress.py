"""The progress bonus: an answer better than the sample's answers at its last visit earns the difference again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

from sifthinker.policy.errors import UsageError

K = TypeVar("K", bound=Hashable)


def boosted(score: float, previous: float | None) -> float:
    """The score plus what it is better than `previous`, the sample's mean score at its last visit (None: none yet)."""
    return score if previous is None else score + max(0.0, score - previous)


def group_means(keys: Sequence[K], scores: Sequence[float | None]) -> dict[K, float]:
    """Mean score of each group, of those that are known; a group of which none is known is left out."""
    known: dict[K, list[float]] = {}
    for key, score in zip(keys, scores, strict=True):
        if score is not None:
            known.setdefault(key, []).append(score)
    return {key: sum(group) / len(group) for key, group in known.items()}


def fill_failed(keys: Sequence[Hashable], scores: Sequence[float | None]) -> list[float | None]:
    """Scores, each one that failed (None) filled with the mean of its group, so that it earns no advantage.

    TRL counts a None as 0 as soon as another reward is present: a failure would look like a wrong answer. With the
    group's mean the completion stands exactly where its group stands. Where a whole group failed, None stays: it is the
    same for all of the group, so nobody gains from it, and TRL leaves it out of the logged mean.

    Args:
        keys: the group of each completion: the same for all completions of a prompt.
        scores: as they were given, None where scoring failed.
    """
    means = group_means(keys, scores)
    return [means.get(key) if score is None else score for key, score in zip(keys, scores, strict=True)]


class ProgressMemory:
    """Mean raw score of every sample at its last visit: never the boosted one, a zero as well as any other.

    A visit is one call of the reward with all completions of the sample. `recording` False (during an evaluation)
    leaves the memory as it is. `state_dict` goes into a checkpoint; a resumed run then pays the same bonuses.
    """

    def __init__(self) -> None:
        self.recording = True
        self._means: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._means)

    def previous(self, key: str) -> float | None:
        """The sample's mean raw score at its last visit; None before the first."""
        return self._means.get(key)

    def record(self, means: Mapping[str, float]) -> None:
        """Note the mean raw scores of a visit, by sample."""
        if self.recording:
            self._means.update(means)

    def state_dict(self) -> dict[str, Any]:
        """All there is to remember, as JSON takes it."""
        return {"means": dict(self._means)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            UsageError: it is none.
        """
        means = state.get("means")
        if not isinstance(means, dict) or not all(isinstance(mean, (int, float)) for mean in means.values()):
            raise UsageError("Expected the state of a ProgressMemory, {'means': {sample: score}}: is it another's?")
        self._means = {str(key): float(mean) for key, mean in means.items()}
