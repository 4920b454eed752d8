"""A disk that cannot be written to is one sentence, in whatever form a library tells of it; nothing else is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from sifthinker.policy.errors import DataError
from sifthinker.training.folders import saving

FULL = "No space left on device"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, FULL, "a/b"), f"a/b cannot be written ({FULL})"),
        (SafetensorError(f"Error while serializing: I/O error: {FULL} (os error 28)"), f"cannot be written ({FULL})"),
        (Exception(f"{FULL} (os error 28)"), f"cannot be written ({FULL})"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), f"({FULL})"),
        (OSError(errno.EFBIG, "File too large"), "cannot be written (File too large)"),
    ],
)
def test_a_disk_that_is_full(error: Exception, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught, saving(tmp_path, "All is kept. "):
        raise error
    assert said in str(caught.value)
    assert "All is kept. Mend that, then run the same command again." in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "scores.json"),
        SafetensorError("Error while deserializing header: header too small"),
        SafetensorError("No such file or directory (os error 2)"),
        RuntimeError("size mismatch"),
        DataError("something else"),
    ],
)
def test_what_is_no_matter_of_writing_stays_what_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, saving(tmp_path):
        raise error
    assert caught.value is error
