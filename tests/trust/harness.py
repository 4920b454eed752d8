"""The real command line in processes of its own, with a fault at an exact place: kill, full disk, read-only, clock.

A child is forked from a server process that has everything imported (`trust.preload`), so that it takes a tenth of a
second of processor time; `test_harness.py` sees to it that this holds. Faults
strike at the operating system's border, where Python tells of each file it opens to write, renames or removes
(`sys.addaudithook`), so that a number says exactly when, and the same seed strikes the same place again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import multiprocessing
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
PRELOADED = ["trust.harness", "trust.preload"]
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a child, and when. Nothing by default."""

    watched: str = ""
    """The folder whose file operations are counted, as Python's audit events tell them; SQLite and Arrow tell none."""
    kill_at: int = 0
    """Before this operation (from 1) the child is killed with SIGKILL."""
    fail_at: int = 0
    """From this operation on, each fails with `errno`."""
    errno: int = errno.ENOSPC
    file_limit: int = 0
    """No file may grow beyond so many bytes (RLIMIT_FSIZE): a write fails in the middle of a file."""
    powerless: bool = False
    """Permission bits bind the child even where it runs as root (CAP_DAC_OVERRIDE is dropped)."""
    clock: int = 0
    """Seed of a wall clock that jumps, backwards too, at each look."""
    clock_offset: float = 0.0
    """Seconds by which the wall clock is wrong."""


@dataclass
class Outcome:
    """How a child ended."""

    code: int
    """Exit code; negative for a signal."""
    out: str
    err: str
    operations: int
    """File operations counted in the watched folder."""

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
        counted = self._read("count")
        outcome = Outcome(self.process.exitcode, self._read("out"), self._read("err"), int(counted) if counted else 0)
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
        _apply(fault, f"{folder}/count")
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


def _apply(fault: Fault, counter: str) -> None:
    if fault.powerless:
        _drop_privileges()
    if fault.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_limit, fault.file_limit))
    if fault.clock or fault.clock_offset:
        _bend_clock(fault.clock, fault.clock_offset)
    if fault.watched:
        _watch(fault, counter)


def _watch(fault: Fault, counter: str) -> None:
    """Count the file operations of a folder, and strike at one."""
    count = 0
    record = os.open(counter, os.O_WRONLY | os.O_CREAT, 0o600)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITES:
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not name.startswith(fault.watched):
            return
        count += 1
        os.pwrite(record, str(count).encode(), 0)
        if count == fault.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        # What is removed frees room: a full disk does not hinder it.
        if fault.fail_at and count >= fault.fail_at and event not in ("os.remove", "os.rmdir"):
            raise OSError(fault.errno, os.strerror(fault.errno), name)

    sys.addaudithook(hook)


def _drop_privileges() -> None:
    """Let permission bits bind this process although it may be root's."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for index in (0, 1, 2):  # effective, permitted, inheritable: CAP_DAC_OVERRIDE 1, CAP_DAC_READ_SEARCH 2
        data[index] &= ~0b110
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def _bend_clock(seed: int, offset: float) -> None:
    """A wall clock that is wrong by `offset` and, with a seed, jumps by up to ten years at each look.

    It bends `time.time` and `time.time_ns`; `datetime.now` reads the system's clock itself and stays right.
    """
    real, real_ns = time.time, time.time_ns
    rng = random.Random(seed)

    def error() -> float:
        return offset + (rng.choice((0.0, rng.uniform(-3e8, 3e8), rng.uniform(-5, 5))) if seed else 0.0)

    time.time = lambda: real() + error()
    time.time_ns = lambda: real_ns() + int(error() * 1e9)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[str]:
    """`folder` as a disk of `size` bytes: yields how it is made ("tmpfs"), or "" where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield "" if mounted.returncode else "tmpfs"
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder, and all folders in it, that cannot be written to by a `powerless` child."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in folders}
    for path in reversed(folders):
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(modes[path])


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
