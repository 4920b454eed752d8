"""Is a data set what it says? Records that hold, images that leak from a benchmark, boxes in the space declared."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from sifthinker.nodes.images import ImageSource, image_hash, load_image
from sifthinker.policy.boxes import hiou
from sifthinker.policy.errors import DataError, ImageError, SifthinkerError, TraceError
from sifthinker.policy.image_files import sniff
from sifthinker.policy.trace import AreaBox, render_boxes
from sifthinker.training.data.load import open_depth, open_image
from sifthinker.training.data.records import Record
from sifthinker.training.data.samples import fault_of, inside
from sifthinker.training.data.tables import read_records
from sifthinker.training.data.verify import text_problem

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
ELSEWHERE_HIOU = 0.1
"""Below it the last area of a trace that nobody expanded from the boxes is about something else."""
ALIKE_BITS = 12
"""Pictures whose difference hashes differ in at most so many of 256 bits count as the same picture, saved anew."""
_EDGE = 16
_EXAMPLES = 5

Tick = Callable[[], None]


class Findings(BaseModel):
    """What is wrong with the records of a folder."""

    records: int = 0
    wrong: dict[str, int] = Field(default_factory=dict, description="Records by what is wrong with them.")
    examples: dict[str, list[str]] = Field(default_factory=dict, description="Ids of a few of each.")


class Leak(BaseModel):
    """A picture of the records that is also a picture of something else."""

    record: str = Field(description="Id of the first record that shows it.")
    other: str = Field(description="What it was compared with.")
    name: str = Field(description="The picture there.")
    bits: int = Field(description="0: the same pixels. Else by how many bits of 256 the two difference hashes differ.")
    same: bool = Field(description="Whether the pixels are the same.")


class Leaks(BaseModel):
    """What a comparison with other pictures found."""

    leaks: list[Leak] = Field(default_factory=list)
    compared: int = Field(default=0, description="Pictures of the others that were compared.")
    unread: list[str] = Field(default_factory=list, description="Those that could not be opened, and so were not.")


def check_records(folder: Path, *, deep: bool = False, tick: Tick | None = None) -> Findings:
    """Every record against what a record promises.

    Args:
        folder: made by `build`.
        deep: open every image and depth map, and compare the image's hash; otherwise files only have to be there.
        tick: called after each record.

    Raises:
        DataError: a shard is damaged, or a row is no record.
    """
    wrong: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    seen: set[bytes] = set()  # 8 bytes a record
    count = 0
    for record in read_records(folder):
        count += 1
        for problem in [*_problems(folder, record, deep=deep), *_repeated(record, seen)]:
            wrong[problem] += 1
            if wrong[problem] <= _EXAMPLES:
                examples.setdefault(problem, []).append(record.id)
        if tick is not None:
            tick()
    return Findings(records=count, wrong=dict(wrong), examples=examples)


def _problems(folder: Path, record: Record, *, deep: bool) -> Iterator[str]:
    try:
        trace = record.parsed()
    except TraceError as error:
        yield f"trace:{error.reason}"
        return
    problems = (text_problem(step.text, number) for number, step in enumerate(trace.steps, 1))
    yield from dict.fromkeys(problem[0] for problem in problems if problem)
    last = [AreaBox(bbox_2d=box.bbox_2d) for box in trace.steps[-1].boxes]
    if record.provenance.expansion:  # the areas were made of the boxes
        if render_boxes(last) != render_boxes([AreaBox(bbox_2d=box) for box in record.boxes]):
            yield "last_area_is_not_boxes"
    elif hiou([box.bbox_2d for box in last], record.boxes) < ELSEWHERE_HIOU:  # said by a policy or a teacher
        yield "last_area_is_elsewhere"
    if trace.answer != record.answer:
        yield "answer"
    said = [part.text for turn in record.messages for part in turn.content if turn.role == "assistant"]
    if said != [record.trace]:
        yield "messages_are_not_trace"
    places = sum(part.type == "image" for turn in record.prompt for part in turn.content)
    if places != len(record.images):
        yield "images_without_place"
    for name in {*record.images, *filter(None, [record.rgb, record.depth_map])}:
        try:
            if not inside(folder, name).is_file():
                yield "missing_file"
        except DataError as error:
            yield "unreadable_file" if fault_of(error) else "file_outside"
    if deep:
        yield from _looked_at(folder, record)


def _looked_at(folder: Path, record: Record) -> Iterator[str]:
    try:
        image = open_image(folder, record.rgb)
        if image_hash(image) != record.rgb_sha256 or image.size != record.rgb_size:
            yield "another_image"
        open_depth(folder, record.depth_map)
    except SifthinkerError:
        yield "unreadable_file"


def _repeated(record: Record, seen: set[bytes]) -> Iterator[str]:
    said = "" if record.provenance.expansion else record.trace  # a question may be kept with several distilled traces
    key = _key(f"{record.rgb_sha256}\0{record.question}\0{record.answer}\0{said}")
    if key in seen:
        yield "repeated_question"
    seen.add(key)


def _key(text: str) -> bytes:
    """Eight bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def find_leaks(
    folder: Path,
    others: Iterable[tuple[str, str, ImageSource]],
    *,
    alike_bits: int = ALIKE_BITS,
    tick: Tick | None = None,
) -> Leaks:
    """Pictures of the records that also stand elsewhere: with the same pixels, or saved anew in another size or way.

    Args:
        folder: made by `build`.
        others: (what it is, the picture's name there, the picture) of each picture to compare with, as a benchmark's
            reader or `images_of` gives them.
        alike_bits: see `ALIKE_BITS`; -1 looks for the same pixels only, which opens no image of the records.
        tick: called after each picture, of the records and of the others.

    Raises:
        DataError, ImageError: the records or their images cannot be read. Of the others such a picture is skipped.
    """
    ids, hashes, bits = _pictures(folder, with_bits=alike_bits >= 0, tick=tick)
    row_of = {sha256: row for row, sha256 in enumerate(hashes)}
    found = Leaks()
    for other, name, picture in others:
        try:
            image = load_image(picture).image
        except ImageError:
            found.unread.append(f"{other}/{name}")
            continue
        finally:
            if tick is not None:
                tick()
        found.compared += 1
        row = row_of.get(image_hash(image))
        if row is not None:
            found.leaks.append(Leak(record=ids[row], other=other, name=name, bits=0, same=True))
        elif alike_bits >= 0 and len(bits):
            differing = np.bitwise_xor(bits, difference_hash(image)).sum(axis=1)  # (N,)
            nearest = int(differing.argmin())
            if differing[nearest] <= alike_bits:
                alike = Leak(record=ids[nearest], other=other, name=name, bits=int(differing[nearest]), same=False)
                found.leaks.append(alike)
    return found


def images_of(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """The image files below a folder, as `find_leaks` takes them; the depth of a data set is left out.

    A file of another ending is one if its content is an image's, also of a kind that cannot be opened: `find_leaks`
    then tells that it was not compared.
    """
    if not folder.is_dir():
        raise DataError(f"No folder {folder} with images to compare with.")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] != "depth" and path.is_file() and (path.suffix.lower() in IMAGE_SUFFIXES or _is_image(path)):
            yield folder.name, name.as_posix(), path


def _is_image(path: Path) -> bool:
    """Whether a file begins as an image, of whatever kind; one that cannot be read may be one."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
        sniff(start)
    except ImageError as error:
        return error.reason in ("format", "truncated") and not start.startswith(b"%PDF")
    except OSError:
        return True
    return True


def difference_hash(image: Image.Image) -> NDArray[np.bool_]:
    """256 bits of a picture that survive scaling and compression: whether brightness rises from cell to cell. (256,)"""
    grey = image.convert("L").resize((_EDGE + 1, _EDGE), Image.Resampling.BOX)
    cells = np.asarray(grey).astype(np.int16)  # (16, 17)
    return (cells[:, 1:] > cells[:, :-1]).ravel()


def _pictures(folder: Path, *, with_bits: bool, tick: Tick | None) -> tuple[list[str], list[str], NDArray[np.bool_]]:
    """Of each picture of the records once: id of its first record, its hash, its difference hash (N, 256)."""
    ids: list[str] = []
    hashes: dict[str, None] = {}
    bits: list[NDArray[np.bool_]] = []
    for record in read_records(folder):
        if record.rgb_sha256 not in hashes:
            hashes[record.rgb_sha256] = None
            ids.append(record.id)
            if with_bits:
                bits.append(difference_hash(open_image(folder, record.rgb)))
            if tick is not None:
                tick()
    return ids, list(hashes), np.array(bits, dtype=bool).reshape(-1, _EDGE * _EDGE)
