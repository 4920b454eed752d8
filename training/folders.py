"""A folder that one process at a time works in, and what is said where it cannot be written."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sifthinker.policy.errors import DataError, UsageError
from sifthinker.policy.files import half_written

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def unwritable(error: OSError, folder: Path, kept: str = "") -> DataError:
    """What to say when a folder cannot be written: where, why, what is safe, how to go on."""
    place = error.filename or folder
    why = error.strerror or " ".join(str(error).split())
    return DataError(f"{place} cannot be written ({why}). {kept}Mend that, then run the same command again.")


@contextmanager
def saving(folder: Path, kept: str = "") -> Iterator[None]:
    """A disk that cannot be written to as one sentence, in whatever form a library tells of it.

    Raises:
        DataError: the folder cannot be written; `kept` says what is safe.
    """
    try:
        yield
    except Exception as error:
        cause = _unwritten(error)
        if cause is None:
            raise
        raise unwritable(cause, folder, kept) from error


def _unwritten(error: Exception) -> OSError | None:
    """What the system said where a file could not be written; None for any other error.

    safetensors and tokenizers are written in Rust and put the system's number into words. torch.save says of a disk
    that is full no more than that a position is wrong.
    """
    if isinstance(error, OSError):
        return error if error.errno in _UNWRITABLE else None
    told = str(error)
    named = _OS_ERROR.search(told)
    number = int(named[1]) if named else errno.ENOSPC if "unexpected pos" in told else 0
    return OSError(number, os.strerror(number)) if number in _UNWRITABLE else None


@contextmanager
def locked(folder: Path, *, doing: str = "building") -> Iterator[None]:
    """The folder for this process alone, made if it is not there. Freed when the process ends, however it ends.

    What a process that was killed left half-written is removed: a checkpoint, a policy's folder.

    Args:
        folder: with a file `lock` that holds the process's number.
        doing: what another process is told that this one does there.

    Raises:
        UsageError: another process works in it. OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _lock(handle):
            process = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
            raise UsageError(f"Process {process} is {doing} in {folder}: wait for it, or name another folder.")
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        for part in half_written(folder):
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)  # which frees it


def _lock(handle: int) -> bool:
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
    import msvcrt

    try:
        os.lseek(handle, 1 << 20, os.SEEK_SET)  # beyond the process's number, which others may read
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(handle, 0, os.SEEK_SET)
    except OSError:
        return False
    return True
