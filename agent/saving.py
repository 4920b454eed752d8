"""Writing a run into a folder: report, pictures and JSON, each file whole or not at all."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from sifthinker.agent.pictures import annotate
from sifthinker.agent.report import render_report, report_of
from sifthinker.agent.result import FocusResult
from sifthinker.policy.errors import UsageError

_CROP = re.compile(r"step-\d+-\d+\.png")


@contextmanager
def writable_folder(path: Path) -> Iterator[Path]:
    """Make the folder and see that it can be written to, before any work is done for it.

    A folder that was made here and stayed empty is removed again, so that a failed run leaves nothing behind.

    Raises:
        UsageError: it is a file, cannot be made, or cannot be written to.
    """
    made = _make(path)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(f"The folder {str(path)!r} cannot be written to ({error.strerror}): name another.") from error
    try:
        yield path
    finally:
        for folder in made:
            with suppress(OSError):  # not empty: the run was saved
                folder.rmdir()


def save_run(result: FocusResult, folder: Path, *, image_name: str = "", command: str = "") -> Path:
    """Write a run into an existing folder, in place of an earlier one, and return the report's path.

    The files are `annotated.png`, `depth.png` (where there is depth), `crops/step-NN-M.png` (step and crop from 1),
    `report.html` and, last, `result.json`.

    Raises:
        UsageError: the result came without its pictures. OSError: the disk is full, and the like.
    """
    report = report_of(result, image_name=image_name, command=command)
    files: dict[str, bytes] = {
        "annotated.png": _png(annotate(report.image, [[entry.box for entry in step.boxes] for step in report.steps]))
    }
    if report.depth_picture is not None:
        files["depth.png"] = _png(report.depth_picture)
    for number, step in enumerate(report.steps, 1):
        for position, crop in enumerate(step.crops, 1):
            files[f"crops/step-{number:02d}-{position}.png"] = _png(crop)
    files["report.html"] = render_report(report).encode()
    files["result.json"] = (json.dumps(result.to_dict(), ensure_ascii=False, indent=2) + "\n").encode()

    (folder / "crops").mkdir(exist_ok=True)
    for name, data in files.items():
        _replace(folder / name, data)
    _remove_stale(folder, set(files))
    return folder / "report.html"


def _make(path: Path) -> list[Path]:
    """Make a folder; returns what had to be made, innermost first."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageError(f"{str(path)!r} is a file: name a folder to save into.") from error
    except OSError as error:
        raise UsageError(f"The folder {str(path)!r} cannot be made ({error.strerror}): name another.") from error
    return missing


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _replace(path: Path, data: bytes) -> None:
    """Write a file under another name first, so that nobody ever finds half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes it private
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _remove_stale(folder: Path, written: set[str]) -> None:
    """Take away what an earlier run left in the same folder, as far as this program writes such files."""
    stale = [crop for crop in (folder / "crops").iterdir() if _CROP.fullmatch(crop.name)] + [folder / "depth.png"]
    for path in stale:
        if path.relative_to(folder).as_posix() not in written:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        (folder / "crops").rmdir()
