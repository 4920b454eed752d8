"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

PART = ".part"
"""Ending of a file that is being written; one that is left over is worth nothing."""
_BESIDE = re.compile(rf"\..+\.\d+\.[0-9a-f]{{8}}{re.escape(PART)}")


def write_whole(path: Path, write: Callable[[Path], object], *, on_disk: bool = True) -> None:
    """Have `write` fill a file beside `path`, then put it in its place: there, or as it was before.

    A file that was there before passes on its permissions.

    Args:
        path: the file, in a folder that is there.
        write: called with the path to write to.
        on_disk: wait until the disk has it, so that a power failure loses nothing either. Not for what a second makes
            again.

    Raises:
        OSError, or what `write` raises: `path` is then as it was.
    """
    part = beside(path)
    try:
        write(part)
        if path.exists():
            part.chmod(path.stat().st_mode & 0o777)
        if on_disk:
            sync_file(part)
        os.replace(part, path)
        if on_disk:
            sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """A name in the same folder, of its own for each process and thread."""
    return path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}{PART}")


def half_written(folder: Path) -> list[Path]:
    """What `beside` named in a folder and below: where nobody writes, all that a killed process left."""
    return [path for path in folder.rglob(f".*{PART}") if _BESIDE.fullmatch(path.name)]


def sync_file(path: Path) -> None:
    """Have a file's bytes on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where the system knows how."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expanded(path: str | Path) -> Path:
    """A path with the home folder that `~` or `~name` stands for; as it is where nobody has that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
