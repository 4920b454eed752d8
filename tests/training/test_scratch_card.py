"""The card of an embedded policy: what its run's own records say."""

import json
from pathlib import Path

from sifthinker.training.scratch.card import write_card
from sifthinker.training.scratch.recipe import ScratchRecipe


def _line(phase: str, step: int, minutes: float) -> str:
    return json.dumps({"phase": phase, "step": step, "minutes": minutes, "scenes": 4 * step, "branches": 9 * step})


def test_a_phase_that_was_run_twice_is_told_twice_and_one_gone_on_with_once(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(ScratchRecipe(log_every=20).model_dump_json())
    lines = [
        *(_line("vision", step, step / 20) for step in (20, 40, 60, 40, 60, 80)),  # killed after 60, gone on from 20
        *(_line("traces", step, step / 10) for step in (20, 40, 60)),
        *(_line("traces", step, step / 10) for step in (20, 40)),  # begun once more
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    write_card(tmp_path, tmp_path, scores=None, parameters=1_000_000)
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert "Seed 0, 80 + 60 + 40 steps." in card
    assert "To see for 4 minutes" in card
    assert "to find what is named for 0 minutes" in card
    assert "for 6 + 4 minutes: 360 branches" in card
