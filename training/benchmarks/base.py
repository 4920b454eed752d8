"""What all benchmark readers share: finding the files, checking their schema, bringing pictures."""

from __future__ import annotations

import io
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from PIL import Image

from sifthinker.nodes.images import ImageSource, load_image
from sifthinker.policy.boxes import Box, BoxSpace, Size, clip, is_valid, to_unit
from sifthinker.policy.errors import DataError, UsageError
from sifthinker.policy.files import expanded
from sifthinker.training.benchmarks.card import Card
from sifthinker.training.benchmarks.hub import fetched
from sifthinker.training.benchmarks.unpack import unpacked
from sifthinker.training.compare.data import ImageFile, Question, QuestionSet, checked
from sifthinker.training.data.rows import RowError
from sifthinker.training.data.samples import inside

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
GAP_PX = 16
"""Between pictures that are shown side by side."""


@dataclass(frozen=True)
class InTable:
    """A picture in a Parquet table: file, column, row from 0."""

    path: Path
    column: str
    row: int


Picture = Path | bytes | InTable | tuple[InTable, ...]
"""Where a question's picture is; several are joined into one, side by side."""


@dataclass(frozen=True)
class Asked:
    """A question with where its picture is."""

    question: Question
    picture: Picture


class Benchmark(QuestionSet):
    """A benchmark that was opened. A reader says which files it needs and what a row asks.

    Args:
        root: the folder or file that the data are in.
        images: the folder that picture names are relative to, where that is another one.
        split: one of the card's.
    """

    card: ClassVar[Card]
    hub_files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the files that are fetched from the hub; `{split}` stands for the split."""

    def __init__(self, root: Path, *, images: Path | None = None, split: str = "") -> None:
        self.root = root
        self.images_root = images or (root if root.is_dir() else root.parent)
        self.split = split or (self.card.splits[0] if self.card.splits else "")
        self.name = self.card.name + (f" {split}" if split else "")
        self.licence, self.obtain = self.card.licence, self.card.obtain
        checked(self.questions(), f"{self.card.title} in {root}")

    @classmethod
    def open(cls, where: str | None) -> Self:
        """See `open_benchmark`."""
        place, _, split = (where or cls.card.hub or "").partition("#")
        if split and split not in cls.card.splits:
            known = ", ".join(cls.card.splits) or "none"
            raise UsageError(f"{cls.card.title} has no split {split!r} (it has {known}).")
        path, _, images = place.partition("@")
        root, folder = expanded(path), expanded(images) if images else None
        if folder is not None and not folder.is_dir():
            raise UsageError(f"There is no folder {folder} with the pictures of {cls.card.title}.")
        if path and root.exists():
            return cls(root, images=folder, split=split)
        if not _HUB_ID.fullmatch(place) or root.is_absolute():
            raise UsageError(f"{path or 'Nothing'} is not there. {cls.card.title}: {cls.card.obtain}")
        if not cls.hub_files:
            raise UsageError(f"{cls.card.title} cannot be read from the hub. {cls.card.obtain}")
        chosen = split or (cls.card.splits[0] if cls.card.splits else "")
        patterns = [pattern.format(split=chosen) for pattern in cls.hub_files]
        return cls(fetched(place, patterns, cls.card), split=split)

    @abstractmethod
    def read(self) -> Iterator[Asked]:
        """The questions in the order of the files, each with its picture.

        Raises:
            DataError: a file is not in the published schema.
        """

    def questions(self) -> Sequence[Question]:
        return [asked.question for asked in self._asked.values()]

    @cached_property
    def _asked(self) -> dict[str, Asked]:
        found: dict[str, Asked] = {}
        try:
            for asked in self.read():
                if asked.question.id in found:
                    raise DataError(f"{self.root} holds two questions with the id {asked.question.id!r}.")
                found[asked.question.id] = asked
        except RowError as error:
            raise DataError(f"{self.root}, after {len(found)} questions: {error}") from error
        return found

    def image(self, question: Question) -> ImageFile:
        picture = self._asked[question.id].picture
        if isinstance(picture, InTable):
            return unpacked(picture.path, picture.column, picture.row)[0]
        if isinstance(picture, tuple):
            files = [file for part in picture for file in unpacked(part.path, part.column, part.row)]
            return files[0] if len(files) == 1 else side_by_side(files)
        if isinstance(picture, Path) and not picture.is_file():
            raise DataError(f"There is no file {picture}, though {self.card.title} names it.")
        return picture

    def pictures(self) -> Iterator[tuple[str, str, ImageFile]]:
        """(benchmark, question, picture) of every picture once: what `data check` compares training data with."""
        seen: set[Any] = set()
        for asked in self._asked.values():
            if asked.picture not in seen:
                seen.add(asked.picture)
                yield self.name, asked.question.id, self.image(asked.question)

    def file(self, name: str) -> Path:
        """The file of a picture that a row names; it cannot lead out of the folder of pictures."""
        return inside(self.images_root, name)


def side_by_side(files: Sequence[ImageSource]) -> bytes:
    """Pictures in one row, the first on the left, of one height, as PNG: a question here is about one picture."""
    images = [load_image(file).image for file in files]
    height = min(image.height for image in images)
    scaled = [
        image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.LANCZOS)
        for image in images
    ]
    joined = Image.new("RGB", (sum(image.width for image in scaled) + GAP_PX * (len(scaled) - 1), height), "white")
    left = 0
    for image in scaled:
        joined.paste(image, (left, 0))
        left += image.width + GAP_PX
    buffer = io.BytesIO()
    joined.save(buffer, "PNG")
    return buffer.getvalue()


def need(row: Mapping[str, Any], fields: Sequence[str], where: str, card: Card) -> None:
    """See that a row has the fields of the published schema.

    Raises:
        DataError: naming what is missing, what there is, and where the schema is told.
    """
    missing = [field for field in fields if field not in row]
    if missing:
        raise DataError(
            f"{where} has no {', '.join(map(repr, missing))} (it has {', '.join(map(str, row)) or 'nothing'}): "
            f"expected {card.title} as published, see `sifthinker benchmarks show {card.name}`."
        )


def text_field(row: Mapping[str, Any], field: str, where: str) -> str:
    """A field that must be a text (or a number, taken as one).

    Raises:
        DataError: it is none, or empty.
    """
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        value = str(int(value)) if float(value).is_integer() else str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected a text in {field!r}, got {value!r}.")
    return value.strip()


def pixel_boxes(boxes: Sequence[Any], size: Size, where: str, *, xywh: bool) -> tuple[Box, ...]:
    """Boxes in pixels as normalised xyxy; what sticks out of the picture by a little is cut off.

    Raises:
        DataError: not four numbers each, or a box that is not in the picture.
    """
    try:
        numbers = [tuple(float(number) for number in box) for box in boxes]
        corners = [(x, y, x + a, y + b) if xywh else (x, y, a, b) for x, y, a, b in numbers]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected boxes of four numbers, got {boxes!r:.80}.") from error
    unit = [clip(box) for box in to_unit(corners, BoxSpace.PIXEL, image_size=size)]
    if not all(is_valid(box) for box in unit):
        raise DataError(f"{where}: a box {boxes!r:.80} does not lie in the picture of {size[0]} × {size[1]}.")
    return tuple(unit)
