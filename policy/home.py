"""Where this program keeps what outlasts a run: conversations, and what was learnt about policies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sifthinker.policy.files import expanded

HOME_VARIABLE = "SIFTHINKER_HOME"
"""Environment variable that names another folder for what is kept between runs."""


def data_folder() -> Path:
    """`$SIFTHINKER_HOME`, else the system's folder for such data. It may not be there yet."""
    if named := os.environ.get(HOME_VARIABLE):
        return expanded(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "sifthinker"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "sifthinker"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "sifthinker"
