"""Quick counts of what `python tests/trust/run.py` tries in great numbers."""

from __future__ import annotations

import pytest
from trust import crowd, inputs

ROWS = {row.key: row for row in (*inputs.rows(), *crowd.rows())}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("inputs/texts", 1000),
        ("inputs/pictures", 1000),
        ("inputs/policies", 100),
        ("crowd/threads", 128),
        ("crowd/tasks", 64),
        ("crowd/served", 64),
        ("crowd/memory", 200),
        pytest.param("crowd/embedded", 64, marks=pytest.mark.slow),
        pytest.param("crowd/memory_embedded", 50, marks=pytest.mark.slow),
    ],
)
def test_nothing_fails(key: str, size: int) -> None:
    piece = ROWS[key].run(0, size)
    assert piece.tried == size
    assert not piece.failures


def test_no_flood_holds_a_parser() -> None:
    for number in ROWS["inputs/hostile"].pieces():
        assert not ROWS["inputs/hostile"].run(number, 1000).failures


def test_every_check_of_the_long_run_has_its_quick_version() -> None:
    assert {row.name for row in inputs.rows()} == {"texts", "hostile", "pictures", "policies"}
    assert {row.name for row in crowd.rows()} == {
        "threads", "tasks", "served", "embedded", "memory", "memory_embedded",
    }  # fmt: skip


@pytest.mark.parametrize("number", [596, 907])
def test_policies_that_once_ended_a_run_untold_do_so_no_more(number: int) -> None:
    assert inputs.misbehaved(number) is None
