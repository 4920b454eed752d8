"""Files of data sets: brought to where they are wanted, and written by threads of which a process can be rid."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from sifthinker.policy.files import beside, sync_file


def bring(source: Path, target: Path) -> None:
    """The file of `source` also under `target`: linked where both are on one disk, else copied."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = beside(target)
    try:
        try:
            os.link(source.resolve(), part)
        except OSError:
            shutil.copyfile(source, part)
            sync_file(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)  # it stays where both names are links to one file already


class Stopped(Exception):
    """A thread wanted to write to a folder that its process has given up."""


class Gate:
    """Lets threads write to a folder until the process is done with it: after `close` none is writing or will."""

    def __init__(self) -> None:
        self._writing = 0
        self._closed = False
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            if self._closed:
                raise Stopped
            self._writing += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._writing -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until nobody writes, and let nobody begin."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._writing == 0)
