"""The readers that need no benchmark: a folder of the block world, and a plain JSONL file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from sys import intern
from typing import Any

from PIL import Image

from sifthinker.policy.boxes import Box, BoxSpace, Size, clip, is_valid, to_unit
from sifthinker.policy.errors import DataError, UsageError
from sifthinker.policy.image_files import DECODER_ERRORS
from sifthinker.training.compare.data import ImageFile, Question, QuestionSet, checked
from sifthinker.training.data.samples import RowError, boxes_of, inside, row_name, short_text, text_of, texts_of
from sifthinker.training.world.dataset import QuestionRecord, read_world

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_SLACK = 0.02  # by how much an annotation may reach beyond the image; more than that is another box space


class WorldQuestions(QuestionSet):
    """A folder made by `sifthinker world make`: exact boxes and depth, and scenes that can be rendered again."""

    name = "block world"
    licence = "Apache-2.0"
    obtain = "sifthinker world make --split test --out world"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        records = read_world(folder)
        self._questions = [_of_world(record) for record in records]
        self._files = {record.id: (record.image, record.depth) for record in records}
        made_by = folder / "made_by.txt"
        self.made_by = made_by.read_text(encoding="utf-8").strip() if made_by.is_file() else ""
        """The command that makes the same folder again; empty where it is not known."""
        checked(self.questions(), str(folder / "questions.jsonl"))

    def questions(self) -> Sequence[Question]:
        return self._questions

    def image(self, question: Question) -> ImageFile:
        return _there(self.folder / self._files[question.id][0])

    def depth(self, question: Question) -> Path | None:
        return _there(self.folder / self._files[question.id][1])


def _of_world(record: QuestionRecord) -> Question:
    scene = {} if record.scene is None else {"scene": str(record.scene)}
    return Question(
        id=record.id,
        text=record.question,
        answer=record.answer,
        options=tuple(record.options),
        family=record.family,
        boxes=tuple(target.bbox_2d for target in record.boxes),
        extra={"world": "1", **scene},
    )


class JsonlQuestions(QuestionSet):
    """A file with a JSON object a line: `image`, `question`, `answer`, and what there is of the rest.

    `image` and `depth` (16-bit grey PNG, 0 near) are paths relative to the file. `options`: the answers to choose from.
    `family`, `group`, `id`: texts. `boxes`: those that decide the question, in `space` ("unit", the default,
    "permille", "pixel" or "padded_square").
    """

    obtain = 'a line a question: {"image": "a.png", "question": "…", "answer": "red", "options": ["red", "blue"]}'

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        self._files: dict[str, tuple[str, str | None]] = {}
        self._questions: list[Question] = []
        if not path.is_file():
            raise UsageError(f"There is no file {path}: name a .jsonl file with {self.obtain}.")
        try:
            with path.open(encoding="utf-8") as file:  # not `splitlines`, which ends a line at U+2028 too
                for number, line in enumerate(file, 1):
                    if line.strip():
                        self._add(number, line)
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not a text in UTF-8: {error}") from error
        checked(self._questions, str(path))

    def questions(self) -> Sequence[Question]:
        return self._questions

    def image(self, question: Question) -> ImageFile:
        return _there(inside(self.path.parent, self._files[question.id][0]))

    def depth(self, question: Question) -> Path | None:
        name = self._files[question.id][1]
        return None if name is None else _there(inside(self.path.parent, name))

    def _add(self, number: int, line: str) -> None:
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise UsageError(f"{self.path}, line {number}: expected a JSON object, got {type(row).__name__}.")
            text_of(row, "image")
            depth = None if row.get("depth") is None else text_of(row, "depth")
            question = Question(
                id=row_name(row, ("id",), number),
                text=text_of(row, "question"),
                answer=text_of(row, "answer"),
                options=texts_of(row, "options"),
                family=intern(short_text(row, "family", "all")),
                boxes=self._boxes(row),
                group=short_text(row, "group", ""),
            )
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{self.path}, line {number} is not a question: {error}") from error
        except RowError as error:
            raise UsageError(f"{self.path}, line {number}: {error}") from error
        self._files[question.id] = (intern(str(row["image"])), depth)
        self._questions.append(question)

    def _boxes(self, row: dict[str, Any]) -> tuple[Box, ...]:
        if not row.get("boxes"):
            return ()
        space = short_text(row, "space", "unit")
        if space not in ("unit", "permille", "pixel", "padded_square"):
            raise RowError("boxes", f"Expected space unit, permille, pixel or padded_square, got {space!r}.")
        numbers = boxes_of(row["boxes"])
        sized = space in ("pixel", "padded_square")
        size = upright_size(_there(inside(self.path.parent, row["image"]))) if sized else None
        converted = to_unit(numbers, BoxSpace(space), image_size=size)
        outside = any(not -_SLACK <= edge <= 1 + _SLACK for box in converted for edge in box)
        boxes = tuple(clip(box) for box in converted) if not outside else ()
        if outside or not all(is_valid(box) for box in boxes):
            raise RowError("boxes", f"Expected boxes inside the image in the space {space!r}, got {row['boxes']}.")
        return boxes


def upright_size(path: Path) -> Size:
    """(width, height) of a picture file as a viewer shows it, from its header.

    Raises:
        DataError: it is no picture.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (width, height)
    except DECODER_ERRORS as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error


def _there(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"There is no file {path}, though the data names it.")
    return path
