"""Faults at an exact place, seeded, one round of each. A hundred of each: `python tests/trust/run.py`."""

from __future__ import annotations

import os

import pytest
from trust.ledger import Row
from trust.rounds import LONG, rows

ROUNDS = int(os.environ.get("SIFTHINKER_FAULT_ROUNDS", "1"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.key, marks=[pytest.mark.slow] if row.group in LONG else []) for row in rows(ROUNDS)],
)
def test_nothing_finished_is_lost_nothing_is_corrupt_and_a_sentence_says_how_to_go_on(row: Row) -> None:
    for number in row.pieces():
        piece = row.run(number, 1)
        assert not piece.failures, f"round {number}"
