"""Answer: is it right? Verified where that is possible, judged where it is not, with a bonus for progress."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sifthinker.policy import prompts
from sifthinker.training.rewards.completions import Completion, Reading, column, readings, text_of
from sifthinker.training.rewards.matching import AnswerKind, Match, match
from sifthinker.training.rewards.progress import ProgressMemory, boosted, group_means
from sifthinker.training.rewards.wording import likeness


@dataclass(frozen=True)
class Case:
    """What a judge is asked."""

    question: str
    truth: str
    said: str


class Judges(Protocol):
    """Scores free answers: 0 to 1 each, None where it failed to. `sifthinker.training.rewards.judge.Judge` is one."""

    def __call__(self, cases: Sequence[Case]) -> list[float | None]: ...


def answer_reward(
    completions: Sequence[Completion],
    answer: Sequence[str],
    options: Sequence[Sequence[str] | None] | None = None,
    previous: Sequence[float | None] | None = None,
    depth: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float]:
    """What the answers are worth, 0 to 1 each, plus the progress bonus: in [0, 2].

    With options an answer must name one of them and nothing besides (see `matching`); without, it is compared as yes or
    no, as a number, as a text (exactly, else word for word, see `wording`), as the truth is. With `previous` s > s_prev
    earns s − s_prev again.

    Args:
        completions: texts or lists of messages. One that is not a trace earns 0.
        answer: the right answers.
        options: the answers to choose from; a row may be None or empty.
        previous: of each sample the mean score at its last visit, without its bonus; None before the first.
        depth: as in `format_reward`.
        columns: what else TRL hands over; of it `question`, or the words of `prompts`, for free texts.

    Raises:
        UsageError: a column has another length.
    """
    matches = match_answers(completions, answer, options, depth, **columns)
    before = [None] * len(matches) if previous is None else column("previous", previous, len(matches))
    return [boosted(one.score, last) for one, last in zip(matches, before, strict=True)]


_Row = tuple[str, float | None, float | None, bool]
"""A completion's sample, what it is worth, the same with the bonus, and whether that was the judge's to say."""


class AnswerReward:
    """The answer reward with what a run adds to it: a memory for the progress bonus, and a judge for free texts.

    A judge decides only where an answer is a free text and not the right one word for word. A row on which it failed
    gets the mean of its group, which gives it no advantage; see `fill_failed`. Where it scored nothing of a group, what
    is known of that is broken traces and exact answers only: the whole group is None. A visit on which it failed
    anywhere is not remembered.

    Args:
        judge: scores free texts; without one they are compared word for word.
        memory: what the samples earned at their last visit; without one there is no bonus, unless the column
            `previous` brings it.
        gather: brings the rows of all processes together (`accelerate.utils.gather_object`): where a group is spread
            over several, its mean can be had in no other way. Every process must then call the reward.

    A sample is known by its column `id`; without one, by its question, answer, options and boxes.
    """

    __name__ = "answer_reward"  # what TRL calls it in its logs

    def __init__(
        self,
        *,
        judge: Judges | None = None,
        memory: ProgressMemory | None = None,
        gather: Callable[[list[Any]], list[Any]] | None = None,
    ) -> None:
        self.judge = judge
        self.memory = memory
        self.gather = gather

    def __call__(
        self,
        completions: Sequence[Completion],
        answer: Sequence[str],
        options: Sequence[Sequence[str] | None] | None = None,
        previous: Sequence[float | None] | None = None,
        depth: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """As `answer_reward`; a row is None where the judge scored nothing of its group and was to."""
        count = len(completions)
        keys = sample_keys(count, answer=answer, options=options, **columns)
        before = self._before(keys, previous)
        scores, judged = self._scores(completions, answer, options, depth, columns)
        rows: list[_Row] = [
            (key, score, None if score is None else boosted(score, last), by_judge)
            for key, score, last, by_judge in zip(keys, scores, before, judged, strict=True)
        ]
        everyone = rows if self.gather is None else self.gather(rows)
        groups = [key for key, *_ in everyone]
        failed = {key for key, score, *_ in everyone if score is None}
        if self.memory is not None:
            means = group_means(groups, [score for _, score, *_ in everyone])
            self.memory.record({key: mean for key, mean in means.items() if key not in failed})
        unjudged = failed - {key for key, score, _, by_judge in everyone if by_judge and score is not None}
        means = group_means(groups, [reward for _, _, reward, _ in everyone])
        filled = [means.get(key) if reward is None else reward for key, _, reward, _ in rows]
        return [None if key in unjudged else reward for key, reward in zip(keys, filled, strict=True)]

    def _before(self, keys: Sequence[str], previous: Sequence[float | None] | None) -> Sequence[float | None]:
        if previous is not None:
            return column("previous", previous, len(keys))
        return [None if self.memory is None else self.memory.previous(key) for key in keys]

    def _scores(
        self,
        completions: Sequence[Completion],
        answer: Sequence[str],
        options: Sequence[Sequence[str] | None] | None,
        depth: Sequence[Any] | None,
        columns: dict[str, Any],
    ) -> tuple[list[float | None], list[bool]]:
        """What each answer is worth, without a bonus (None where the judge failed); which were the judge's to score."""
        matches = match_answers(completions, answer, options, depth, **columns)
        scores: list[float | None] = [one.score for one in matches]
        judged = [self.judge is not None and not one.settled for one in matches]
        free = [index for index, one in enumerate(matches) if not one.settled]
        if self.judge is not None and free:
            asked = questions(len(matches), **columns)
            read = readings(completions, depth)
            cases = [Case(asked[index], answer[index], given_answer(read[index])) for index in free]
            for index, score in zip(free, self.judge(cases), strict=True):
                scores[index] = score
        if self.judge is not None and (log_metric := columns.get("log_metric")) is not None:
            log_metric("judge/failed", scores.count(None) / max(len(scores), 1))
        return scores, judged


def match_answers(
    completions: Sequence[Completion],
    answer: Sequence[str],
    options: Sequence[Sequence[str] | None] | None = None,
    depth: Sequence[Any] | None = None,
    **columns: Any,
) -> list[Match]:
    """Each answer against the right one."""
    count = len(completions)
    choices = [None] * count if options is None else column("options", options, count)
    asked = [""] * count if all(choices) else questions(count, **columns)
    rows = zip(readings(completions, depth), column("answer", answer, count), choices, asked, strict=True)
    return [match_answer(*row) for row in rows]


def match_answer(reading: Reading, truth: str, options: Sequence[str] | None, question: str = "") -> Match:
    """The answer of one completion against the right one. What is not a trace has no answer."""
    if reading.trace is None:
        kind = AnswerKind.CHOICE if options else AnswerKind.TEXT
        return Match(0.0, kind, "not a trace, so there is no answer")
    found = match(reading.trace.answer, truth, options)
    if found.settled:
        return found
    score, why = likeness(reading.trace.answer, truth, question)
    return replace(found, score=score, reason=f"{found.reason}, word for word {score:.2f}: {why}")


def given_answer(reading: Reading) -> str:
    """The answer of a trace; empty where there is no trace."""
    return reading.trace.answer if reading.trace else ""


def questions(count: int, **columns: Any) -> list[str]:
    """The question of each row: the column `question`, else the words of the prompt's last message."""
    asked = columns.get("question")
    if asked is not None:
        return [str(one) for one in column("question", asked, count)]
    rows = columns.get("prompts")
    return [""] * count if rows is None else [_question(row) for row in column("prompts", rows, count)]


def sample_keys(count: int, **columns: Any) -> list[str]:
    """What tells the samples of a batch apart: their `id`, or a hash of all that is known of them."""
    ids = columns.get("id")
    if ids is not None:
        return [str(one) for one in column("id", ids, count)]
    known = [questions(count, **columns)]
    known += [list(columns[name]) for name in ("answer", "options", "boxes") if columns.get(name) is not None]
    return [hashlib.sha256(json.dumps(row, default=repr).encode()).hexdigest()[:32] for row in zip(*known, strict=True)]


def _question(prompt: Any) -> str:
    if not isinstance(prompt, str):
        asked = [turn for turn in prompt if turn.get("role") == "user"][-1:]
        prompt = text_of([{**turn, "role": "assistant"} for turn in asked])
    for words in (prompts.FOCUS_SUFFIX, prompts.DIRECT_SUFFIX, prompts.ORIGINAL_IMAGE, prompts.DEPTH_IMAGE):
        prompt = prompt.replace(words, "")
    return str(prompt).strip()
