"""What a data set holds, in numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, Field

from sifthinker.training.data.build import is_complete, maker_of
from sifthinker.training.data.tables import read_records, read_rejects

_COUNTED = ("sources", "families", "teachers", "depths", "expansions")


class Stats(BaseModel):
    """Counts over all records and rejects of a folder."""

    complete: bool = Field(description="Whether the build came to its end.")
    command: str = Field(description="The command of `sifthinker` that fills the folder.")
    records: int = 0
    rejects: int = 0
    images: int = Field(default=0, description="Different ones.")
    sources: dict[str, int] = Field(default_factory=dict, description="Records by source and data set.")
    families: dict[str, int] = Field(default_factory=dict)
    teachers: dict[str, int] = Field(default_factory=dict)
    depths: dict[str, int] = Field(default_factory=dict, description="Records by what told their depth.")
    expansions: dict[str, int] = Field(default_factory=dict)
    steps: dict[int, int] = Field(default_factory=dict, description="Records by the number of areas of their trace.")
    boxes: dict[int, int] = Field(default_factory=dict, description="Records by the number of boxes that decide.")
    mean_trace_characters: float = 0.0
    reasons: dict[str, int] = Field(default_factory=dict, description="Rejects by reason.")
    attempts: int = Field(default=0, description="Traces that teachers wrote, the rejected ones included.")
    prompt_tokens: int = 0
    completion_tokens: int = 0


def folder_stats(folder: Path) -> Stats:
    """Count a folder, a record at a time.

    Raises:
        DataError: it holds no records, or is damaged.
    """
    stats = Stats(complete=is_complete(folder), command=maker_of(folder))
    by: dict[str, Counter[str]] = {
        name: Counter() for name in ("sources", "families", "teachers", "depths", "expansions")
    }
    numbers: dict[str, Counter[int]] = {name: Counter() for name in ("steps", "boxes")}
    images: set[bytes] = set()
    characters = 0
    for record in read_records(folder):
        come_from = record.provenance
        stats.records += 1
        images.add(bytes.fromhex(record.rgb_sha256)[:8])
        by["sources"][f"{come_from.source}/{come_from.dataset}"] += 1
        by["families"][record.family or "–"] += 1
        by["teachers"][come_from.teacher] += 1
        by["depths"][come_from.depth or "none"] += 1
        by["expansions"][come_from.expansion or "given"] += 1
        numbers["steps"][record.trace.count("<area>")] += 1
        numbers["boxes"][len(record.boxes)] += 1
        characters += len(record.trace)
        stats.attempts += come_from.attempts
        stats.prompt_tokens += come_from.prompt_tokens
        stats.completion_tokens += come_from.completion_tokens
    reasons: Counter[str] = Counter()
    for reject in read_rejects(folder):
        stats.rejects += 1
        reasons[reject.reason] += 1
        stats.attempts += reject.attempts
        stats.prompt_tokens += reject.prompt_tokens
        stats.completion_tokens += reject.completion_tokens
    for name, counted in by.items():
        setattr(stats, name, dict(counted.most_common()))
    for name, counts in numbers.items():
        setattr(stats, name, dict(sorted(counts.items())))
    stats.images = len(images)
    stats.reasons = dict(reasons.most_common())
    stats.mean_trace_characters = characters / stats.records if stats.records else 0.0
    return stats
