"""What an odd picture says in a terminal is in sentences, and nothing of a library's beside them."""

from __future__ import annotations

import os

import pytest
from PIL import Image
from trust import faults_ask
from trust.harness import Round, one_sentence, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def test_broken_metadata_is_told_in_a_note_alone(round: Round) -> None:
    path = round.folder / "picture.png"
    Image.new("RGB", (320, 200), "teal").save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    outcome = run(faults_ask.ask(round, 1))
    assert outcome.code == 0, outcome
    assert "EXIF data is broken" in outcome.out
    assert "Warning" not in outcome.err, outcome.err


def test_a_picture_that_is_none_is_told_in_one_sentence(round: Round) -> None:
    (round.folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    outcome = run(faults_ask.ask(round, 1))
    assert outcome.code in (1, 2), outcome
    assert "save it anew" in one_sentence(outcome) or "fetch or copy" in one_sentence(outcome)
    assert not round.server.requests
