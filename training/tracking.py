"""Where a run's figures go besides its own files: TensorBoard and trackio, as far as they are installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = "sifthinker"
"""What trackio keeps the runs under: `trackio show --project sifthinker`."""
_KNOWN = ("tensorboard", "trackio")


def tracking(asked: Sequence[str] | None, out: Path) -> dict[str, Any]:
    """The fields of `transformers.TrainingArguments` that say where the figures of a run go.

    TensorBoard's events stand in the run's folder; trackio has a data base of its own on this machine.

    Args:
        asked: trackers by transformers' names; None: TensorBoard and trackio, what is installed of them.
        out: the run's folder.
    """
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out / "tensorboard"))
    if asked is None:
        asked = [name for name in _KNOWN if _is_installed(name)]
    return {"report_to": list(asked) or "none", "run_name": out.name, "project": PROJECT}


def _is_installed(name: str) -> bool:
    """Whether there is such a package; a folder of that name in the working directory is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None
