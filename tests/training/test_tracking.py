"""Which trackers a run reports to."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sifthinker.training.tracking import tracking


@pytest.mark.parametrize(
    ("asked", "installed", "expected"),
    [
        (None, {"tensorboard", "trackio"}, ["tensorboard", "trackio"]),
        (None, {"trackio"}, ["trackio"]),
        (None, set(), "none"),
        ((), {"trackio"}, "none"),
        (("wandb",), {"trackio"}, ["wandb"]),
    ],
)
def test_a_run_reports_to_what_is_asked_for_or_installed(
    asked: tuple[str, ...] | None,
    installed: set[str],
    expected: object,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in installed else None)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    told = tracking(asked, tmp_path / "run")
    assert told == {"report_to": expected, "run_name": "run", "project": "sifthinker"}
