"""The harness itself: its children are cheap, are what they seem, and faults strike where they are told to."""

from __future__ import annotations

import os
import sys

import pytest
from trust import harness

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def imported() -> None:
    """Tell what of the command line is there before it begins."""
    wanted = ("sifthinker.agent.asking", "sifthinker.agent.cli", "langgraph.graph", "sifthinker.policy.remote")
    print(*(name in sys.modules for name in wanted), "torch" in sys.modules)


def test_a_child_begins_with_everything_imported_and_without_torch() -> None:
    outcome = harness.start_function(imported, ()).wait()
    assert outcome.out.split() == ["True", "True", "True", "True", "False"], outcome
