"""How things are measured here: side by side in one process, by turns, so that what slows the machine slows both.

A repetition takes one measurement of each way. The order turns round every time (A B, B A, A B, …): a machine that gets
slower or faster meanwhile favours nobody. What is compared is the quotient within a repetition.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


class NotHere(Exception):
    """A line cannot be measured on this machine: the message says what is missing."""


def rounds(repeat: int, *ways: Callable[[], T], warm_up: int = 1) -> list[list[T]]:
    """What each way returns, a list for each repetition in the order of the ways.

    Args:
        repeat: repetitions that count.
        ways: functions that measure themselves.
        warm_up: repetitions before these that do not count: first calls load, compile and fill caches.
    """
    found: list[list[T]] = []
    for turn in range(-warm_up, repeat):
        order = range(len(ways)) if turn % 2 == 0 else reversed(range(len(ways)))
        results: dict[int, T] = {}
        for index in order:
            gc.collect()
            results[index] = ways[index]()
        if turn >= 0:
            found.append([results[index] for index in range(len(ways))])
    return found


def timed(work: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """A way that says how many seconds the work took."""

    def way() -> float:
        started = clock()
        work()
        return clock() - started

    return way


def spent(work: Callable[[], object]) -> Callable[[], tuple[float, float]]:
    """A way that says how many seconds of processor time the work took, and how many by the clock."""

    def way() -> tuple[float, float]:
        clock, processor = time.perf_counter(), time.process_time()
        work()
        return time.process_time() - processor, time.perf_counter() - clock

    return way


def per_call(work: Callable[[], object], calls: int) -> Callable[[], float]:
    """A way that says how many seconds of processor time one of many calls took."""

    def way() -> float:
        started = time.process_time()
        for _ in range(calls):
            work()
        return (time.process_time() - started) / calls

    return way


def ratios(pairs: Sequence[Sequence[float]], over: int, under: int) -> list[float]:
    """The quotient of two ways in each repetition."""
    return [row[over] / row[under] for row in pairs]


def child_seconds(*arguments: str, cpu: bool = False) -> Callable[[], float]:
    """A way that runs this Python with arguments, and says how long that took (or how much processor time)."""

    def way() -> float:
        started = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise NotHere(f"`python {' '.join(arguments)[:80]}` ended with {child.returncode}: {said[-300:]}")
        return usage.ru_utime + usage.ru_stime if cpu else time.perf_counter() - started

    return way


def peak_mb(work: Callable[[], object]) -> Callable[[], float]:
    """A way that says by how many megabytes the resident memory grew at most while the work was done.

    Raises:
        NotHere: not Linux, which alone lets a process reset its high-water mark.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise NotHere("peak memory within a process can be read on Linux only")

    def way() -> float:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work has freed goes back, so that it must be taken anew
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        work()
        return (_status("VmHWM") - before) / 1000

    return way


def _status(field: str) -> float:
    """A field of this process's status in kilobytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1])
    raise NotHere(f"this system does not tell {field}")


def beside(path: str) -> ModuleType:
    """A helper module of the tests, by its path below `tests/`: those folders are no packages."""
    name = f"performance_{Path(path).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
