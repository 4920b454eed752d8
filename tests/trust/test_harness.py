"""The harness itself: its children are cheap, are what they seem, and faults strike where they are told to."""

from __future__ import annotations

import os

import pytest
from trust import harness, preload

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def test_a_child_begins_with_everything_imported_and_without_torch() -> None:
    outcome = harness.start_function(preload.tell_imported, ()).wait()
    assert outcome.out.split() == ["True", "True", "True", "True", "False"], outcome
