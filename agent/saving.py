"""Writing a run into a folder: report, pictures and JSON, each file whole or not at all."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from sifthinker.agent.pictures import annotate
from sifthinker.agent.report import render_report, report_of
from sifthinker.agent.result import FocusResult
from sifthinker.policy.control import whole
from sifthinker.policy.errors import SifthinkerError, UsageError
from sifthinker.policy.files import PART, beside

_FILES = ("report.html", "annotated.png", "depth.png", "result.json")
_FOLDERS = ("crops", "tools")
_PICTURE = re.compile(r"step-\d+-\d+\.png")
_OURS = b'<meta name="sifthinker" content="focus trace">'
"""In the head of a run's report; that of a comparison has the same name, and not this line."""
_UNFINISHED = re.compile(
    rf"\.(?:annotated\.png|depth\.png|report\.html|result\.json|step-\d+-\d+\.png)\.\d+\.\w{{8}}{re.escape(PART)}"
)


@contextmanager
def writable_folder(path: Path, *, reads: Iterable[Path] = ()) -> Iterator[Path]:
    """Make the folder and see that a run can be saved there, before any work is done for it.

    A folder that was made here and stayed empty is removed again, so that a failed run leaves nothing behind.

    Args:
        path: the folder.
        reads: files that the run is made of, the picture and its depth.

    Raises:
        UsageError: it is a file, cannot be made, or cannot be written to; saving would write over a file that this
            program did not write, or over one of `reads`.
    """
    made = _make(path)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(f"The folder {str(path)!r} cannot be written to ({error.strerror}): name another.") from error
    _refuse_others(path)
    for file in reads:
        if _has_name_of_ours(file, path):
            raise UsageError(f"{str(file)!r} is read by this run, and saving would write over it: name another folder.")
    try:
        yield path
    finally:
        for folder in made:
            with suppress(OSError):  # not empty: the run was saved
                folder.rmdir()


def save_run(result: FocusResult, folder: Path, *, image_name: str = "", command: str = "") -> Path:
    """Write a run into an existing folder, in place of an earlier one, and return the report's path.

    The files are `report.html`, `annotated.png`, `depth.png` (where there is depth), `crops/step-NN-M.png` (step and
    crop from 1), `tools/step-NN-M.png` (pictures that visual tools made) and, last, `result.json`. All are written
    under other names before the first is put in its place; while that is done there is no `result.json`, so a folder
    that has one holds one run. Processes that save into one folder do so one after another.

    Raises:
        UsageError: the result came without its pictures; the folder holds a file of such a name that is of no run.
        SifthinkerError: it cannot be written (a full disk, say); the folder is then as it was.
    """
    report = report_of(result, image_name=image_name, command=command)
    # The report first: by it the folder is known again, should the rest not be put in place.
    files: dict[str, bytes] = {
        "report.html": whole(render_report(report)).encode(),
        "annotated.png": _png(annotate(report.image, [[entry.box for entry in step.boxes] for step in report.steps])),
    }
    if report.depth_picture is not None:
        files["depth.png"] = _png(report.depth_picture)
    for number, step in enumerate(report.steps, 1):
        for position, crop in enumerate(step.crops, 1):
            files[f"crops/step-{number:02d}-{position}.png"] = _png(crop)
        for position, found in enumerate(step.findings, 1):
            if found.picture is not None:
                files[f"tools/step-{number:02d}-{position}.png"] = _png(found.picture)
    files["result.json"] = whole(json.dumps(result.to_dict(), ensure_ascii=False, indent=2) + "\n").encode()

    try:
        with _alone(folder):
            _refuse_others(folder)
            _remove_unfinished(folder)
            _replace(folder, files)
            _remove_stale(folder, set(files))
    except OSError as error:
        raise SifthinkerError(
            f"The run was answered but could not be saved in {str(folder)!r} ({error.strerror or error}): what was "
            "there before still is; make room, or name another folder."
        ) from error
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


def _refuse_others(folder: Path) -> None:
    """Refuse a folder that holds a file of a run's name, but no run: somebody else's file would be written over.

    Raises:
        UsageError: naming the file.
    """
    there = [path for path in (*(folder / name for name in _FILES), *_pictures(folder)) if os.path.lexists(path)]
    if there and not _holds_a_run(folder):  # in this order: a run that is just being saved begins with its report
        name = there[0].relative_to(folder).as_posix()
        raise UsageError(
            f"The folder {str(folder)!r} holds a {name} that no saved run left there: name another, or move that file."
        )


def _holds_a_run(folder: Path) -> bool:
    """Whether a run was saved there, be it but a part of it."""
    with suppress(OSError, ValueError):
        FocusResult.model_validate_json((folder / "result.json").read_bytes())
        return True
    with suppress(OSError), (folder / "report.html").open("rb") as page:
        return _OURS in page.read(4096)
    return False


def _has_name_of_ours(file: Path, folder: Path) -> bool:
    """Whether a file lies where a run that is saved into this folder may put one."""
    place, top = Path(os.path.realpath(file)), Path(os.path.realpath(folder))
    if place.parent == top:
        return place.name in _FILES
    inside = place.parent.parent == top and place.parent.name in _FOLDERS
    return inside and _PICTURE.fullmatch(place.name) is not None


def _pictures(folder: Path) -> list[Path]:
    """The crops and the tools' pictures there, by their names."""
    return [file for name in _FOLDERS for file in (folder / name).glob("*") if _PICTURE.fullmatch(file.name)]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder for this process, after waiting for others that save into it; freed however the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows: of two runs saved at the same moment the files may mix
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files beside their places, then put them there, `result.json` last: nobody finds half of a run."""
    for name in _FOLDERS:
        if any(file.startswith(f"{name}/") for file in files):
            (folder / name).mkdir(exist_ok=True)
    parts = {folder / name: beside(folder / name) for name in files}
    try:
        for name, data in files.items():
            parts[folder / name].write_bytes(data)
        (folder / "result.json").unlink(missing_ok=True)
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():  # those that are in their place have no such name any more
            with suppress(OSError):
                part.unlink()
        _remove_empty(folder)


def _remove_unfinished(folder: Path) -> None:
    """Take away what a killed run left half-written."""
    for path in [*folder.glob(".*"), *(file for name in _FOLDERS for file in (folder / name).glob(".*"))]:
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _remove_stale(folder: Path, written: set[str]) -> None:
    """Take away what an earlier run left in the same folder, as far as this program writes such files."""
    for path in [*_pictures(folder), folder / "depth.png"]:
        if path.relative_to(folder).as_posix() not in written:
            path.unlink(missing_ok=True)
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    for name in _FOLDERS:
        with suppress(OSError):  # not empty, or not there
            (folder / name).rmdir()
