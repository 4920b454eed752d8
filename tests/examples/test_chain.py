"""The whole chain from random weights, on a budget of seconds: every stage runs, and a second run finds all done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a policy that knows nothing babbles to its budget's end
def test_the_chain_runs_from_random_weights_and_finds_itself_done(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    command = [sys.executable, "examples/train_embedded.py", "--out", str(tmp_path), "--minutes", "0.2"]

    def run() -> str:
        done = subprocess.run([*command, "--questions", "4"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    first = run()
    assert first.count("$ sifthinker train sft embedded ") == 2
    assert "$ sifthinker train grpo embedded-grpo" in first
    stages = ("random weights", "SFT on world traces", "GRPO-SIF")
    assert all(stage in first.split("Mode internal")[1] for stage in stages)

    again = run()
    assert "$ sifthinker train" not in again
    assert _table(again) == _table(first)


def _table(out: str) -> list[str]:
    """What stands under the table's title, without the time it took."""
    return [line for line in out.split("Mode internal")[1].splitlines() if not line.endswith(" minutes.")]
