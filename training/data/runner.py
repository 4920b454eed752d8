"""Many samples at once, in a bounded window, each finished exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field

from pydantic import BaseModel

from sifthinker.policy.errors import PolicyError, PolicyTimeout, PolicyUnavailable, UsageError
from sifthinker.training.data.make import Effort, Maker, reject_of
from sifthinker.training.data.records import Record, Reject
from sifthinker.training.data.samples import BadRow, SourceSample
from sifthinker.training.data.shards import Entry, ShardStore
from sifthinker.training.data.sources import Source
from sifthinker.training.data.teacher import TeacherCounts

logger = logging.getLogger(__name__)

PASSES = 2
"""Samples whose teacher failed are tried once more after all others."""

_Job = tuple[int, Source, SourceSample | BadRow]


class Progress(BaseModel):
    """What a run did so far."""

    earlier: int = 0
    """Samples that earlier runs had finished."""
    accepted: int = 0
    rejected: int = 0
    open: int = 0
    """Samples whose teacher failed."""
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
        failures_in_a_row: so many failed teachers' calls end the run.
        counts: the teacher's, for the progress.
        on_progress: told after each sample.
        give_up: reject what the teacher fails on twice, instead of leaving it open.
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
    _failed_in_a_row: int = 0
    _last_pass: bool = False
    _last_error: str = ""

    def run(self) -> Progress:
        """Finish every sample.

        Raises:
            PolicyError: the teacher does not answer; what is finished is kept.
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
        raise PolicyUnavailable(
            f"The teacher failed on {self.progress.open} of {total} samples, last: {self._last_error} "
            f"{self.progress.kept}Run the same command again when it answers, or with --give-up to reject "
            "what it fails on twice."
        )

    def _pass(self, *, first: bool) -> int:
        """Go once over all samples that are not finished; how many there are in all."""
        self.progress.open = 0
        total = 0
        pending: dict[Future[Record | Reject], _Job] = {}
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
                    self.progress.earlier += first
                    self.store.close_full(position)
                    continue
                pending[pool.submit(self.maker, *job)] = job
                if len(pending) >= 2 * self.concurrency:
                    self._take(pending)
            while pending:
                self._take(pending)
            broken_off.pop_all()
        pool.shutdown()
        if not total:
            raise UsageError("The sources hold no sample: is a limit 0, or everything excluded?")
        return total

    def _jobs(self) -> Iterator[_Job]:
        position = 0
        for source in self.sources:
            for sample in source:
                yield position, source, sample
                position += 1

    def _take(self, pending: dict[Future[Record | Reject], _Job]) -> None:
        """Keep what is finished, after waiting for something to be."""
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            job = pending.pop(future)
            made: Record | Reject | None
            try:
                made = future.result()
            except PolicyError as error:
                made = self._failed(job, error)
            else:
                self._failed_in_a_row = 0
            if made is not None:
                self._keep(job[0], made)
            self.progress.teacher = self.counts
            if self.on_progress is not None:
                self.on_progress(self.progress)

    def _keep(self, position: int, made: Record | Reject) -> None:
        if isinstance(made, Record):
            self.store.add(Entry(position=position, record=made))
            self.progress.accepted += 1
        else:
            self.store.add(Entry(position=position, reject=made))
            self.progress.rejected += 1
        self.store.close_full(position)

    def _failed(self, job: _Job, error: PolicyError) -> Reject | None:
        """A sample whose teacher failed is left open: another pass, or another run, tries it again.

        Only what a living server refuses a second time (a content filter, say) is the sample's own fault; what it does
        not answer is so only if the caller says it (`give_up`), and never where nothing was answered yet.
        """
        refused = not isinstance(error, (PolicyTimeout, PolicyUnavailable))
        alive = self.counts.calls > self.counts.failed
        if self._last_pass and refused and alive:
            return reject_of(*job, Effort(), "refused", str(error))
        if self._last_pass and self.give_up and (alive or self.progress.earlier):
            return reject_of(*job, Effort(), "unanswered", str(error))
        self._last_error = str(error)
        self.progress.open += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self.failures_in_a_row:
            raise PolicyUnavailable(
                f"The teacher failed {self._failed_in_a_row} times in a row, last: {error} {self.progress.kept}Run the "
                "same command again when it answers."
            ) from error
        logger.info("Sample %d is left for later: %s", job[0], error)
        return None
