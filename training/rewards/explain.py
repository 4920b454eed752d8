"""What a completion earns and why, reward by reward, robust and published: for debugging a run offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from sifthinker.nodes.depth import DepthMap, FixedDepth, load_depth
from sifthinker.policy.boxes import Box
from sifthinker.policy.errors import UsageError
from sifthinker.policy.trace import AreaBox
from sifthinker.training.data.samples import inside
from sifthinker.training.rewards import published
from sifthinker.training.rewards.answer import match_answer
from sifthinker.training.rewards.completions import Reading, read, text_of, truth_boxes
from sifthinker.training.rewards.depth import PLACE_IOU, judge_depths
from sifthinker.training.rewards.grounding import ground
from sifthinker.training.rewards.matching import match
from sifthinker.training.rewards.progress import boosted
from sifthinker.training.rewards.published_reading import answer_of, areas, format_problem

_FREE = "a free text: the judge's score or, where the judge failed, the mean of the group's others"
_JUDGED = "the judge's score, 0 where the judge failed"


class RewardRecord(BaseModel):
    """A completion with what it is measured by. Further fields are left alone."""

    completion: str | list[dict[str, Any]] = Field(description="Text, or TRL's list of messages.")
    answer: str = Field(description="The right answer.")
    options: list[str] | None = None
    boxes: list[Any] | None = Field(default=None, description="Normalised xyxy, or objects with bbox_2d.")
    depth: str | None = Field(
        default=None,
        description="A depth file in the record's folder: 16-bit PNG (0 near), .npy, or PATH:near=dark or bright.",
    )
    previous: float | None = Field(default=None, description="The sample's mean score at its last visit.")
    question: str | None = None
    id: str | int | None = None


class Explained(BaseModel):
    """One reward of a completion, in both forms."""

    robust: float
    published: float
    why: list[str]
    published_why: list[str]


class Explanation(BaseModel):
    """All rewards of a completion."""

    id: str
    question: str | None
    said: str | None = Field(description="The answer given; None where there is none that can be read.")
    answer: str
    rewards: dict[str, Explained]

    @property
    def robust(self) -> float:
        """Sum of the robust rewards, unweighted."""
        return sum(one.robust for one in self.rewards.values())

    @property
    def published(self) -> float:
        """Sum of the published rewards, unweighted."""
        return sum(one.published for one in self.rewards.values())


def read_records(path: Path) -> list[RewardRecord]:
    """The records of a JSON file (an object, or a list of them) or of a JSONL file.

    Raises:
        UsageError: it cannot be read, or a record lacks something.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"Cannot read {str(path)!r}: {reason}. Give a JSON or JSONL file of completions.") from None
    records = [_record(found, where) for found, where in _objects(text, path.name)]
    if not records:
        raise UsageError(f"{path} holds no completion.")
    return records


def explain(record: RewardRecord, folder: Path, *, number: int = 1) -> Explanation:
    """What a completion earns and why.

    Args:
        record: the completion and its sample.
        folder: what `depth` is relative to, and must be in.
        number: names a record that has no id.

    Raises:
        UsageError, DepthError, ImageError: its boxes or its depth cannot be used.
        DataError: its depth is outside the folder.
    """
    name = str(number) if record.id is None else str(record.id)
    return explained(record, _depth(record.depth, folder), name=name)


def explained(record: RewardRecord, depth: DepthMap | None, *, name: str, judged: bool = False) -> Explanation:
    """The same with the depth at hand; the record's own `depth` is not looked at.

    Args:
        record: the completion and its sample.
        depth: of its image.
        name: of the sample.
        judged: whether free answers were a judge's to score; what it said is not known here.

    Raises:
        UsageError: its boxes cannot be used.
    """
    text = text_of(record.completion)
    true = truth_boxes(record.boxes)
    reading = read(text, depth is not None)
    return Explanation(
        id=name,
        question=record.question,
        said=answer_of(text) if reading.trace is None else reading.trace.answer,
        answer=record.answer,
        rewards={
            "format": _format(reading, text),
            "answer": _answer(record, reading, text, judged=judged),
            "grounding": _grounding(reading, text, true),
            "depth": _depths(reading, text, true, depth),
        },
    )


def _format(reading: Reading, text: str) -> Explained:
    problem = format_problem(text)
    count = len(reading.trace.steps) if reading.trace else 0
    return Explained(
        robust=float(reading.trace is not None),
        published=float(not problem),
        why=[f"a trace of {_counted(count, 'area')}" if reading.trace else f"{reading.reason}: {reading.message}"],
        published_why=[problem or "tags and areas are found"],
    )


def _answer(record: RewardRecord, reading: Reading, text: str, *, judged: bool) -> Explained:
    strict = match_answer(reading, record.answer, record.options, record.question or "")
    said = answer_of(text)
    loose = match(str(said), record.answer, record.options)
    why = _FREE if judged and not strict.settled else f"{strict.kind.value}: {strict.reason}"
    told = "no <answer>…</answer>" if said is None else f"{loose.kind.value}: {loose.reason}"
    bonus = f"bonus over {record.previous:g} at the last visit" if record.previous is not None else None
    return Explained(
        robust=boosted(strict.score, record.previous),
        published=boosted(loose.score, record.previous),
        why=[why, *([bonus] if bonus else [])],
        published_why=[_JUDGED if judged else told],
    )


def _grounding(reading: Reading, text: str, true: tuple[Box, ...]) -> Explained:
    found = ground(reading, true)
    loose = published.ground(areas(text), true)
    place = found.placement
    most = max(place.n_pred, place.n_true)
    why = ["not a trace, so there is no last area" if reading.trace is None else "the sample has no boxes"]
    if reading.trace and true:
        why = [
            f"last area: {_counted(place.n_pred, 'box')} for {place.n_true}",
            f"HIoU {place.hiou:.3f} = ½ (unions {place.union:.3f} + pairs {place.matched:.3f} / {most})",
            f"bonus {found.bonus:.3f} over the whole image, {found.start:.3f}",
        ]
    first = "no bonus: the first area cannot be read" if loose.first is None else f"first area {loose.first:.3f}"
    return Explained(
        robust=found.score,
        published=loose.score,
        why=why,
        published_why=[f"last area {loose.last:.3f}", first],
    )


def _depths(reading: Reading, text: str, true: tuple[Box, ...], depth: DepthMap | None) -> Explained:
    if depth is None:
        return Explained(robust=0.0, published=0.0, why=["no depth map is given"], published_why=[])
    found = judge_depths(reading, true, depth)
    loose = published.judge_depths(areas(text), depth)
    placed = {one.pair.pred: one for one in found.said}
    why = ["not a trace, so there is no last area"] if reading.trace is None else []
    for index, box in enumerate(reading.last[:12]):
        one = placed.get(index)
        if one is None:
            why.append(f"{_spelt(box)}: in no right place (IoU below {PLACE_IOU:g})")
            continue
        verdict = "right" if one.right else "wrong"
        why.append(f"{_spelt(box)}: {verdict}, measured {one.measured:.3f} ± {one.allowed:.3f}")
    missing = max(found.n_true - found.n_pred, 0)
    why += [f"{_counted(missing, 'box')} missing"] if missing and reading.trace else []
    return Explained(
        robust=found.score,
        published=loose.score,
        why=why,
        published_why=[f"{loose.right} of {_counted(loose.said, 'depth')} right, in all areas"],
    )


def _spelt(box: AreaBox) -> str:
    said = "no depth" if box.depth is None else f"{box.depth:g}"
    return "[" + ", ".join([f"{number:.3f}" for number in box.bbox_2d]) + f"] {said}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('x') else 's'}"


def _objects(text: str, name: str) -> Iterator[tuple[Any, str]]:
    """Each object of a JSON or JSONL text, with the place to name in an error."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        for number, line in enumerate(text.split("\n"), 1):  # JSON's texts may hold what `splitlines` splits at
            if line.strip():
                try:
                    yield json.loads(line), f"{name}, line {number}"
                except (ValueError, RecursionError) as error:
                    raise UsageError(f"{name}, line {number} is no JSON: {error}.") from None
        return
    for number, one in enumerate(found if isinstance(found, list) else [found], 1):
        yield one, f"{name}, record {number}"


def _record(found: Any, where: str) -> RewardRecord:
    try:
        record = RewardRecord.model_validate(found)
        text_of(record.completion)
        truth_boxes(record.boxes)
        return record
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"]) or "the record"
        raise UsageError(
            f"{where} is no completion to explain, at {field}: {fault['msg']}. Expected completion and answer, and "
            "where there are any options, boxes and depth."
        ) from None


def _depth(spec: str | None, folder: Path) -> DepthMap | None:
    if spec is None:
        return None
    name, marked, polarity = spec.rpartition(":near=")
    path = inside(folder, name if marked else spec)
    if marked:
        known = load_depth(f"image:{path}{marked}{polarity}")
        assert isinstance(known, FixedDepth)
        return known.depth
    if path.suffix == ".npy":
        try:
            return DepthMap(np.load(path, allow_pickle=False), source=str(path))
        except (OSError, ValueError) as error:
            raise UsageError(f"Cannot read the depth map {str(path)!r}: {error}.") from None
    return DepthMap.from_png16(path)
