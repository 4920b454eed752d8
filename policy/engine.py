"""The engine of a local policy: threads ask at the same time, and share forward passes.

A turn that comes while others are being decoded joins them at the next step. For several callers a thread of its own
runs the model, so that one that fails or is interrupted disturbs nobody; a caller that is alone runs it itself, which
spares it waking and waiting at every token (a fifth of the time of a small model on a CPU).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sifthinker.policy.errors import PolicyError
from sifthinker.policy.forward_thread import ForwardThread
from sifthinker.policy.job import Job
from sifthinker.policy.kv_cache import PrefixCache
from sifthinker.policy.running import Running

_THREAD = object()


@dataclass(eq=False)
class _Caller:
    """A thread inside `run`, and what wakes it: its jobs' text, or their end."""

    jobs: Sequence[Job]
    wake: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        return all(job.done for job in self.jobs)


class Engine:
    """Runs turns on one model.

    Args:
        model: a transformers image-text-to-text model in eval mode.
        suppressed: ids never generated.
        cache: the prefix cache.
        max_batch: turns decoded in one forward pass. With 1, a turn's numbers do not depend on what runs beside it.
        max_bytes: of the caches of those turns; further ones wait. None: any.
    """

    def __init__(
        self,
        model: Any,
        *,
        suppressed: Sequence[int],
        cache: PrefixCache,
        max_batch: int,
        max_bytes: int | None = None,
    ) -> None:
        self._running = Running(model, suppressed=suppressed, cache=cache, max_batch=max_batch, max_bytes=max_bytes)
        self.patch_family = self._running.patch_family
        self._matrix_threads = torch.get_num_threads()
        self._driver: _Caller | object | None
        """Who runs the model: a caller that is alone, `_THREAD`, or nobody."""
        self._begin_anew()
        _engines.add(self)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs to their end, together with those of other threads.

        Raises:
            PolicyError: the model failed on one of them.
            Exception: whatever `on_token` raises; the jobs are then dropped, those of other threads go on.
        """
        caller = _Caller(jobs)
        try:
            with self._lock:
                self._callers.add(caller)
                self._waiting.extend(jobs)
                self._matrix_threads = torch.get_num_threads()
            while True:
                if self._waiting:
                    self._give_up(jobs)
                finished = caller.done  # looked at before the pieces are handed over, so that none is left behind
                for job in jobs:
                    while job.pieces:
                        piece = job.pieces.popleft()
                        if job.on_token:
                            job.on_token(piece)
                    if job.error is not None:
                        raise job.error
                if finished:
                    return
                if self._drives(caller):
                    self._step()
                else:
                    caller.wake.wait(self._patience(jobs))
                    caller.wake.clear()
        finally:
            with self._lock:
                self._callers.discard(caller)
                left = bool(self._callers) or not caller.done  # others go on; what is dropped has to be let go
                for job in jobs:
                    job.dropped = True
                if self._driver is caller:
                    self._driver = _THREAD if left else None
            if left:
                self._drives(None)

    def _give_up(self, jobs: Sequence[Job]) -> None:
        """End those that wait for a place still, and whose time is up."""
        now = time.monotonic()
        for job in jobs:
            deadline = job.turn.sampling.deadline
            if deadline is None or now < deadline or job.done:
                continue
            with self._lock:
                if job in self._waiting:
                    self._waiting.remove(job)
                    job.turn.check_deadline()
                    job.ended = True

    def _patience(self, jobs: Sequence[Job]) -> float | None:
        """Seconds until the first deadline of those that wait for a place; None where there is none."""
        limited = sorted(
            (job.turn.sampling.deadline, place)
            for place, job in enumerate(jobs)
            if job.turn.sampling.deadline is not None and not job.done
        )
        with self._lock:
            first = next((deadline for deadline, place in limited if jobs[place] in self._waiting), None)
        return None if first is None else min(max(0.0, first - time.monotonic()), threading.TIMEOUT_MAX)

    def _drives(self, caller: _Caller | None) -> bool:
        """Whether a caller is to run the model itself, as it is alone; else the thread is seen to do it."""
        with self._lock:
            if caller is not None and len(self._callers) == 1 and self._driver in (None, caller):
                self._driver = caller
                return True
            if self._driver in (None, caller):
                self._driver = _THREAD
            thread = self._driver is _THREAD
        if thread:
            self._thread.wake()
        return False

    def step(self) -> bool:
        """One step of all turns; the forward thread calls it. Whether there is more to do."""
        with self._lock:
            if self._driver is not _THREAD:
                return False
        self._step()
        with self._lock:
            more = bool(self._waiting or self._running.jobs)
            if not more:
                self._driver = None
            return more

    def _step(self) -> None:
        """One step, by whoever drives."""
        with self._lock:
            joining = [self._waiting.popleft() for _ in range(self._running.takes(self._waiting))]
            threads = self._matrix_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # it holds for the thread that calls it
        left: list[Job] = []
        try:
            left = self._running.step(joining)
        except BaseException as error:
            # The caches may be half written: nothing of this batch can go on.
            for job in (*self._running.jobs, *joining):
                if not job.done:
                    job.error = PolicyError(f"The model failed while decoding: {error}")
                    job.error.__cause__ = error
            self._running.clear()
            if not isinstance(error, Exception):
                raise  # a person interrupts the caller that runs the model itself
        with self._lock:
            self._waiting.extendleft(reversed(left))
            for caller in self._callers:
                if caller.done or any((job.pieces and job.on_token) or job in left for job in caller.jobs):
                    caller.wake.set()  # it has ended, has something to tell, or waits (for its deadline) once more

    def _begin_anew(self) -> None:
        """With nobody waiting: at first, and in a forked child, where neither the thread nor its callers are."""
        self._lock = threading.Lock()
        self._callers: set[_Caller] = set()
        self._waiting: deque[Job] = deque()
        self._driver = None
        self._running.clear()
        self._thread = ForwardThread(self)


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _begin_all_anew() -> None:
    for engine in list(_engines):
        engine._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_all_anew)
