"""What can go wrong in a child, and how it is made: kill, full disk, read-only folder, lost network, clock.

Faults strike at the operating system's border, where Python tells of each file it opens to write, renames or removes,
and of each connection (`sys.addaudithook`), so that a number says exactly when, and the same seed strikes the same
place again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND

OFFLINE: dict[str, Callable[[], OSError]] = {
    "nobody listens": lambda: OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)),
    "no route": lambda: OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)),
    "a name that does not resolve": lambda: socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
}
"""How a connection fails where there is no network, as the system would tell it."""


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
    offline_from: int = 0
    """From this connection (from 1) on the network is gone."""
    offline_for: int = 0
    """So many connections fail, then the network is back; 0: it stays away."""
    offline: str = "no route"
    """How a connection fails; one of OFFLINE."""


def apply(fault: Fault, told: str) -> None:
    """Let it go wrong in this process; the folder `told` hears how many operations and lost connections there were."""
    if fault.powerless:
        _drop_privileges()
    if fault.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_limit, fault.file_limit))
    if fault.clock or fault.clock_offset:
        _bend_clock(fault.clock, fault.clock_offset)
    if fault.offline_from:
        _cut_off(fault, f"{told}/connections")
    if fault.watched:
        _watch(fault, f"{told}/count")


def _cut_off(fault: Fault, counter: str) -> None:
    """Take the network away: a connection fails as the system would let it, before anything is sent."""
    count = failed = 0
    record = os.open(counter, os.O_WRONLY | os.O_CREAT, 0o600)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, failed
        if event != "socket.connect" or not isinstance(arguments[1], tuple):  # a tuple: no socket of this machine's
            return
        count += 1
        if count >= fault.offline_from and (not fault.offline_for or count < fault.offline_from + fault.offline_for):
            failed += 1
            os.pwrite(record, str(failed).encode(), 0)
            raise OFFLINE[fault.offline]()

    sys.addaudithook(hook)


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
