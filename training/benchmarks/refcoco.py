"""RefCOCO, RefCOCO+ and RefCOCOg: the box of what an expression names."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from sifthinker.policy.boxes import Size, hiou
from sifthinker.policy.errors import DataError
from sifthinker.policy.image_files import DECODER_ERRORS
from sifthinker.training.benchmarks.base import Asked, Benchmark, InTable, Picture, need, pixel_boxes, text_field
from sifthinker.training.benchmarks.card import Card
from sifthinker.training.benchmarks.choices import accuracy
from sifthinker.training.benchmarks.tables import column_values, files_of, json_rows, parquet_rows
from sifthinker.training.compare.data import Judged, Question
from sifthinker.training.compare.readers import upright_size
from sifthinker.training.data.samples import size_of, texts_of

QUESTION = 'Where is "{expression}"? Give the box around it.'
_TABLE = ("question_id", "image", "answer", "bbox")
_NAMED = re.compile(r"(g?)refcoco(\+|[_-]?plus|[_-]?g(?![a-z]))?")  # what comes before or after tells the set


def _card(name: str, title: str, hub: str, size: str, splits: tuple[str, ...]) -> Card:
    return Card(
        name=name,
        title=title,
        about="Find what an expression names.",
        paper="Yu et al. 2016 (RefCOCO, RefCOCO+), Mao et al. 2016 (RefCOCOg)",
        hub=hub,
        size=size,
        splits=splits,
        licence="Apache-2.0 for the authors' annotations, none stated by the mirror; COCO's pictures under Flickr's",
        obtain=f"hf download {hub} --include 'data/val-*' --repo-type dataset --local-dir {name}, then "
        f"{name}:./{name}; or JSON lines as below, with @ and the folder that their pictures' names are relative to.",
        files="data/{split}-*.parquet: question_id, image, answer (expressions), bbox (x, y, width, height in "
        "pixels); or JSON lines, *_{split}.jsonl: image, sent (or img_path, expression), bbox (x1, y1, x2, y2), width, "
        "height",
        published="accuracy at IoU 0.5, and the mean IoU",
        strict="accuracy: HIoU of at least 0.5, so that more than one box is worth less; no box is wrong",
        notes=(
            "One question for each expression of a row; those of one object share a group.",
            "Of a folder with several of the three data sets only this one's files are read, as their names tell.",
        ),
    )


class RefCoco(Benchmark):
    """A Parquet table as the lmms-lab mirrors have it, or JSON lines as in Qwen's and InternVL's evaluations (image,
    sent) or Shikra's (img_path, expression).

    The mirrors' own question text (to caption the box) is not used: the expression is what is asked for.
    """

    card = _card(
        "refcoco", "RefCOCO", "lmms-lab/RefCOCO", "val 8,811, testA 1,975, testB 1,810 objects",
        ("val", "test", "testA", "testB"),
    )  # fmt: skip
    hub_files = ("data/{split}-*.parquet",)

    def read(self) -> Iterator[Asked]:
        files = self._files(f"{self.split}-*.parquet") or self._files(f"*_{self.split}.jsonl")
        if not files:
            raise DataError(f"{self.root} is not {self.card.title}, split {self.split}: expected {self.card.files}.")
        for path in files:
            yield from self._table(path) if path.suffix == ".parquet" else self._lines(path)

    def published(self, judged: Sequence[Judged]) -> dict[str, float]:
        overlaps = [_overlap(one) for one in judged]
        mean = sum(overlaps) / len(overlaps) if overlaps else 0.0
        return {"ACC@0.5": accuracy([overlap >= 0.5 for overlap in overlaps]), "IoU": mean}

    def _files(self, pattern: str) -> list[Path]:
        """Those that match, without what is another of the three data sets by its name, or that of a folder below."""
        found = files_of(self.root, (pattern,))
        if self.root.is_file():
            return found
        named = [(path, _data_set(path.relative_to(self.root).as_posix())) for path in found]
        return [path for path, name in named if name in (None, self.card.name)]

    def _table(self, path: Path) -> Iterator[Asked]:
        for number, row in parquet_rows(path, without=("image", "segmentation")):
            where = f"{path}, row {number}"
            need(row, _TABLE, where, self.card)
            boxes = pixel_boxes([row["bbox"]], _sizes(path)[number], where, xywh=True)
            group = text_field(row, "question_id", where)
            for index, expression in enumerate(texts_of(row, "answer")):
                yield self._place(
                    f"{path.stem}-{number}-{index}", expression, boxes, InTable(path, "image", number), group
                )

    def _lines(self, path: Path) -> Iterator[Asked]:
        for number, row in enumerate(json_rows(path), 1):
            where = f"{path}, line {number}"
            image, expression = ("image", "sent") if "sent" in row else ("img_path", "expression")
            need(row, (image, expression, "bbox"), where, self.card)
            picture = self.file(text_field(row, image, where))
            size = size_of(row) or upright_size(picture)
            boxes = pixel_boxes([row["bbox"]], size, where, xywh=False)
            name = str(row.get("sent_id") or row.get("id") or number)
            yield self._place(f"{path.stem}-{name}", text_field(row, expression, where), boxes, picture, "")

    def _place(self, name: str, expression: str, boxes: Any, picture: Picture, group: str) -> Asked:
        question = Question(
            id=name,
            text=QUESTION.format(expression=expression),
            answer="",
            family=self.split,
            boxes=boxes,
            kind="place",
            group=group,
        )
        return Asked(question, picture)


class RefCocoPlus(RefCoco):
    """As RefCOCO, its expressions without words of place."""

    card = _card(
        "refcoco+", "RefCOCO+", "lmms-lab/RefCOCOplus", "val 3,805, testA 1,975, testB 1,798 objects",
        ("val", "testA", "testB"),
    )  # fmt: skip


class RefCocoG(RefCoco):
    """As RefCOCO, with longer expressions."""

    card = _card(
        "refcocog", "RefCOCOg", "lmms-lab/RefCOCOg", "val 7,573, test 5,023 objects", ("val", "test")
    )  # fmt: skip


def _data_set(name: str) -> str | None:
    """The data set that a file's path names; None: none. The last name counts."""
    found = list(_NAMED.finditer(name.casefold()))
    if not found:
        return None
    before, after = found[-1].groups()
    return before + "refcoco" + ("" if after is None else "g" if after.endswith("g") else "+")


def _overlap(one: Judged) -> float:
    """IoU of the first box said with the true one, as published code reads an answer."""
    place = one.said.place[:1]
    return hiou(place, one.question.boxes) if place else 0.0


@lru_cache(maxsize=8)
def _sizes(path: Path) -> tuple[Size, ...]:
    """(width, height) of each row's picture as stored, from its header; a few rows are in memory at a time."""
    return tuple(_size(value.as_py(), path) for value in column_values(path, "image", batch=16))


def _size(value: Mapping[str, Any] | bytes | None, path: Path) -> Size:
    data = value.get("bytes") if isinstance(value, Mapping) else value
    try:
        with Image.open(io.BytesIO(data or b""), formats=("PNG", "JPEG", "WEBP")) as image:
            return image.size
    except DECODER_ERRORS as error:
        raise DataError(f"{path} holds something that is no picture: {error}") from error
