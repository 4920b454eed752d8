"""Where chats are kept: LangGraph's SQLite checkpointer, made safe against a full disk, a clock and a second window.

- What SQLite cannot write or read is told in a sentence (SifthinkerError), so that a chat can go on.
- LangGraph takes the checkpoint with the greatest id to be a thread's newest, and an id begins with the time. After the
  clock was set back, what is said now would count as older than what was said before, and be lost: ids therefore go
  on from the greatest one stored.
- A conversation is open in one process at a time: of two that go on with it, one would lose its questions.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.base import id as ids
from langgraph.checkpoint.sqlite import SqliteSaver

from sifthinker.policy.errors import SifthinkerError, UsageError

WAIT_SECONDS = 10.0
"""How long another process that writes is waited for."""


class ChatSaver(SqliteSaver):
    """The checkpointer of a folder.

    Raises:
        OSError, sqlite3.Error: the folder cannot be written to, or holds no such database.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__(sqlite3.connect(folder / "history.sqlite", check_same_thread=False, timeout=WAIT_SECONDS))
        _waiting(self.setup)
        self._lock_file = os.open(folder / "open.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._held: set[str] = set()
        newest = self.conn.execute("select max(checkpoint_id) from checkpoints").fetchone()[0]
        if newest is not None:
            _never_behind(newest)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As LangGraph's."""
        self._hold(config)
        with self._told("written"):
            return super().put(config, checkpoint, metadata, new_versions)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As LangGraph's."""
        with self._told("written"):
            super().put_writes(config, writes, task_id, task_path)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As LangGraph's."""
        self._hold(config)
        with self._told("read"):
            return super().get_tuple(config)

    def list(self, config: RunnableConfig | None, **arguments: Any) -> Iterator[CheckpointTuple]:
        """As LangGraph's."""
        with self._told("read"):
            yield from super().list(config, **arguments)

    def close(self) -> None:
        """Let go of the database and of the conversations."""
        self.conn.close()
        os.close(self._lock_file)

    def _hold(self, config: RunnableConfig) -> None:
        """Have a conversation for this process alone, until it ends."""
        thread = str(config["configurable"]["thread_id"])
        if thread in self._held:
            return
        if not _lock(self._lock_file, thread):
            raise UsageError(
                "This conversation is open in another window: go on there, or begin another one (without --resume)."
            )
        self._held.add(thread)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise SifthinkerError(
                f"The conversation could not be {what} in {str(self._folder)!r} ({error}): what was answered before is "
                "kept; mend that (a full disk?), then ask again."
            ) from error


def _waiting(setup: Callable[[], None]) -> None:
    """Make the tables, after whoever is making them: SQLite does not wait to switch to its journal, it refuses."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return setup()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _never_behind(newest: str) -> None:
    """Have LangGraph's next checkpoint ids follow a stored one, whatever the clock says."""
    stored = ids.UUID(uuid.UUID(newest).hex).time
    ids._last_v6_timestamp = max(ids._last_v6_timestamp or 0, stored)  # type: ignore[assignment]


def _lock(file: int, thread: str) -> bool:
    """Lock the byte of a file that stands for a thread; it is freed when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two windows on one conversation are not told apart there
        return True
    place = int.from_bytes(hashlib.sha256(thread.encode()).digest()[:7], "big")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError:
        return False
    return True
