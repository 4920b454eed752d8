"""Asking the validation questions: each once in both ways, kept as it comes, so that a broken-off run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from sifthinker.agent import FocusAgent
from sifthinker.agent.result import FocusResult
from sifthinker.policy.calibration_store import identity_of
from sifthinker.policy.errors import DataError, ImageError, UsageError
from sifthinker.policy.home import data_folder
from sifthinker.training.calibrate.learn import Outcome
from sifthinker.training.compare.data import Question, QuestionSet, Said, digest
from sifthinker.training.compare.grading import is_right
from sifthinker.training.compare.results import data_sha256
from sifthinker.training.rewards.matching import tagged_answer


def ask_questions(
    agent: FocusAgent,
    data: QuestionSet,
    questions: Sequence[Question],
    *,
    seed: int = 0,
    workers: int = 16,
    journal: Path | None = None,
    on_done: Callable[[], None] | None = None,
) -> list[Outcome]:
    """The outcome of each question, in their order.

    Args:
        agent: in mode adaptive, told to go on always.
        data, questions: what is asked; options are shown in an order drawn from the seed.
        workers: questions under way at once; a local policy shares forward passes among them.
        journal: file to keep the outcomes in as they come; what it holds is not asked again.
        on_done: called after each question, those of the journal included.

    Raises:
        PolicyError: the policy failed or its server is gone; what was answered stays in the journal.
    """
    kept = Journal(journal) if journal is not None else None
    done = dict(kept.outcomes) if kept is not None else {}
    open_ = [question for question in questions if question.id not in done]
    for _ in range(len(questions) - len(open_)):
        if on_done is not None:
            on_done()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="calibrate")
    try:
        futures = [pool.submit(_ask, agent, data, question, seed) for question in open_]
        for future in as_completed(futures):
            outcome = future.result()
            done[outcome.id] = outcome
            if kept is not None:
                kept.add(outcome)
            if on_done is not None:
                on_done()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if kept is not None:
            kept.close()
    return [done[question.id] for question in questions]


def data_digest(data: QuestionSet, questions: Sequence[Question]) -> str:
    """SHA-256 of questions, answers and pictures: that of a comparison on them."""
    return data_sha256([digest(question, data.image(question)) for question in questions])


def journal_path(agent: FocusAgent, data_sha256: str, seed: int) -> Path:
    """Where the outcomes of a calibration under way are kept: a file for each policy, data, seed and way of asking."""
    context = agent.context
    asked = [identity_of(context.policy), data_sha256, seed, context.config.model_dump_json()]
    asked.append(getattr(context.depth, "name", None))
    name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
    return data_folder() / "calibration" / f"{name}.answers.jsonl"


class Journal:
    """Outcomes on disk, a line each. A line that was cut off when the process ended is asked again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, Outcome] = {}
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("a+b")
            self._file.seek(0)
            whole = 0
            for line in self._file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                outcome = Outcome.model_validate_json(line)
                self.outcomes[outcome.id] = outcome
            self._file.truncate(whole)
        except OSError as error:
            raise UsageError(f"The answers cannot be kept in {str(path.parent)!r} ({error.strerror}).") from error
        except ValueError as error:
            raise DataError(f"{path} is damaged: remove it, and the questions are asked anew.") from error

    def add(self, outcome: Outcome) -> None:
        """Have an outcome on disk."""
        with self._lock:
            self._file.write(outcome.model_dump_json().encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _ask(agent: FocusAgent, data: QuestionSet, question: Question, seed: int) -> Outcome:
    options = list(question.options)
    np.random.default_rng([seed, *question.id.encode()]).shuffle(options)
    told: dict[str, Any] = {"id": question.id, "group": question.group or question.id, "family": question.family}
    try:
        result = agent.ask(question.text, image=data.image(question), options=options)
    except (ImageError, DataError) as error:
        return _failed(told, str(error))
    return _outcome(told, result, data, replace(question, options=tuple(options)))


def _outcome(told: dict[str, Any], result: FocusResult, data: QuestionSet, question: Question) -> Outcome:
    adaptive = result.adaptive
    if adaptive is None:
        raise UsageError("Expected an agent in mode adaptive.")
    first, second = adaptive.internal, adaptive.tools

    def right(answer: str, text: str) -> bool:
        """As a comparison counts it."""
        return is_right(question, Said(answer=tagged_answer(answer, text), text=text), data)

    return Outcome(
        **told,
        internal_right=right(first.answer, first.trace_text),
        tools_right=right(result.answer, result.trace_text),
        malformed="malformed" in adaptive.reasons,
        confidence=adaptive.confidence,
        depth_gap=adaptive.depth_gap,
        internal_tokens=first.tokens.prompt + first.tokens.completion,
        tools_tokens=0 if second is None else second.tokens.prompt + second.tokens.completion,
        internal_seconds=first.seconds,
        tools_seconds=0.0 if second is None else second.seconds,
        internal_images=first.tokens.images,
        tools_images=0 if second is None else second.tokens.images,
    )


def _failed(told: dict[str, Any], error: str) -> Outcome:
    return Outcome(
        **told, internal_right=False, tools_right=False, malformed=True, confidence=None, depth_gap=None,
        internal_tokens=0, tools_tokens=0, internal_seconds=0.0, tools_seconds=0.0, internal_images=0, tools_images=0,
        error=error,
    )  # fmt: skip
