"""The real command line in processes of its own, with a fault at an exact place.

A child is forked from a server process that has everything imported (`trust.preload`), so that it takes a tenth of a
second of processor time; `test_harness.py` sees to it that this holds. What goes wrong in it is a `trust.faults.Fault`.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from trust.faults import Fault, apply

TESTS = Path(__file__).resolve().parents[1]
PRELOADED = ["trust.harness", "trust.preload"]


@dataclass
class Outcome:
    """How a child ended."""

    code: int
    """Exit code; negative for a signal."""
    out: str
    err: str
    operations: int
    """File operations counted in the watched folder."""
    cut: int = 0
    """Connections that failed because the network was gone."""

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


@dataclass
class Child:
    """A command line under way."""

    process: Any
    folder: tempfile.TemporaryDirectory[str]

    def kill(self) -> None:
        self.process.kill()

    def wait(self, seconds: float = 120.0) -> Outcome:
        """How it ended; AssertionError where it does not."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(
                f"still running after {seconds} s: {self._read('out')[-500:]} {self._read('err')[-500:]}"
            )
        counts = [int(self._read(name) or 0) for name in ("count", "connections")]
        outcome = Outcome(self.process.exitcode, self._read("out"), self._read("err"), *counts)
        self.folder.cleanup()
        return outcome

    def _read(self, name: str) -> str:
        path = Path(self.folder.name) / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def start(
    argv: Sequence[str], *, given: str = "", environment: Mapping[str, str] | None = None, fault: Fault | None = None
) -> Child:
    """Run `sifthinker` with these arguments in a child; `given` is its standard input."""
    return start_function(_command_line, (list(argv),), given=given, environment=environment, fault=fault)


def start_function(
    work: Callable[..., object],
    arguments: tuple[Any, ...],
    *,
    given: str = "",
    environment: Mapping[str, str] | None = None,
    fault: Fault | None = None,
) -> Child:
    """Run a function of an importable module in a child."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with _importable():
        forkserver.ensure_running()
    folder = tempfile.TemporaryDirectory(prefix="trust-")
    (Path(folder.name) / "in").write_text(given, encoding="utf-8")
    process = context.Process(
        target=_child, args=(work, arguments, folder.name, dict(environment or {}), fault or Fault())
    )
    process.start()
    return Child(process, folder)


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """The server of children finds what it is to import: it is told of PYTHONPATH alone, and silent where it fails."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in (str(TESTS), before) if path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def run(argv: Sequence[str], **options: Any) -> Outcome:
    """`start`, and how it ended."""
    return start(argv, **options).wait()


def _command_line(argv: list[str]) -> None:
    from sifthinker.agent.cli import main

    sys.argv = ["sifthinker", *argv]
    main()


def _child(
    work: Callable[..., object], arguments: tuple[Any, ...], folder: str, environment: dict[str, str], fault: Fault
) -> None:
    os.environ.update(environment)
    for name, number, flags in (
        ("in", 0, os.O_RDONLY),
        ("out", 1, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ("err", 2, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        handle = os.open(f"{folder}/{name}", flags, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = io.TextIOWrapper(os.fdopen(0, "rb", closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", line_buffering=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), encoding="utf-8", line_buffering=True)
    sys.argv = ["sifthinker"]
    sys.excepthook = _told
    code = 0
    try:
        apply(fault, folder)
        work(*arguments)
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException as error:  # noqa: BLE001  # as the interpreter would: told, and exit code 1
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _told(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    traceback.print_exception(kind, error, trace)


@dataclass
class Round:
    """One round of a scenario."""

    folder: Path
    """Empty, its own."""
    rng: random.Random
    seed: int
    server: Any = None
    struck: int = 0
    """Faults that really struck."""
    notes: set[str] = field(default_factory=set)
    """How faults were made, where there are several ways."""


def one_sentence(outcome: Outcome) -> str:
    """What was said on standard error, which is one line and no traceback."""
    assert "Traceback" not in outcome.err, outcome.err
    assert "sifthinker: unexpected" not in outcome.err, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("sifthinker: ")]
    assert len(lines) == 1, outcome.err
    return lines[0]
