"""A folder of records as TRL takes it.

    SFTTrainer(model, train_dataset=training_set("data/world"), …)               # messages, images
    GRPOTrainer(model, train_dataset=training_set("data/world", depth=True), …)  # prompt, images, and the rewards'

Images are opened when a row is read, through the same checks as everywhere, and only from inside the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.images import load_image
from sifthinker.policy.errors import DataError
from sifthinker.training.data.build import expect_complete
from sifthinker.training.data.samples import inside
from sifthinker.training.data.tables import count_rows, shards

if TYPE_CHECKING:
    from datasets import Dataset

SFT_COLUMNS = ("messages", "images")
GRPO_COLUMNS = ("prompt", "images", "id", "question", "answer", "options", "boxes")


def training_set(
    folder: str | Path, *, columns: Sequence[str] | None = None, depth: bool = False, allow_partial: bool = False
) -> Dataset:
    """The records of a folder, with their images as PIL images.

    Args:
        folder: made by `build`.
        columns: which; by default those that SFT and GRPO use. `provenance`, `trace` and others can be had as well.
        depth: with a column `depth`, the `DepthMap` that the depth reward measures in (None where there is none).
        allow_partial: take what there is of a build that has not come to its end.

    Returns:
        a `datasets.Dataset` whose rows are read from disk when they are asked for.

    Raises:
        DataError: no records, none accepted, a damaged shard, an unfinished build. When a row is read: DataError,
            ImageError for its files.
    """
    from datasets import load_dataset

    root = Path(folder)
    if not allow_partial:
        expect_complete(root)
    wanted = list(columns or dict.fromkeys((*SFT_COLUMNS, *GRPO_COLUMNS)))
    # a shard of which everything was rejected is empty, which `datasets` cannot read
    files = [path for path in shards(root, "records") if count_rows([path])]
    if not files:
        raise DataError(f"{root} holds no accepted record: `sifthinker data stats {root}` says why they were rejected.")
    data = load_dataset(
        "parquet",
        data_files=[str(path) for path in files],
        split="train",
        columns=[*wanted, *(["depth_map"] if depth else [])],
    )

    def opened(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = dict(batch)
        if "images" in rows:
            rows["images"] = [[open_image(root, name) for name in names] for names in rows["images"]]
        if "depth_map" in rows:
            rows["depth"] = [open_depth(root, name) for name in rows.pop("depth_map")]
        return rows

    return data.with_transform(opened)


def open_image(folder: Path, name: str) -> Image.Image:
    """An image of a record: upright RGB.

    Raises:
        DataError: its name leads out of the folder. ImageError: it cannot be read.
    """
    return load_image(inside(folder, name)).image


def open_depth(folder: Path, name: str | None) -> DepthMap | None:
    """The depth map of a record; None where it has none."""
    return None if name is None else DepthMap.from_png16(inside(folder, name))
