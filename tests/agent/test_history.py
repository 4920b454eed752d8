"""The history of chats keeps what was said, whatever the clock, the disk or a second window do."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from scripted import ScriptedPolicy

from sifthinker.agent import create_focus_agent
from sifthinker.agent.history import History, open_history
from sifthinker.policy.errors import SifthinkerError, UsageError

pytest.importorskip("langgraph.checkpoint.sqlite")
ids = pytest.importorskip("langgraph.checkpoint.base.id")
IMAGE = Image.new("RGB", (40, 30), "teal")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIFTHINKER_HOME", str(tmp_path))
    return tmp_path


def asked(history: History, question: str, *, first: bool = False) -> list[str]:
    """Ask in the conversation "t"; what was said in it so far."""
    policy = ScriptedPolicy("<answer>x</answer>")
    agent = create_focus_agent(
        policy, depth="none", mode="direct", checkpointer=history.checkpointer, images=history.images
    )
    agent.ask(question, image=IMAGE if first else None, thread_id="t")
    messages = agent.get_state({"configurable": {"thread_id": "t"}}).values["messages"]
    return [message.text for message in messages if message.type == "human"]


def test_what_is_said_after_the_clock_was_set_back_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    before = ids._last_v6_timestamp
    monkeypatch.setattr(ids, "_last_v6_timestamp", None)  # as in a new process
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time_ns", lambda: real() + 10**18)  # thirty years ahead
        history = open_history()
        asked(history, "One?", first=True)
        history.close()
    monkeypatch.setattr(ids, "_last_v6_timestamp", before)
    for question, said in (("Two?", ["One?", "Two?"]), ("Three?", ["One?", "Two?", "Three?"])):
        monkeypatch.setattr(ids, "_last_v6_timestamp", None)
        history = open_history()
        assert asked(history, question) == said
        history.close()


def test_a_conversation_is_open_in_one_window_at_a_time(home: Path) -> None:
    program = """
        import sys
        from sifthinker.agent.history import open_history
        history = open_history()
        history.checkpointer.get_tuple({"configurable": {"thread_id": "t"}})
        print("open", flush=True)
        sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout
        assert other.stdout.readline() == "open\n"
        history = open_history()
        with pytest.raises(UsageError, match="another window"):
            asked(history, "One?", first=True)
        assert history.checkpointer.get_tuple({"configurable": {"thread_id": "another"}}) is None
    finally:
        other.kill()
        other.communicate()
    assert asked(history, "One?", first=True) == ["One?"]
    history.close()


def test_a_history_that_can_be_written_no_more_is_told_and_keeps_what_it_has(home: Path) -> None:
    history = open_history()
    asked(history, "One?", first=True)
    history.checkpointer.conn.execute("pragma query_only = on")  # type: ignore[attr-defined]
    with pytest.raises(SifthinkerError, match="could not be written"):
        asked(history, "Two?")
    history.checkpointer.conn.execute("pragma query_only = off")  # type: ignore[attr-defined]
    assert asked(history, "Three?")[::2] == ["One?", "Three?"] or asked(history, "Four?")[0] == "One?"
    history.close()


def test_a_file_that_is_no_history_is_told(home: Path) -> None:
    (home / "chat").mkdir()
    (home / "chat" / "history.sqlite").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(UsageError, match="cannot be opened"):
        open_history()


def test_a_chat_that_opens_while_another_makes_the_tables_waits_for_it(home: Path) -> None:
    """SQLite's switch to its write-ahead log refuses at once where another process has the database, timeout or not."""
    folder = home / "chat"
    folder.mkdir(parents=True)
    other = sqlite3.connect(folder / "history.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    freed = threading.Timer(0.3, lambda: other.execute("commit"))
    freed.start()
    history = open_history()
    freed.join()
    assert history.folder == folder
    history.close()
    other.close()


def test_a_database_that_stays_locked_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sifthinker.agent.chat_saver.WAIT_SECONDS", 0.1)
    folder = home / "chat"
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "history.sqlite", isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(UsageError, match="locked"):
            open_history()
