"""Where the questions are asked: in threads of this process, in other processes, or by Ray on whatever it has.

Every engine takes jobs as they are needed, never many more than are under way, and gives back each answer as soon as it
is there, in whatever order.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import chain, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import TYPE_CHECKING, Any

from sifthinker.policy.errors import PolicyUnavailable, SifthinkerError
from sifthinker.training.compare.records import Answered, Asking, Failed, Job

if TYPE_CHECKING:
    from sifthinker.training.compare.answering import Answerer

Engine = Callable[[Iterable[Job]], Iterator[tuple[Job, Answered | Failed]]]
"""Jobs in, each with its answer out."""


def in_threads(answerer: Answerer, concurrency: int) -> Engine:
    """In this process: threads that share a local policy's forward passes, or a server's slots."""

    def run(jobs: Iterable[Job]) -> Iterator[tuple[Job, Answered | Failed]]:
        waiting = iter(jobs)
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="question")
        pending: dict[Future[Answered | Failed], Job] = {}
        try:
            while True:
                for job in islice(waiting, concurrency + 2 - len(pending)):
                    pending[pool.submit(answerer.answer, job)] = job
                if not pending:
                    return
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a call under way may take a minute: it is not waited for

    return run


def in_processes(asking: Asking, processes: int) -> Engine:
    """In several processes of one thread's arithmetic each, which suits small models on a CPU."""

    def run(jobs: Iterable[Job]) -> Iterator[tuple[Job, Answered | Failed]]:
        source = iter(jobs)
        first = list(islice(source, processes))  # no more processes than there is work
        workers = [_Worker(asking) for _ in first]
        team, waiting = Team(workers, asking.concurrency + 2), chain(first, source)
        try:
            while True:
                team.refill(waiting)
                busy = {worker.connection: worker for worker in workers if worker.pending}
                if not busy:
                    return
                for connection in wait_for(list(busy)):
                    yield busy[connection].receive()  # type: ignore[index]
        finally:
            for worker in workers:
                worker.close()

    return run


class Team:
    """Gives jobs out: those of one question to one worker, which has encoded its picture.

    Jobs of a worker that has enough are held for it, so that the others need not wait for it.
    """

    def __init__(self, workers: list[_Worker], room: int) -> None:
        self._room, self._most_held = room, room * len(workers)
        self._held: dict[_Worker, deque[Job]] = {worker: deque() for worker in workers}
        self._worker_of: dict[str, _Worker] = {}

    def refill(self, waiting: Iterator[Job]) -> None:
        """Send jobs until every worker has enough, or there are no more."""
        while short := [worker for worker in self._held if len(worker.pending) < self._room]:
            ready = next((worker for worker in short if self._held[worker]), None)
            if ready is not None:
                ready.send(self._held[ready].popleft())
                continue
            job = next(waiting, None) if sum(map(len, self._held.values())) < self._most_held else None
            if job is None:
                return
            least = min(self._held, key=lambda worker: len(worker.pending) + len(self._held[worker]))
            self._held[self._worker_of.setdefault(job.question.id, least)].append(job)


class _Worker:
    """A process that answers jobs, as its parent sees it."""

    def __init__(self, asking: Asking) -> None:
        context = get_context("spawn")  # torch's threads do not survive a fork
        self.connection, theirs = context.Pipe()
        self.pending: dict[Any, Job] = {}
        self.process = context.Process(target=_work, args=(theirs, asking), daemon=True)
        with _worker_environment():
            self.process.start()
        theirs.close()

    def send(self, job: Job) -> None:
        self.pending[job.key] = job
        with suppress(BrokenPipeError):  # it has ended: `receive` will say so
            self.connection.send(job)

    def receive(self) -> tuple[Job, Answered | Failed]:
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self.process.join(5)
            raise PolicyUnavailable(
                f"A worker process ended by itself (exit code {self.process.exitcode}), perhaps for lack of memory: "
                "run the same command again, with fewer --workers or a lower --batch."
            ) from error
        if isinstance(answer, SifthinkerError):
            raise answer
        return self.pending.pop(answer.key), answer

    def close(self) -> None:
        self.connection.close()
        self.process.join(0.2)
        if self.process.is_alive():
            self.process.kill()  # what it has under way is not waited for: it is asked again


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_FEW_HEAPS = {"MALLOC_ARENA_MAX": "2"}  # unless the user says otherwise


class _worker_environment:
    """Processes started in here do arithmetic with one thread each (two of one thread beat one of two), and share their
    free memory among threads: glibc's heap a thread grew to four times as much with 16 questions under way."""

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in (*_ONE_THREAD, *_FEW_HEAPS)}
        os.environ.update(_ONE_THREAD)
        for name, value in _FEW_HEAPS.items():
            os.environ.setdefault(name, value)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _work(connection: Connection, asking: Asking) -> None:
    """The main function of a worker process: it ends with its parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    import torch
    from tqdm import tqdm

    from sifthinker.training.compare.answering import Answerer

    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a worker ended at once leaves behind
    torch.set_num_threads(1)
    answerer = Answerer(asking)
    lock = threading.Lock()

    def answer(job: Job) -> None:
        try:
            made: Answered | Failed | SifthinkerError = answerer.answer(job)
        except SifthinkerError as error:
            made = error
        except Exception as error:
            made = SifthinkerError(f"Question {job.question.id!r} met an unexpected {type(error).__name__}: {error}")
            raise
        finally:
            with lock, suppress(OSError):
                connection.send(made)

    with ThreadPoolExecutor(asking.concurrency) as pool:
        while True:
            try:
                job = connection.recv()
            except (EOFError, OSError):
                os._exit(0)  # the parent is gone: nobody waits for what is under way
            pool.submit(answer, job)


def with_ray(asking: Asking, workers: int | None) -> Engine:
    """By Ray Data: on this machine, or on the cluster that RAY_ADDRESS names; a GPU for each worker where there is one.

    Args:
        asking: how every question is asked; every worker loads the policies by name.
        workers: how many; by default one a GPU, or one a core.
    """
    import ray
    from ray.data import ActorPoolStrategy

    def run(jobs: Iterable[Job]) -> Iterator[tuple[Job, Answered | Failed]]:
        listed = list(jobs)
        if not listed:
            return
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        have = ray.cluster_resources()
        gpus = int(have.get("GPU", 0))
        count = min(workers or gpus or int(have.get("CPU", 1)), len(listed))
        blocks = min(len(listed), max(4 * count, -(-len(listed) // asking.concurrency)))
        items = ray.data.from_items([{"job": job} for job in listed], override_num_blocks=blocks)
        answers = items.map_batches(
            _RayWorker,
            fn_constructor_args=(asking,),
            batch_size=asking.concurrency,
            compute=ActorPoolStrategy(size=count),
            num_gpus=1 if gpus else 0,
            num_cpus=1,
            batch_format="numpy",
        )
        by_key = {job.key: job for job in listed}
        for row in answers.iter_rows():
            made = row["made"]
            if isinstance(made, SifthinkerError):
                raise made
            yield by_key[made.key], made

    return run


class _RayWorker:
    """What Ray builds once on each worker."""

    def __init__(self, asking: Asking) -> None:
        import torch

        from sifthinker.training.compare.answering import Answerer

        if not torch.cuda.is_available():
            torch.set_num_threads(1)
        self.answerer = Answerer(asking)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        jobs = list(batch["job"])
        made = np.empty(len(jobs), dtype=object)

        def answer(job: Job) -> Answered | Failed | SifthinkerError:
            try:
                return self.answerer.answer(job)
            except SifthinkerError as error:
                return error

        with ThreadPoolExecutor(len(jobs)) as pool:
            made[:] = list(pool.map(answer, jobs))
        return {"made": made}
