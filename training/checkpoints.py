"""Checkpoints that appear whole or not at all, and of which only whole ones are gone on from.

    checkpoints/.saving/checkpoint-200    being written
    checkpoints/checkpoint-200            whole: `complete.json` in it names every file with its size
    checkpoints/.gone-…                   being removed

A kill leaves a folder that begins with a dot, which the next run removes, or a checkpoint that is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sifthinker.policy.files import sync_file, sync_folder

MARKER = "complete.json"
SAVING = ".saving"
TORN = (RuntimeError, ValueError, KeyError, TypeError, OSError, EOFError, pickle.UnpicklingError)
"""What reading tensors raises of a file that was cut off (an OSError too, where its end is looked for before its
beginning), or is something else."""
_GONE = ".gone-"
_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name tells; -1 where it is none."""
    found = _NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else -1


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that the checkpoint was written with is there, in its size."""
    try:
        files = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def whole_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, by their steps."""
    found = [path for path in folder.glob("checkpoint-*") if step_of(path) >= 0 and is_whole(path)]
    return sorted(found, key=step_of)


def latest(folder: Path) -> Path | None:
    """The last whole checkpoint, or None."""
    return next(reversed(whole_checkpoints(folder)), None)


def publish(staged: Path, final: Path) -> None:
    """Put a written checkpoint in its place: on disk, marked, then renamed in one step.

    Raises:
        OSError: the disk is full or the folder cannot be written; `final` is then as it was.
    """
    files = {}
    for path in sorted(staged.rglob("*")):
        if path.is_file():
            files[path.relative_to(staged).as_posix()] = path.stat().st_size
            sync_file(path)
    marker = staged / MARKER
    marker.write_text(json.dumps({"step": step_of(final), "files": files}, indent=1) + "\n", encoding="utf-8")
    sync_file(marker)
    for path in (*(path for path in staged.rglob("*") if path.is_dir()), staged):
        sync_folder(path)
    if final.exists():
        remove(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staged, final)
    if staged.parent.name == SAVING:
        with contextlib.suppress(OSError):
            staged.parent.rmdir()
    sync_folder(final.parent)


def remove(folder: Path) -> None:
    """Remove a folder so that a kill leaves nothing that looks like it."""
    gone = folder.with_name(f"{_GONE}{folder.name}-{os.getpid()}-{os.urandom(3).hex()}")
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def rotate(folder: Path, keep: int, spare: Collection[int] = ()) -> None:
    """Keep the last `keep` whole checkpoints, and those of the steps in `spare`."""
    found = whole_checkpoints(folder)
    for path in found[: max(0, len(found) - keep)]:
        if step_of(path) not in spare:
            remove(path)


def sweep(folder: Path) -> None:
    """Remove what killed runs left half-written or half-removed."""
    for path in (*folder.glob(f"{_GONE}*"), folder / SAVING, *folder.glob(".*.part")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def keep_lines(path: Path, last_step: int) -> None:
    """Cut a JSON-lines log back to a step: what came after it will be done, and written, again.

    Lines are read by their field `step`; a line that was cut off ends the log.
    """
    if not path.is_file():
        return
    kept = 0
    with path.open("rb") as file:
        for line in file:
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n") or step > last_step:
                break
            kept += len(line)
    os.truncate(path, kept)


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that was cut off is left out."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(dict(json.loads(line)))
        except ValueError:
            continue
    return lines
