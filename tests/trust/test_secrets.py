"""A key is sent to the server and stands nowhere else: no report, log, history, journal or message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trust import faults_ask, faults_chat, faults_compare
from trust.harness import Round, run

KEY = "sk-very-secret-1234567890"
SET = ["--set", f"api_key={KEY}"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def written(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


def test_asking_and_comparing_write_no_key_down(round: Round) -> None:
    for words in (faults_ask.ask(round, 1), faults_compare.command(round)):
        outcome = run([*words, *SET])
        assert outcome.code == 0, outcome
        assert KEY not in outcome.out + outcome.err
    assert set(round.server.keys) == {f"Bearer {KEY}"}
    assert "api_key=" in written(round.folder)  # the command is told, the key is not
    assert KEY not in written(round.folder)


def test_a_chat_remembers_no_key(round: Round) -> None:
    outcome = run(
        [*faults_chat.chat(round, faults_ask.picture(round.folder)), *SET], **faults_chat.options(round, 1, 2)
    )
    assert faults_chat.answers(outcome) == [1, 2], outcome
    assert KEY not in outcome.out + outcome.err
    assert KEY not in written(round.folder)


def test_a_failing_server_s_error_tells_no_key(round: Round) -> None:
    round.server.then = "500"
    outcome = run([*faults_ask.ask(round, 1), *SET, "--debug"])
    assert outcome.code != 0
    assert KEY not in outcome.out + outcome.err


def test_a_server_s_words_cannot_steer_the_terminal(round: Round) -> None:
    round.server.then = "escape"
    outcome = run(faults_ask.ask(round, 1))
    assert outcome.code == 1
    assert "refused the request" in outcome.err
    assert "\x1b" not in outcome.err + outcome.out
    assert "\x07" not in outcome.err + outcome.out
