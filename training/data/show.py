"""A record as one HTML page: image, depth, the boxes of each step, its texts, and where it came from.

The page is the agent's report (`agent/report.py`), so that a training trace and a policy's own look the same. Every
text in it is escaped, and it loads nothing.
"""

from __future__ import annotations

from pathlib import Path

from sifthinker.agent.report import Report, ReportBox, ReportStep, render_report
from sifthinker.nodes.images import crop
from sifthinker.policy.boxes import area
from sifthinker.policy.errors import UsageError
from sifthinker.training.data.load import open_depth, open_image
from sifthinker.training.data.records import Record
from sifthinker.training.data.tables import read_ids, read_record

_WHOLE = 0.9


def find_record(folder: Path, wanted: str | None = None) -> Record:
    """A record by its id, or by its number from 1; the first one by default.

    Raises:
        UsageError: there is no such record. DataError: the folder holds none, or is damaged.
    """
    ids = read_ids(folder)
    if wanted is not None and wanted in ids:
        return read_record(folder, ids.index(wanted))
    number = 1 if wanted is None else int(wanted) if wanted.isascii() and wanted.isdigit() else 0
    if not 1 <= number <= len(ids):
        raise UsageError(f"{folder} holds no record {wanted or 1}: give an id, or a number from 1.")
    return read_record(folder, number - 1)


def record_page(folder: Path, record: Record) -> str:
    """The page of a record.

    Raises:
        DataError, ImageError: a file is missing, damaged or outside the folder. TraceError: the trace is none.
    """
    image = open_image(folder, record.rgb)
    depth = open_depth(folder, record.depth_map)
    steps = [
        ReportStep(
            boxes=[ReportBox(box.bbox_2d, box.depth, depth.mean(box.bbox_2d) if depth else None) for box in step.boxes],
            text=step.text,
            crops=[crop(image, box.bbox_2d)[0] for box in step.boxes if area(box.bbox_2d) < _WHOLE],
        )
        for step in record.parsed().steps
    ]
    come_from = record.provenance
    facts = [
        ("record", record.id),
        ("source", f"{come_from.source}, row {come_from.row_id}"),
        ("data set", " ".join(filter(None, [come_from.dataset, come_from.split, record.family]))),
        ("boxes given in", come_from.box_space.value),
        ("expansion", come_from.expansion or "none"),
        ("teacher", come_from.teacher),
        ("depth from", come_from.depth or "none"),
        ("tokens", f"{come_from.prompt_tokens:,} in, {come_from.completion_tokens:,} out"),
    ]
    return render_report(
        Report(
            question=record.question,
            answer=record.answer,
            image=image,
            steps=steps,
            options=record.options,
            depth_picture=None if depth is None else depth.picture(),
            image_name=record.rgb.rpartition("/")[2],
            warnings=come_from.notes,
            facts=facts,
            trace_text=record.trace,
        )
    )
