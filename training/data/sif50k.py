"""The published SIF-50K JSON, in and out.

A row: `dataset`, `image`, `depth_image`, `problem`, `normalized_solution_round` {`bbox_3d`, `illegal_content`},
`response`, `messages` [user, assistant], `images` [image, depth picture].

Its boxes come in two spaces. TallyQA's were divided by width and height. Visual-CoT's are in the padded square, but the
published pipeline read them as shares of width and height, so that its areas, depths and green frames lie beside what
they mean on every image that is not square. Taken as what they are (the default) the boxes are converted and the depths
measured anew; the texts stay, although they were written for the frames in the wrong place, and the record says so.
Where a converted area lies in the padding there is nothing to look at, and the row becomes a reject. To have traces
whose texts fit, build anew from the same file (`sif50k:` as a source), which takes its questions and boxes only.
`as_published` takes every number as it stands.

What is written by `write_sif50k` is in shares of width and height, and each row says so (`box_space`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sifthinker.nodes.depth import DepthEstimator, DepthMap
from sifthinker.nodes.images import LoadedImage, load_image
from sifthinker.policy.boxes import Box, BoxSpace, Size, area, clip, hiou, is_valid, to_unit
from sifthinker.policy.errors import DataError, DepthError, ImageError, TraceError
from sifthinker.policy.files import write_whole
from sifthinker.policy.trace import AreaBox, Step, Trace, parse
from sifthinker.training.data.build import fill, probe
from sifthinker.training.data.config import BuildConfig, SourceConfig
from sifthinker.training.data.depths import DepthShelf, depth_of_picture
from sifthinker.training.data.expansion import rounded
from sifthinker.training.data.files import Gate
from sifthinker.training.data.intake import Refusal, normalised, opened, refused
from sifthinker.training.data.make import Effort, finished, made_or_refused, provenance_of
from sifthinker.training.data.readers import Kind
from sifthinker.training.data.records import Record, Reject
from sifthinker.training.data.rows import Row, RowError
from sifthinker.training.data.runner import Progress
from sifthinker.training.data.samples import (
    BadRow,
    SourceSample,
    boxes_of,
    inside,
    row_name,
    short_text,
    text_of,
    texts_of,
)
from sifthinker.training.data.sources import Source, open_source
from sifthinker.training.data.tables import read_records
from sifthinker.training.data.teacher import TeacherCounts
from sifthinker.training.data.verify import text_problem

UNIT_DATASETS = frozenset({"tallyqa", "tally_qa"})
"""Sets whose boxes are shares of width and height; those of all others are Visual-CoT's."""
MIN_LAST_HIOU = 0.5
"""The last area of a trace must be the boxes that the row says decide the question."""
TEXTS_NOTE = "The texts were written for boxes drawn in another place (padded square read as width and height)."


def sample_of(row: Row, position: int, *, as_published: bool = False) -> SourceSample:
    """A row as a sample, with the trace and the depth picture that it brings.

    Raises:
        RowError: it is not of the schema, or it is marked as illegal content.
    """
    solution = row.get("normalized_solution_round")
    if not isinstance(solution, dict):
        raise RowError("schema", "Expected normalized_solution_round to be an object with bbox_3d.")
    if solution.get("illegal_content"):
        raise RowError("illegal_content", "The row is marked as illegal content.")
    dataset = short_text(row, "dataset", "sif50k")
    said = row.get("box_space")
    if said is not None and said not in set(BoxSpace):
        raise RowError("schema", f"Expected box_space to be one of {', '.join(BoxSpace)}.")
    space = BoxSpace.UNIT if as_published or dataset.casefold() in UNIT_DATASETS else BoxSpace.PADDED_SQUARE
    turns = row.get("messages")
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    replies = [turn.get("content") for turn in turns if turn.get("role") == "assistant"]
    if len(replies) != 1 or not isinstance(replies[0], str):
        raise RowError("schema", "Expected messages with one assistant's turn.")
    picture = row.get("depth_image")
    return SourceSample(
        row_id=row_name(row, ("id",), position),
        dataset=dataset,
        family=short_text(row, "family", ""),
        image=_below_data(text_of(row, "image")),
        question=text_of(row, "problem"),
        answer=text_of(row, "response"),
        options=texts_of(row, "options"),
        boxes=boxes_of(solution.get("bbox_3d")),
        space=BoxSpace(said) if said is not None else space,
        text=replies[0],
        depth_picture=_below_data(picture) if isinstance(picture, str) and picture else None,
    )


def _below_data(name: str) -> str:
    """A file name relative to the folder of all data: the published rows name it from a folder beside that."""
    below = name
    while below.startswith("../"):
        below = below[3:]
    return below.removeprefix("data/") if below != name else name


@dataclass
class SifMaker:
    """Makes records of SIF-50K's own traces; see `Maker`."""

    config: BuildConfig
    folder: Path
    shelf: DepthShelf
    gate: Gate
    as_published: bool = False

    def __call__(self, position: int, source: Source, sample: SourceSample | BadRow) -> Record | Reject:
        """The record of a row, or why there is none."""
        return made_or_refused(position, source, sample, self._record)

    def _record(self, position: int, source: Source, sample: SourceSample, effort: Effort) -> Record:
        effort.text = sample.text or ""
        effort.attempts = 1
        path, image = opened(source, sample.image)
        decimals = self.config.expansion.decimals
        boxes = [rounded(box, decimals) for box in normalised(sample, image.size, self.config)]
        depth = self._depth(source, sample, image)
        trace = self._trace(sample, image.size, depth)
        last = [box.bbox_2d for box in trace.steps[-1].boxes]
        if hiou(last, boxes) < MIN_LAST_HIOU:
            raise Refusal("boxes", f"The trace ends in other boxes than the row's (HIoU {hiou(last, boxes):.2f}).")
        moved = sample.space is BoxSpace.PADDED_SQUARE and image.size[0] != image.size[1]
        provenance = provenance_of(position, source, sample, "sif50k", effort).model_copy(
            update={
                "depth": "depth picture" if sample.depth_picture else self.shelf.estimator_name,
                "notes": [*image.warnings, *([TEXTS_NOTE] if moved else [])],
            }
        )
        return finished(
            self.folder, path, image, sample, tuple(boxes), trace, self.shelf, decimals, provenance, self.gate
        )

    def _depth(self, source: Source, sample: SourceSample, image: LoadedImage) -> DepthMap:
        try:
            if sample.depth_picture and not self.shelf.has(image.sha256):
                path = inside(source.images, sample.depth_picture, links=source.config.links)
                picture = load_image(path).image
                self.shelf.keep(image.sha256, depth_of_picture(picture, grey_near_bright=not self.as_published))
            return self.shelf.of(image)
        except (DepthError, ImageError, DataError) as error:
            raise refused("depth", error) from error

    def _trace(self, sample: SourceSample, size: Size, depth: DepthMap) -> Trace:
        """The row's trace, its areas normalised by width and height and, where they moved, measured anew."""
        try:
            trace = parse(sample.text or "", require_depth=False)
        except TraceError as error:
            raise Refusal(f"grammar:{error.reason}", f"The trace breaks the grammar: {error}.") from error
        for number, step in enumerate(trace.steps, 1):
            if problem := text_problem(step.text, number):
                raise Refusal(*problem)
        return Trace(
            steps=[
                Step(boxes=self._area(step.boxes, sample.space, size, depth), text=" ".join(step.text.split()))
                for step in trace.steps
            ],
            answer=sample.answer,
        )

    def _area(self, boxes: Sequence[AreaBox], space: BoxSpace, size: Size, depth: DepthMap) -> list[AreaBox]:
        decimals = self.config.expansion.decimals
        found = [_unit_area(box.bbox_2d, space, size) for box in boxes]
        if not all(is_valid(box) and area(box) > 0 for box in found):
            raise Refusal("padding", "An area of the trace lies in the padding, where the image shows nothing.")
        out: list[AreaBox] = []
        for box, said in zip(found, boxes, strict=True):
            kept = rounded(box, decimals)
            as_said = space is BoxSpace.UNIT and said.depth is not None
            out.append(AreaBox(bbox_2d=kept, depth=said.depth if as_said else round(depth.mean(kept), decimals)))
        return out


def _unit_area(box: Box, space: BoxSpace, size: Size) -> Box:
    """An area of a trace as normalised xyxy, clipped."""
    return clip(to_unit([box], space, image_size=size)[0])


def import_sif50k(
    path: Path,
    out: Path,
    *,
    images: Path | None = None,
    links: bool = False,
    as_published: bool = False,
    depth: DepthEstimator | None = None,
    give_up: bool = False,
    retry: Collection[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Make a folder of records of a SIF-50K JSON, or go on with one.

    Args:
        path: the JSON.
        out: the folder; new, or one that the same import has begun.
        images: folder that the rows' file names are relative to; by default the JSON's.
        links: whether symbolic links may lead out of that folder.
        as_published: take every number as a share of width and height, see above.
        depth: for rows that bring no depth picture; None: they become rejects.
        give_up, retry: as `build`.
        on_progress: told after each row.

    Raises:
        UsageError, DataError: as `build`.
    """
    config = BuildConfig(sources=(SourceConfig(kind="sif50k", path=path, images=images, links=links),))
    kind = Kind(
        lambda row, position, _: sample_of(row, position, as_published=as_published),
        (BoxSpace.UNIT, BoxSpace.PADDED_SQUARE),
    )
    source = replace(open_source(config.sources[0]), kind=kind)
    probe(source)
    told = {
        "import": "sif50k",
        "as_published": as_published,
        "depth_name": depth.name if depth is not None else "",
        "sources": [source.fingerprint()],
        "shard_size": config.shard_size,
    }
    gate = Gate()
    maker = SifMaker(config, out, DepthShelf(out, depth, gate), gate, as_published)
    return fill(
        out,
        [source],
        maker,
        told,
        config,
        counts=TeacherCounts(),
        give_up=give_up,
        retry=retry,
        on_progress=on_progress,
    )


def sif_row(record: Record) -> dict[str, Any]:
    """A record in the published schema, its boxes in shares of width and height."""
    depth = record.images[1] if len(record.images) > 1 else ""
    asked = "".join("<image>" if part.type == "image" else part.text or "" for part in record.prompt[0].content)
    return {
        "id": record.id,
        "dataset": record.provenance.dataset,
        "image": record.rgb,
        "depth_image": depth,
        "problem": record.question,
        "normalized_solution_round": {"bbox_3d": [list(box) for box in record.boxes], "illegal_content": False},
        "response": record.answer,
        "messages": [{"content": asked, "role": "user"}, {"content": record.trace, "role": "assistant"}],
        "images": list(record.images),
        "box_space": BoxSpace.UNIT.value,
        "options": list(record.options),
        "family": record.family,
    }


def write_sif50k(folder: Path, out: Path, *, on_record: Callable[[], None] | None = None) -> int:
    """Write the records of a folder as SIF-50K's JSON; file names stay relative to the folder.

    Returns:
        how many.

    Raises:
        DataError: the folder holds no records, or is damaged.
    """
    written = 0

    def write(part: Path) -> None:
        nonlocal written
        with part.open("w", encoding="utf-8") as file:
            file.write("[")
            for record in read_records(folder):
                file.write(",\n" if written else "\n")
                file.write(json.dumps(sif_row(record), ensure_ascii=False))
                written += 1
                if on_record is not None:
                    on_record()
            file.write("\n]\n")

    write_whole(out, write)
    return written
