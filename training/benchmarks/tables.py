"""The tables that benchmarks are published as: Parquet, TSV, JSON and JSON lines, without their pictures."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sifthinker.policy.errors import DataError, UsageError
from sifthinker.training.data.rows import RowError, read_rows

Row = dict[str, Any]


def files_of(root: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that match the first pattern with any match, in order; the file itself where root is one.

    Patterns are tried one after another, at the top and anywhere below.
    """
    if root.is_file():
        return [root]
    for pattern in patterns:
        found = sorted(path for path in root.rglob(pattern) if path.is_file())
        if found:
            return found
    return []


def parquet_rows(path: Path, *, without: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """The rows of a Parquet file with their numbers, columns of pictures left out (they are empty in the row).

    Raises:
        UsageError: pyarrow is not installed. DataError: the file is damaged.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError("Reading Parquet needs pyarrow: pip install 'sifthinker[data]'.") from error
    try:
        with pq.ParquetFile(path) as file:
            names = [str(name) for name in file.schema_arrow.names]
            wanted = [name for name in names if name not in without]
            number = 0
            for batch in file.iter_batches(columns=wanted, batch_size=1024):
                for row in batch.to_pylist():
                    yield number, {**dict.fromkeys(name for name in names if name in without), **row}
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}): fetch it again.") from error


def column_values(path: Path, column: str, *, batch: int) -> Iterator[Any]:
    """The values of one column as Arrow has them, a few rows in memory at a time; none where there is no such column.

    Raises:
        DataError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            if column in file.schema_arrow.names:
                for rows in file.iter_batches(columns=[column], batch_size=batch):
                    yield from rows.column(0)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}): fetch it again.") from error


def tsv_rows(path: Path) -> Iterator[Row]:
    """The rows of a tab-separated file with a header; fields may be as long as a picture in base64."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                yield {name: value for name, value in row.items() if name is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): fetch it again.") from error


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON array or of JSON lines.

    Raises:
        DataError: one of them is none.
    """
    for number, row in enumerate(read_rows(path), 1):
        if isinstance(row, RowError):
            raise DataError(f"{path}, entry {number}: {row}")
        yield row
