"""Which questions are asked, in which order: everything that a comparison consists of, as jobs with their keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from sifthinker.nodes.context import Mode
from sifthinker.policy.errors import UsageError
from sifthinker.training.compare.answering import shuffled
from sifthinker.training.compare.data import Question, QuestionSet, digest, limited
from sifthinker.training.compare.journal import Journal
from sifthinker.training.compare.recolour import FAMILIES
from sifthinker.training.compare.records import TIMING, Answered, Control, Edit, EditKind, Job, Key

_BLOCK = 16  # questions that go through all modes before the next
CONTROL_MODE: Mode = "tools"
"""The mode in which the controls' boxes are looked at."""


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        policies: their names.
        modes: how each of them focuses.
        controls: boxes in place of the policy's, in mode tools.
        seeds: of the options' order, and of the controls' boxes.
        limit: so many questions, the families in turn; None: all.
        edits: changes of the picture after the first pass, for faithfulness; empty: none.
        edited_modes: those whose answers are then asked for again.
        edited: so many questions of them, the families in turn; None: all.
        timed: so many questions are asked once more, alone.
        exact_depth: whether depth is the data's own.
    """

    policies: tuple[str, ...]
    modes: tuple[Mode, ...]
    controls: tuple[Control, ...] = ()
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    edits: tuple[EditKind, ...] = ()
    edited_modes: tuple[Mode, ...] = ()
    edited: int | None = None
    timed: int = 0
    exact_depth: bool = False


class Asked:
    """The jobs of a plan on some data."""

    def __init__(self, plan: Plan, data: QuestionSet) -> None:
        self.plan = plan
        self.data = data
        self.questions = limited(data.questions(), plan.limit)
        self._digests: dict[str, bytes] = {}

    def first(self) -> Iterator[Job]:
        """Every question in every mode and with every control, some questions at a time.

        So a mode finds what the one before it has encoded of the same picture, and a run that is broken off has whole
        pairs.
        """
        ways = [(mode, "") for mode in self.plan.modes] + [(CONTROL_MODE, one) for one in self.plan.controls]
        for start in range(0, len(self.questions), _BLOCK):
            for policy, seed, (mode, control) in product(self.plan.policies, self.plan.seeds, ways):
                for question in self.questions[start : start + _BLOCK]:
                    key = Key(policy=policy, mode=mode, control=control, seed=seed, question=question.id)
                    yield self._job(question, key)

    def edits(self, journal: Journal) -> Iterator[Job]:
        """The questions once more with the picture changed, as far as the kind of change makes sense."""
        for question in limited(self.questions, self.plan.edited):
            for seed in self.plan.seeds:
                for policy in self.plan.policies:
                    for mode in self.plan.edited_modes:
                        before = journal.get(Key(policy=policy, mode=mode, seed=seed, question=question.id))
                        for kind in self.plan.edits if before is not None else ():
                            if kind != "recolour" or _recolourable(question):
                                yield from self._pair(question, before, kind)

    def timings(self) -> Iterator[Job]:
        """Some questions alone, mode after mode."""
        for policy in self.plan.policies:
            for mode in self.plan.modes:
                for question in limited(self.questions, self.plan.timed):
                    key = Key(policy=policy, mode=mode, seed=self.plan.seeds[0], question=question.id, variant=TIMING)
                    yield self._job(question, key)

    def again(self, key: Key) -> Job | None:
        """What was asked under a key, with the picture as it is; None where the question is not of the plan."""
        question = next((one for one in self.questions if one.id == key.question), None)
        return None if question is None else self._job(question, key)

    def counts(self) -> dict[tuple[str, str, str], int]:
        """How many answers there will be, by policy, by mode or control, and by pass ("", "edits", "timing")."""
        counts: dict[tuple[str, str, str], int] = {}
        edited = 2 * sum(
            kind != "recolour" or _recolourable(question)
            for question in (limited(self.questions, self.plan.edited) if self.plan.edits else ())
            for kind in self.plan.edits
        )
        for policy in self.plan.policies:
            for name in (*self.plan.modes, *self.plan.controls):
                counts[policy, name, ""] = len(self.questions) * len(self.plan.seeds)
            for mode in self.plan.edited_modes if edited else ():
                counts[policy, mode, "edits"] = edited * len(self.plan.seeds)
            for mode in self.plan.modes if self.plan.timed else ():
                counts[policy, mode, TIMING] = min(self.plan.timed, len(self.questions))
        return counts

    def digest(self, question: Question) -> str:
        """Of the question and its picture."""
        if question.id not in self._digests:
            self._digests[question.id] = bytes.fromhex(digest(question, self.data.image(question)))
        return self._digests[question.id].hex()

    def check(self, rows: Iterable[Answered]) -> None:
        """See that answers given before are answers to these questions.

        Raises:
            UsageError: a question or its picture has changed since.
        """
        by_id = {question.id: question for question in self.questions}
        for row in rows:
            question = by_id.get(row.question)
            if question is not None and row.digest != self.digest(question):
                raise UsageError(
                    f"Question {question.id!r} or its picture has changed since it was answered: name another folder."
                )

    def _pair(self, question: Question, before: Answered | None, kind: EditKind) -> Iterator[Job]:
        assert before is not None
        for place in ("cited", "elsewhere"):
            edit = Edit(kind, place, tuple(before.last_boxes), before.answer)
            yield self._job(question, before.key.model_copy(update={"variant": edit.variant}), edit)

    def _job(self, question: Question, key: Key, edit: Edit | None = None) -> Job:
        return Job(
            key=key,
            question=question,
            image=self.data.image(question),
            options=shuffled(question.options, question.id, key.seed),
            digest=self.digest(question),
            depth=self.data.depth(question) if self.plan.exact_depth else None,
            edit=edit,
        )


def _recolourable(question: Question) -> bool:
    """Whether it is about a colour or a sign of the block world."""
    return bool(question.extra.get("world")) and question.family in FAMILIES
