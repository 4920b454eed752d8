"""Many samples at once, in a bounded window, each finished exactly once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel

from sifthinker.policy.errors import DataError, PolicyError, PolicyTimeout, PolicyUnavailable, UsageError
from sifthinker.training.data.intake import Unreadable
from sifthinker.training.data.make import Effort, Maker, reject_of
from sifthinker.training.data.records import Record, Reject
from sifthinker.training.data.samples import BadRow, SourceSample
from sifthinker.training.data.shards import Entry, ShardStore
from sifthinker.training.data.sources import Source
from sifthinker.training.data.teacher import TeacherCounts

logger = logging.getLogger(__name__)

PASSES = 2
"""Samples whose teacher failed are tried once more after all others."""
GONE_IN_A_ROW = 50
"""So many images in a row that cannot be had end a run: a folder is not mounted, or not fetched to its end."""
_MISSING = "image:missing"
_NO_IMAGE = (_MISSING, "outside")
"""Reasons of rejects that say nothing about whether any image is there."""
_ANY_REQUEST = (401, 402, 403, 404)
"""What a server answers whatever it is asked: the key has expired, the credit is used up, the model is not there."""

_Job = tuple[int, Source, SourceSample | BadRow]
E = TypeVar("E", bound=Exception)


class Progress(BaseModel):
    """What a run did so far."""

    earlier: int = 0
    """Samples that earlier runs had finished."""
    accepted: int = 0
    rejected: int = 0
    open: int = 0
    """Samples whose teacher failed, or whose image the system cannot read."""
    teacher: TeacherCounts = TeacherCounts()

    @property
    def kept(self) -> str:
        """What a run that ends too early leaves, as a sentence."""
        return f"{self.earlier + self.accepted + self.rejected} finished samples are kept. "


@dataclass
class Runner:
    """Runs a maker over the samples of some sources, into the shards of a folder.

    Args:
        sources: iterated in order; position 0 is the first sample of the first.
        maker: called in threads.
        store: of a folder that this process has locked.
        concurrency: samples under way at once; twice as many wait with their images not yet loaded.
        failures_in_a_row: so many calls that the teacher did not answer end the run, or twice `concurrency` where that
            is more: as many may fail of one blip.
        counts: the teacher's, for the progress.
        on_progress: told after each sample.
        give_up: reject what fails twice, and images that are missing, instead of leaving them open.
        most_refused: so many replies at the beginning of a folder of which none was accepted end the run; 0: none do.
    """

    sources: Sequence[Source]
    maker: Maker
    store: ShardStore
    concurrency: int
    failures_in_a_row: int
    counts: TeacherCounts = field(default_factory=TeacherCounts)
    on_progress: Callable[[Progress], None] | None = None
    progress: Progress = field(default_factory=Progress)
    give_up: bool = False
    most_refused: int = 0
    _failed_in_a_row: int = 0
    _refused: set[int] = field(default_factory=set)
    """Positions that the server refused in the first pass."""
    _gone_in_a_row: int = 0
    _missing: list[tuple[int, Reject]] = field(default_factory=list)
    """Samples whose image is not there, kept only once another's is: so an empty folder rejects nothing."""
    _unreadable: int = 0
    _to_any: int = 0
    """Of the open samples, those whose image the system cannot read."""
    _replies: int = 0
    _last_pass: bool = False
    _last_error: str = ""
    _last_fault: str = ""
    _pending: dict[Future[Record | Reject], _Job] = field(default_factory=dict)

    def run(self) -> Progress:
        """Finish every sample.

        Raises:
            PolicyError: the teacher does not answer; what is finished is kept.
            DataError: images cannot be read, or none of the teacher's replies can be used; likewise.
            OSError: the folder cannot be written; likewise.
            UsageError: the sources hold no sample.
        """
        total = 0
        for number in range(1, PASSES + 1):
            self._last_pass = number == PASSES
            total = self._pass(first=number == 1)
            self.store.close_all(total)
            if not self.progress.open:
                return self.progress
        unanswered = self.progress.open - self._unreadable
        if not unanswered:
            raise DataError(
                f"The images of {self._unreadable} of {total} samples cannot be read, last: {self._last_fault} "
                f"{self.progress.kept}Run the same command again when they can, or with --give-up to reject these."
            )
        rejecting = "" if self._to_any == unanswered else ", or with --give-up to reject what it fails on twice"
        raise PolicyUnavailable(
            f"The teacher failed on {unanswered} of {total} samples, last: {self._last_error} "
            f"{self.progress.kept}Run the same command again when it answers{rejecting}."
        )

    @property
    def _most_in_a_row(self) -> int:
        return max(self.failures_in_a_row, 2 * self.concurrency)

    @property
    def _alive(self) -> bool:
        """Whether the teacher has answered in this run."""
        return self.counts.calls > self.counts.failed

    def _pass(self, *, first: bool) -> int:
        """Go once over all samples that are not finished; how many there are in all."""
        self.progress.open = self._unreadable = self._to_any = 0
        total = 0
        pending = self._pending
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="sample")
        with ExitStack() as broken_off:
            # A call under way may take minutes: it is not waited for, but what it comes back with is not written, since
            # the folder is free by then.
            broken_off.callback(self.maker.gate.close)
            broken_off.callback(pool.shutdown, wait=False, cancel_futures=True)
            for job in self._jobs():
                position = job[0]
                total = position + 1
                if self.store.finished(position):
                    self._gone_in_a_row = 0  # not one after the other in the sources
                    self.progress.earlier += first
                    self.store.close_full(position)
                    continue
                pending[pool.submit(self.maker, *job)] = job
                if len(pending) >= 2 * self.concurrency:
                    self._take()
            while pending:
                self._take()
            broken_off.pop_all()
        pool.shutdown()
        self._image_there()
        if not total:
            raise UsageError("The sources hold no sample: is a limit 0, or everything excluded?")
        return total

    def _jobs(self) -> Iterator[_Job]:
        position = 0
        for source in self.sources:
            for sample in source:
                yield position, source, sample
                position += 1

    def _take(self) -> None:
        """Keep what is finished, after waiting for something to be; what went well first, as it tells who is alive."""
        done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda one: (one.exception() is not None, self._pending[one][0])):
            self._finish(self._pending.pop(future), future)
            self.progress.teacher = self.counts
            if self.on_progress is not None:
                self.on_progress(self.progress)

    def _finish(self, job: _Job, future: Future[Record | Reject]) -> None:
        made: Record | Reject | None
        try:
            made = future.result()
        except Unreadable as error:
            made = self._not_read(job, error)
        except PolicyError as error:
            self._image_there(job[0])
            made = self._failed(job, error)
        else:
            if isinstance(made, Reject) and made.reason == _MISSING and not self.give_up:
                self._missing.append((job[0], made))
                self._gone(made.message)
                return
            if isinstance(made, Record) or made.attempts:
                self._failed_in_a_row = 0
            if isinstance(made, Record) or (isinstance(job[2], SourceSample) and made.reason not in _NO_IMAGE):
                self._image_there(job[0])
        if made is not None:
            self._keep(job[0], made)
            self._count_replies(made)

    def _keep(self, position: int, made: Record | Reject) -> None:
        if isinstance(made, Record):
            self.store.add(Entry(position=position, record=made))
            self.progress.accepted += 1
        else:
            self.store.add(Entry(position=position, reject=made))
            self.progress.rejected += 1
        self.store.close_full(position)

    def _ends(self, kind: type[E], what: str, then: str) -> E:
        """The error that ends a run too early, once what has come since is kept."""
        for future in [one for one in self._pending if one.done() and one.exception() is None]:
            position, *_ = self._pending.pop(future)
            made = future.result()
            if isinstance(made, Record) or made.reason != _MISSING:
                self._keep(position, made)
        return kind(f"{what} {self.progress.kept}{then}")

    def _count_replies(self, made: Record | Reject) -> None:
        """A teacher none of whose first replies can be used is at fault, and not the samples."""
        if isinstance(made, Record) or not self.most_refused or self.progress.accepted or self.progress.earlier:
            return
        before, self._replies = self._replies, self._replies + made.attempts
        if before < self.most_refused <= self._replies:
            raise self._ends(
                DataError,
                f"None of the teacher's first {self._replies} replies was accepted, the last for: {made.message}",
                "Run the same command again to go on all the same, with --retry "
                f"{made.reason} to ask anew for those that were refused.",
            )

    def _failed(self, job: _Job, error: PolicyError) -> Reject | None:
        """A sample whose teacher failed is left open: another pass, or another run, tries it again.

        Only what a living server refuses in both passes (a content filter, say) is the sample's own fault; what it does
        not answer is so only if the caller says it (`give_up`), and never where nothing was answered yet. What a server
        says to any request, a key that has expired, say, is never a sample's fault.
        """
        absent = isinstance(error, (PolicyTimeout, PolicyUnavailable)) or _says_so_to_any(error)
        if self._last_pass and not absent and self._alive and job[0] in self._refused:
            return reject_of(*job, Effort(), "refused", str(error))
        if self._last_pass and self.give_up and not _says_so_to_any(error) and (self._alive or self.progress.earlier):
            return reject_of(*job, Effort(), "unanswered", str(error))
        self._last_error = str(error)
        self._to_any += _says_so_to_any(error)
        self.progress.open += 1
        if absent:
            self._failed_in_a_row += 1
        else:
            self._refused.add(job[0])
        if self._failed_in_a_row >= self._most_in_a_row:
            what = f"The teacher failed {self._failed_in_a_row} times in a row, last: {error}"
            raise self._ends(PolicyUnavailable, what, "Run the same command again when it answers.") from error
        if len(self._refused) >= self._most_in_a_row and not self._alive and not self.progress.earlier:
            what = f"The teacher refused all of {len(self._refused)} samples, last: {error}"
            raise self._ends(PolicyUnavailable, what, "Run the same command again when it takes them.") from error
        logger.info("Sample %d is left for later: %s", job[0], error)
        return None

    def _not_read(self, job: _Job, error: Unreadable) -> Reject | None:
        """A sample whose image the system cannot read is left open, like one whose teacher failed."""
        if self._last_pass and self.give_up:
            return reject_of(*job, Effort(), "unreadable", str(error))
        if not self.give_up:
            self._gone(str(error))
        self._last_fault = str(error)
        self._unreadable += 1
        self.progress.open += 1
        return None

    def _gone(self, why: str) -> None:
        self._gone_in_a_row += 1
        if self._gone_in_a_row >= max(GONE_IN_A_ROW, 2 * self.concurrency):
            raise self._ends(
                DataError,
                f"The images of {self._gone_in_a_row} samples in a row cannot be had, last: {why}",
                "Is their folder mounted, and fetched to its end? Run the same command again when it is, or with "
                "--give-up to reject the samples whose image is missing.",
            )

    def _image_there(self, place: float = math.inf) -> None:
        """The image of a sample can be read: those that were missing before it are the samples' own fault."""
        before = [one for one in self._missing if one[0] < place]
        self._missing = [one for one in self._missing if one[0] >= place]
        self._gone_in_a_row = len(self._missing)
        for position, made in before:
            self._keep(position, made)


def _says_so_to_any(error: PolicyError) -> bool:
    """Whether a server refused in a way that has nothing to do with what it was asked."""
    return error.status is not None and (error.status in _ANY_REQUEST or 300 <= error.status < 400)
