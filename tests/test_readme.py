"""What the README says is so: its commands are those that CI runs, its options exist, its snippets run."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from sifthinker.agent.cli import LAZY_GROUPS, app
from sifthinker.policy.load import EMBEDDED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
needs_weights = pytest.mark.skipif(
    not (EMBEDDED / "config.json").is_file(), reason="the embedded policy's weights are not there"
)


def blocks(language: str) -> list[str]:
    return [code for name, code in FENCE.findall(README) if name == language]


def typed_commands() -> Iterator[list[str]]:
    """Every `sifthinker …` of the shell blocks, the sessions and the text, as arguments."""
    lines = [line.removeprefix("$ ") for code in blocks("bash") + blocks("console") for line in code.splitlines()]
    for command in lines + re.findall(r"`(sifthinker [^`]+)`", README):
        if command.startswith("sifthinker "):
            yield shlex.split(command, comments=True)[1:]


def test_ci_runs_exactly_the_two_commands_of_the_readme() -> None:
    listed = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--list"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    answer, tests = (part.strip() for part in listed.split("\n---\n"))
    assert [answer, tests] == [code.strip() for code in blocks("bash")[:2]]
    assert answer.startswith("python3.11 -m venv .venv")
    assert "sifthinker ask examples/images/" in answer
    assert tests.endswith("pytest")


def test_every_command_it_shows_is_understood() -> None:
    commands = list(typed_commands())
    assert len(commands) >= 5
    group = typer.main.get_command(app)
    for name, *arguments in commands:
        if name in LAZY_GROUPS:
            continue  # other packages' commands: their own tests
        group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


def test_every_file_it_names_is_there() -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    used = [argument for command in typed_commands() for argument in command if argument.startswith("examples/")]
    missing = {name for name in linked + used if not (ROOT / name).exists()}
    if not (EMBEDDED / "config.json").is_file():  # made from a run of the embedded policy, or beside its weights
        missing -= {"examples/images/focus-trace.png", "policy/embedded/policy/README.md"}
    assert not missing


def test_it_names_no_address_but_public_projects_pages() -> None:
    hosts = set(re.findall(r"https?://([^/\s)\"']+)", README))
    assert hosts <= {"github.com", "arxiv.org", "localhost:8000"}


@needs_weights
@pytest.mark.parametrize("number", range(2))
def test_its_python_runs(number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(blocks("python")[number], f"README.md, snippet {number + 1}", "exec"), {})
    assert len(blocks("python")) == 2


@needs_weights
def test_its_session_ends_in_the_answer_that_the_policy_gives(capsys: pytest.CaptureFixture[str]) -> None:
    from sifthinker.agent import ask

    [session] = blocks("console")[:1]
    command = next(line for line in session.splitlines() if line.startswith("$ sifthinker ask "))
    _, _, image, question, *_ = shlex.split(command[2:])
    shown = re.search(r"^Answer  (.+)$", session, re.MULTILINE)
    assert shown is not None
    assert ask(ROOT / image, question).answer == shown[1]
