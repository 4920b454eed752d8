"""Which trackers a run reports to."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
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
    specs = {name: ModuleSpec(name, None, origin=f"{name}/__init__.py") for name in installed}
    monkeypatch.setattr(importlib.util, "find_spec", specs.get)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    told = tracking(asked, tmp_path / "run")
    assert told == {"report_to": expected, "run_name": "run", "project": "sifthinker"}


def test_a_folder_of_a_tracker_s_name_is_no_tracker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tensorboard", "trackio"):
        (tmp_path / "here" / name).mkdir(parents=True)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "here")])
    assert importlib.util.find_spec("trackio") is not None
    assert tracking(None, tmp_path)["report_to"] == "none"
