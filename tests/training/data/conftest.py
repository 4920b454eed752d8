"""A small block world, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.training.world.dataset import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten questions, one of each family."""
    folder = tmp_path_factory.mktemp("world")
    list(make_world(folder, split="train", count=10, size=128, workers=1))
    return folder
