"""The tables that records and rejects are kept in: Parquet with a schema that is the same in every shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from sifthinker.policy.errors import DataError
from sifthinker.training.data.records import FORMAT, Record, Reject, row_of

_TURNS = pa.list_(
    pa.struct([("role", pa.string()), ("content", pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())])))])
)
_PROVENANCE = pa.struct(
    [
        ("source", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("row_id", pa.string()),
        ("position", pa.int64()),
        ("box_space", pa.string()),
        ("depth", pa.string()),
        ("expansion", pa.string()),
        ("teacher", pa.string()),
        ("attempts", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("notes", pa.list_(pa.string())),
    ]
)
_META = {b"sifthinker_format": str(FORMAT).encode()}

RECORDS = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("family", pa.string()),
        ("rgb", pa.string()),
        ("rgb_sha256", pa.string()),
        ("rgb_size", pa.list_(pa.int32())),
        ("depth_map", pa.string()),
        ("images", pa.list_(pa.string())),
        ("boxes", pa.list_(pa.list_(pa.float64()))),
        ("labels", pa.list_(pa.string())),
        ("trace", pa.string()),
        ("prompt", _TURNS),
        ("messages", _TURNS),
        ("provenance", _PROVENANCE),
    ],
    metadata=_META,
)
"""Columns of `records/*.parquet`; see `Record`."""

REJECTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("dataset", pa.string()),
        ("row_id", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("rgb", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("text", pa.string()),
        ("attempts", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ],
    metadata=_META,
)
"""Columns of `rejected/*.parquet`; see `Reject`."""


def write_table(rows: Sequence[Record] | Sequence[Reject], schema: pa.Schema, path: Path) -> None:
    """Write a shard. The same rows give the same bytes."""
    table = pa.Table.from_pylist([row_of(row) for row in rows], schema=schema)
    pq.write_table(table, path, compression="zstd")


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a folder in the order of their positions, read a batch at a time.

    Raises:
        DataError: a shard is damaged, or a row is no record (for instance: it names a file outside the folder).
    """
    for path in shards(folder, "records"):
        yield from records_in(path)


def records_in(path: Path) -> Iterator[Record]:
    """The records of one shard, likewise."""
    for row in _rows(path):
        yield _record(row, path)


def read_ids(folder: Path) -> list[str]:
    """The ids of the records of a folder, likewise, without reading more of them."""
    return [str(row["id"]) for path in shards(folder, "records") for row in _rows(path, ["id"])]


def read_record(folder: Path, place: int) -> Record:
    """The record at a place from 0, likewise, without reading the shards before it.

    Raises:
        IndexError: there are not so many.
    """
    for path in shards(folder, "records"):
        count = count_rows([path])
        if place < count:
            return _record(next(islice(_rows(path), place, None)), path)
        place -= count
    raise IndexError(place)


def _record(row: dict[str, object], path: Path) -> Record:
    try:
        return Record.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: a row is no record ({place}: {first['msg']}).") from error


def read_rejects(folder: Path) -> Iterator[Reject]:
    """The rejects of a folder, likewise."""
    for path in shards(folder, "rejected"):
        yield from rejects_in(path)


def rejects_in(path: Path) -> Iterator[Reject]:
    """The rejects of one shard, likewise."""
    for row in _rows(path):
        yield Reject.model_validate(row)


def shards(folder: Path, name: str) -> list[Path]:
    """The closed shards of a folder, `name` being "records" or "rejected".

    Raises:
        DataError: there are none.
    """
    found = sorted((folder / name).glob("[0-9]*.parquet"))
    if not found:
        raise DataError(f"{folder} holds no {name}: make them with `sifthinker data build`, or name another folder.")
    return found


def count_rows(paths: Sequence[Path]) -> int:
    """Rows of all shards, from their footers."""
    return sum(_opened(path).metadata.num_rows for path in paths)


def _rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, object]]:
    with _opened(path) as file:
        try:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged ({error}): build it again.") from error


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged ({error}): build it again.") from error
