"""How a row of each published schema is read; the space of its boxes is part of it. `sources.py` has the table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sifthinker.policy.boxes import BoxSpace
from sifthinker.training.data.config import SourceConfig
from sifthinker.training.data.rows import Row, RowError
from sifthinker.training.data.samples import (
    SourceSample,
    box_of,
    boxes_of,
    row_name,
    short_text,
    size_of,
    text_of,
    texts_of,
)

VISCOT_EXCLUDED = ("docvqa", "dude", "textvqa", "sroie", "infographicsvqa", "textcap")
"""Sets of Visual-CoT that the paper leaves out: documents and texts."""
VISCOT_PER_DATASET = 10_000
VISCOT_LIMIT = 50_000
"""The paper's: at most so many of each remaining set, and in all."""

Reader = Callable[[Row, int, SourceConfig], SourceSample]


@dataclass(frozen=True)
class Kind:
    """A published schema: how a row is read, and what is taken of the file by default."""

    reader: Reader
    spaces: tuple[BoxSpace, ...]
    """The spaces that its boxes may be in; more than one where the row or the user declares it."""
    exclude: tuple[str, ...] = ()
    per_dataset: int = 0
    limit: int = 0


_VISCOT_QUESTION = re.compile(
    r"^\s*<image>\s*|\s*Please (?:think step by step and )?provide the bounding box coordinate of the region.*$",
    re.DOTALL,
)


def _viscot(row: Row, position: int, config: SourceConfig) -> SourceSample:
    """`image` [name, name###[pixels]], `conversations` [question, box in the padded square, "<image>", answer]."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or len(turns) < 4 or not all(isinstance(turn, dict) for turn in turns):
        raise RowError("schema", "Expected four conversations (question, box, image, answer).")
    names = row.get("image")
    if not isinstance(names, list) or not names:
        raise RowError("schema", "Expected image to be a list of a name and the name with its crop.")
    question = _VISCOT_QUESTION.sub("", str(turns[0].get("value") or ""))
    return SourceSample(
        row_id=row_name(row, ("question_id", "id"), position),
        dataset=short_text(row, "dataset", "viscot"),
        split=short_text(row, "split", ""),
        image=text_of({"image": names[0]}, "image"),
        question=text_of({"question": question}, "question"),
        answer=text_of({"answer": turns[3].get("value")}, "answer"),
        boxes=boxes_of(_listed(turns[1].get("value"))),
        space=BoxSpace.PADDED_SQUARE,
        witness=_crop_of(names[1:]),
    )


def _listed(value: Any) -> list[Any]:
    """`[a, b, c, d]`, or several with commas between, as a list of lists."""
    try:
        return list(json.loads(f"[{value}]"))
    except (ValueError, RecursionError) as error:
        raise RowError("boxes", "Expected a box as [x1, y1, x2, y2].") from error


def _crop_of(names: list[Any]) -> tuple[tuple[float, float, float, float], ...]:
    """The pixel box behind ### in the name of a crop, none where there is none."""
    if not names or not isinstance(names[0], str) or "###" not in names[0]:
        return ()
    return boxes_of(_listed(names[0].rpartition("###")[2]))


def _pixel_rows(row: Row, position: int, config: SourceConfig) -> SourceSample:
    """question, answer, image, bboxs in pixels; width and height where they are told."""
    return SourceSample(
        row_id=row_name(row, ("question_id", "id"), position),
        dataset=short_text(row, "dataset", config.kind),
        split=short_text(row, "split", ""),
        image=text_of(row, "image"),
        question=text_of(row, "question"),
        answer=text_of(row, "answer"),
        boxes=boxes_of(row.get("bboxs")),
        space=BoxSpace.PIXEL,
        annotated_size=size_of(row),
    )


def _viscot_metadata(row: Row, position: int, config: SourceConfig) -> SourceSample:
    """As Visual-CoT's own converter lays the images out: textcap's are textvqa's."""
    sample = _pixel_rows(row, position, config)
    folder = "textvqa" if sample.dataset == "textcap" else sample.dataset
    return sample.model_copy(update={"image": f"cot/{folder}/{sample.image}"})


def _refcoco(row: Row, position: int, config: SourceConfig) -> SourceSample:
    """An expression and the box of what it names. The answer is the expression: what counts is the last area."""
    expression = text_of(row, "expression")
    x, y, right, bottom = box_of(row.get("bbox"))
    return SourceSample(
        row_id=row_name(row, ("sent_id", "question_id", "id"), position),
        dataset=short_text(row, "dataset_name", "refcoco").rpartition("/")[2],
        split=short_text(row, "split", ""),
        family="refer",
        image=text_of(row, "img_path"),
        question=config.question.replace("{expression}", expression),
        answer=expression,
        boxes=((x, y, x + right, y + bottom) if config.xywh else (x, y, right, bottom),),
        space=BoxSpace.PIXEL,
        annotated_size=size_of(row),
    )


def _sif50k(row: Row, position: int, config: SourceConfig) -> SourceSample:
    """The question, answer and boxes of a SIF-50K row; see `sif50k.py` for its traces."""
    from sifthinker.training.data.sif50k import sample_of

    return sample_of(row, position).model_copy(update={"text": None, "depth_picture": None})


def _jsonl(row: Row, position: int, config: SourceConfig) -> SourceSample:
    """image, question, answer, boxes: lists of four numbers, or objects with bbox_2d and label."""
    entries = row.get("boxes")
    if not isinstance(entries, list) or not entries:
        raise RowError("no_boxes", "Expected boxes as a list of boxes, got none.")
    numbers = [entry.get("bbox_2d") if isinstance(entry, dict) else entry for entry in entries]
    labels = [text_of(entry, "label") for entry in entries if isinstance(entry, dict) and entry.get("label")]
    answer, options = text_of(row, "answer"), texts_of(row, "options")
    if options and answer.casefold() not in map(str.casefold, options):
        raise RowError("options", f"Expected the answer to be one of the options, word for word, got {answer[:80]!r}.")
    return SourceSample(
        row_id=row_name(row, ("id",), position),
        dataset=short_text(row, "dataset", "jsonl"),
        split=short_text(row, "split", ""),
        family=short_text(row, "family", ""),
        image=text_of(row, "image"),
        question=text_of(row, "question"),
        answer=answer,
        options=options,
        boxes=boxes_of(numbers),
        space=config.space or BoxSpace.UNIT,
        labels=tuple(labels) if len(labels) == len(entries) else (),
        annotated_size=size_of(row),
    )


def _world(row: Row, position: int, config: SourceConfig) -> SourceSample:
    """A line of `questions.jsonl`, with the renderer's depth."""
    sample = _jsonl(row, position, config)
    return sample.model_copy(update={"dataset": "world", "depth": text_of(row, "depth")})


KINDS: dict[str, Kind] = {
    "viscot": Kind(_viscot, (BoxSpace.PADDED_SQUARE,), VISCOT_EXCLUDED, VISCOT_PER_DATASET, VISCOT_LIMIT),
    "viscot-metadata": Kind(_viscot_metadata, (BoxSpace.PIXEL,), VISCOT_EXCLUDED, VISCOT_PER_DATASET, VISCOT_LIMIT),
    "tallyqa": Kind(_pixel_rows, (BoxSpace.PIXEL,)),
    "refcoco": Kind(_refcoco, (BoxSpace.PIXEL,)),
    "sif50k": Kind(_sif50k, (BoxSpace.PADDED_SQUARE, BoxSpace.UNIT)),
    "jsonl": Kind(_jsonl, (BoxSpace.UNIT, BoxSpace.PERMILLE, BoxSpace.PIXEL, BoxSpace.PADDED_SQUARE)),
    "world": Kind(_world, (BoxSpace.UNIT,)),
}
"""The schemas that can be read."""
