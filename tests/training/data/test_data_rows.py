"""Annotation files of any size, read one row at a time."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.policy.errors import DataError, UsageError
from sifthinker.training.data.rows import MAX_ROW, RowError, read_rows
from sifthinker.training.data.samples import inside

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
rows = st.lists(st.dictionaries(st.text(max_size=5), values, max_size=4), max_size=8)


@settings(max_examples=30)
@given(rows, st.sampled_from([None, 0, 2]))
def test_an_array_gives_its_objects_in_order(tmp_path_factory: pytest.TempPathFactory, rows: list, indent: int) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    assert list(read_rows(path)) == rows


@settings(max_examples=30)
@given(rows)
def test_lines_give_their_objects_in_order(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert list(read_rows(path)) == rows


def test_a_row_longer_than_what_is_read_at_once_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    long = [{"text": "ab" * 900_000}, {"text": "c"}]
    path.write_text(json.dumps(long))
    assert list(read_rows(path)) == long


def test_a_broken_line_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n[1]\n"text"\n' + '{"deep": ' + "[" * 9_000 + '\n{"a": 2}\n')
    found = list(read_rows(path))
    assert [row for row in found if isinstance(row, dict)] == [{"a": 1}, {"a": 2}]
    assert [row.reason for row in found if isinstance(row, RowError)] == ["json"] * 4


def test_a_line_without_end_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "' + "x" * (2 * MAX_ROW) + '"}\n{"a": 2}\n')
    first, second = read_rows(path)
    assert isinstance(first, RowError)
    assert second == {"a": 2}


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a"', "[", '[{"a": 1} x]', "[" + '{"a":' * 50_000])
def test_a_broken_array_is_told_with_its_entry(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"entry [12] cannot be read"):
        list(read_rows(path))


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        list(read_rows(tmp_path / "none.json"))
    (tmp_path / "latin.json").write_bytes(b'[{"a": "\xe9"}]')
    with pytest.raises(UsageError, match="UTF-8"):
        list(read_rows(tmp_path / "latin.json"))


def test_a_large_array_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.json"
        path.write_text(json.dumps([{"text": "x" * 900, "number": number} for number in range(count)]))
        tracemalloc.start()
        assert sum(1 for _ in read_rows(path)) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(12_000) < 1.3 * peak(4_000)


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "a/../../b.png", "", "..", "a\\..\\b", "C:/x.png", "a\0b", "link/x.png"]
)
def test_no_row_names_a_file_outside_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(DataError):
        inside(folder, name)


def test_a_link_out_of_the_folder_is_followed_only_where_that_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "coco").symlink_to(tmp_path)
    assert inside(folder, "coco/x.png", links=True) == folder / "coco/x.png"
    assert inside(folder, "sub/x.png") == folder / "sub/x.png"
