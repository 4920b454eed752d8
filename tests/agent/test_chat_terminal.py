"""The chat in a real terminal (a pseudo-terminal): pictures in half blocks, Ctrl-C, Tab, Ctrl-D, another day."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

pty = pytest.importorskip("pty", reason="needs a system with pseudo-terminals")
pytest.importorskip("readline", reason="needs readline")

PROGRAM = """
import sys, time
from scripted import ScriptedPolicy, area, focus_lines
from sifthinker.agent import chatting
from sifthinker.agent.cli import run

def slow(messages):
    time.sleep(8)  # without a word, as a busy server does
    return "<text>late</text></think><answer>late</answer>"

LINES = [*focus_lines((0.1, 0.2, 0.5, 0.6), answer="red"), f"<think>{area((0.2, 0.2, 0.6, 0.6))}", slow,
         *focus_lines((0.5, 0.2, 0.9, 0.6), answer="blue")]
if sys.argv[1] == "again":
    LINES = focus_lines((0.5, 0.2, 0.9, 0.6), answer="green")
chatting.chosen_policy = lambda *_: ScriptedPolicy(*LINES)
sys.exit(run(["chat", "--depth", "none", *sys.argv[2:]]))
"""
HALF_BLOCK = "▀"


class Terminal:
    """The program in a terminal of 40 lines with 100 columns each, and what stands in it since one last looked."""

    def __init__(self, *arguments: str, home: Path, folder: Path) -> None:
        changed = {
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "LINES": "40",
            "COLUMNS": "100",
            "SIFTHINKER_HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
        }
        hidden = ("KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL", "TMUX", "NO_COLOR", "SIFTHINKER_PICTURES")
        environment = {key: value for key, value in {**os.environ, **changed}.items() if key not in hidden}
        self.process, self.file = pty.fork()
        if self.process == 0:
            os.chdir(folder)
            os.execve(sys.executable, [sys.executable, "-c", PROGRAM, *arguments], environment)
        self.seen = ""

    def until(self, words: str, seconds: float = 120) -> str:
        """What comes up to these words."""
        end = time.monotonic() + seconds
        while words not in self.seen:
            assert time.monotonic() < end, f"{words!r} did not come: {self.seen[-2000:]!r}"
            if select.select([self.file], [], [], 0.2)[0]:
                self.seen += os.read(self.file, 65_536).decode(errors="replace")
        before, _, self.seen = self.seen.partition(words)
        return before

    def type(self, words: str) -> None:
        os.write(self.file, words.encode())

    def answers(self, line: str) -> str:
        """What is said to a line, up to the next prompt."""
        self.type(f"{line}\r")
        self.until("\n")  # the line itself
        return self.until("> ")

    def ended(self) -> int:
        """The exit code, once the program has ended."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self.process = 0
                return os.waitstatus_to_exitcode(status)
            if select.select([self.file], [], [], 0.1)[0]:
                try:
                    os.read(self.file, 65_536)
                except OSError:  # the other end is closed
                    time.sleep(0.05)
        raise AssertionError("the program did not end")

    def close(self) -> None:
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self.file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (120, 80), "teal").save(tmp_path / "cups.png")
    Image.new("RGB", (90, 60), "red").save(tmp_path / "my cups.png")
    return tmp_path


@pytest.fixture
def terminals(folder: Path) -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.mark.slow
def test_a_conversation_in_a_terminal(folder: Path, terminals: list[Terminal]) -> None:
    terminal = Terminal("first", "cups.png", home=folder / "home", folder=folder)
    terminals.append(terminal)
    begun = terminal.until("> ")
    assert "Now about cups.png, 120 × 80." in begun
    assert HALF_BLOCK in begun  # the picture

    answered = terminal.answers("What colour is it?")
    assert "0.10, 0.20 – 0.50, 0.60" in answered
    assert HALF_BLOCK in answered  # the crop
    assert "red" in answered

    terminal.type("And the one behind it?\r")
    terminal.until("0.20, 0.20 – 0.60, 0.60")
    asked = time.monotonic()
    terminal.type("\x03")
    terminal.until("Stopped.")
    terminal.until("> ")
    assert time.monotonic() - asked < 8  # it does not wait for the policy
    terminal.type("\x03")
    terminal.until("Ctrl-D or /quit leaves.")
    terminal.until("> ")

    assert "blue" in terminal.answers("And the one behind it?")
    terminal.type("/mode int\t\r")
    terminal.until("Mode: internal.")
    terminal.until("> ")
    terminal.type("/image my\t\r")
    terminal.until("Now about my cups.png, 90 × 60.")
    terminal.until("> ")
    assert "Forgotten; 1 question left." in terminal.answers("/undo")
    terminal.type("\x04")
    assert terminal.ended() == 0

    again = Terminal("again", "--resume", home=folder / "home", folder=folder)
    terminals.append(again)
    resumed = again.until("> ")
    assert "Resumed after 1 question." in resumed
    assert "The answer was: red" in resumed
    assert "green" in again.answers("And the farthest?")
    again.type("/quit\r")
    assert again.ended() == 0
