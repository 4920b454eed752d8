"""Builds of training data for tests: small worlds, small images, and a build that can be killed from outside."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import BoxSpace
from sifthinker.training.data.build import build
from sifthinker.training.data.config import BuildConfig, SourceConfig
from sifthinker.training.data.offline import OfflineTeacher
from sifthinker.training.data.records import Record, Reject
from sifthinker.training.data.tables import read_records, read_rejects
from sifthinker.training.data.teacher import Reply, Task


class SlowTeacher(OfflineTeacher):
    """Takes its time, so that a build can be interrupted; writes what the offline teacher writes."""

    seconds = 0.02

    def write(self, task: Task) -> Reply:
        time.sleep(self.seconds)
        return super().write(task)


class FlatDepth:
    """An estimator: depth grows from the top of an image to its bottom."""

    name = "flat"

    def predict(self, image: Image.Image) -> DepthMap:
        column = np.linspace(0, 1, image.height, dtype=np.float32)
        return DepthMap(np.repeat(column[:, None], image.width, axis=1), source=self.name)


def noise(path: Path, size: tuple[int, int] = (60, 40), mark: int = 0) -> Path:
    """A picture of noise on disk: the same for the same size and mark."""
    cells = np.random.default_rng([mark, *size]).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cells).resize(size, Image.Resampling.BILINEAR).save(path)
    return path


def questions(folder: Path, count: int, *, size: tuple[int, int] = (60, 40)) -> Path:
    """A plain JSONL source of so many questions, each about a picture of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for number in range(count):
            noise(folder / f"images/{number}.png", size, number)
            row = {
                "image": f"images/{number}.png",
                "question": f"What is at place {number}?",
                "answer": f"thing {number}",
                "boxes": [[0.1, 0.2, 0.4, 0.5], [0.6, 0.5, 0.9, 0.9]][: 1 + number % 2],
                "family": "plain",
            }
            file.write(json.dumps(row) + "\n")
    return folder / "questions.jsonl"


def config_for(path: Path, *, kind: str = "jsonl", space: BoxSpace | None = None, **fields: Any) -> BuildConfig:
    """A configuration with one source."""
    return BuildConfig(sources=(SourceConfig(kind=kind, path=path, space=space),), **fields)


def built(path: Path, out: Path, *, kind: str = "jsonl", space: BoxSpace | None = None, **fields: Any) -> list[Record]:
    """The records of a finished build of one source, with depth by `FlatDepth` unless it says otherwise."""
    depth = None if kind == "world" or fields.get("depth") == "none" else FlatDepth()
    build(config_for(path, kind=kind, space=space, **fields), out, depth=depth)
    return list(read_records(out))


def rejects(out: Path) -> dict[str, Reject]:
    """The rejects of a folder by reason; of several the last."""
    return {reject.reason: reject for reject in read_rejects(out)}


def contents(folder: Path, names: Sequence[str] = ("records", "rejected", "images", "depth")) -> dict[str, bytes]:
    """Every file of a data set that is there to stay, with its bytes."""
    files = (path for name in names for path in (folder / name).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}


def slow_build(path: str, out: str) -> None:
    """Run a build in this process, slowly: what a test starts in another process and kills."""
    config = config_for(Path(path), shard_size=10, concurrency=2)
    build(config, Path(out), teacher=SlowTeacher(), depth=FlatDepth())
