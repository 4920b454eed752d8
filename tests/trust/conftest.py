"""What the tests of this folder begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trust.harness import Round
from trust.rounds import new_round
from trust.server import FocusServer


@pytest.fixture
def round(tmp_path: Path) -> Iterator[Round]:
    server = FocusServer()
    yield new_round(tmp_path, seed=0, server=server)
    server.close()
