"""Tables of completions for reading: every reward with its reason, everything escaped, nothing lost."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.nodes.depth import DepthMap
from sifthinker.training.grpo.tables import Rollouts, RolloutTables
from sifthinker.training.rewards.explain import explain, read_records

GOOD = (
    '<think><area>[{"bbox_2d":[0.100,0.200,0.500,0.600],"depth":0.500}]</area><text>a cube</text></think>'
    "<answer>red</answer>"
)
NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>\ud800 </pre>"


def _rollouts(step: int = 2) -> Rollouts:
    row = {
        "id": "q<1>",
        "question": "Which <b>one</b>?",
        "options": ["red", "<i>blue</i>"],
        "answer": "red",
        "boxes": [[0.1, 0.2, 0.5, 0.6]],
        "images": [Image.new("RGB", (64, 48), "grey")],
        "depth": DepthMap(np.full((48, 64), 0.5, np.float32)),
    }
    rewards = {"format_reward": [1.0, 0.0], "answer_reward": [1.0, None], "grounding_reward": [1.9, 0.0]}
    return Rollouts(step, [row, row], [GOOD, NASTY], [[1, 2], [3]], rewards)


def _tables(tmp_path: Path, **settings: object) -> RolloutTables:
    fields = {"every": 2, "most": 8, "form": "robust", "weights": {"format": 1.0, "answer": 2.0, "grounding": 1.0}}
    return RolloutTables(tmp_path, **{"gather": list, **fields, **settings})  # type: ignore[arg-type]


def test_a_table_holds_every_completion_with_its_rewards_and_why(tmp_path: Path) -> None:
    _tables(tmp_path)(_rollouts())
    lines = [json.loads(line) for line in (tmp_path / "rollouts/rollouts.jsonl").read_text().splitlines()]
    assert [line["completion"] for line in lines] == [GOOD, NASTY]
    assert lines[0]["total"] == pytest.approx(1.0 + 2.0 + 1.9)
    assert lines[0]["above_group"] == pytest.approx(4.9 / 2)
    assert "HIoU 1.000" in " ".join(lines[0]["why"]["grounding"])
    assert lines[1]["rewards"]["answer"] is None
    page = (tmp_path / "rollouts/step-000002.html").read_text(encoding="utf-8")
    assert "HIoU 1.000" in page
    assert "failed" in page
    assert page.count("<rect") == 5, "two strokes for the true box in each picture, and the box that was named"


def test_a_free_answer_is_told_as_the_judge_s_where_there_is_one(tmp_path: Path) -> None:
    rollouts = _rollouts()
    free = {**rollouts.rows[0], "options": None, "answer": "a warm colour"}
    said = Rollouts(2, [free], [GOOD], [[1]], {"answer_reward": [0.5]})
    for judged in (False, True):
        _tables(tmp_path, judged=judged)(said)
        _tables(tmp_path, judged=judged)(rollouts)
    lines = [json.loads(line) for line in (tmp_path / "rollouts/rollouts.jsonl").read_text().splitlines()]
    free_row, exact, _, judged_row, exact_again, _ = (" ".join(line["why"]["answer"]) for line in lines)
    assert "ANLS" in free_row
    assert "judge" in judged_row
    assert exact == exact_again
    assert exact.startswith("choice: option")


def test_the_published_form_s_judge_scores_every_answer(tmp_path: Path) -> None:
    _tables(tmp_path, form="published", judged=True)(_rollouts())
    lines = [json.loads(line) for line in (tmp_path / "rollouts/rollouts.jsonl").read_text().splitlines()]
    assert [line["why"]["answer"] for line in lines] == [["the judge's score, 0 where the judge failed"]] * 2


def test_nothing_that_a_policy_or_a_data_set_says_becomes_markup(tmp_path: Path) -> None:
    _tables(tmp_path)(_rollouts())
    page = (tmp_path / "rollouts/step-000002.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "onerror=alert" not in re.sub(r"&lt;img src=x onerror=alert\(2\)&gt;", "", page)
    assert "<b>one" not in page
    assert "<i>blue" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:image/)""", page)


def test_tables_come_every_so_many_steps_and_the_trajectory_always(tmp_path: Path) -> None:
    tables = _tables(tmp_path, every=2)
    for step in range(1, 5):
        tables(_rollouts(step))
    assert sorted(path.name for path in (tmp_path / "rollouts").glob("*.html")) == [
        "step-000002.html",
        "step-000004.html",
    ]
    lines = [json.loads(line) for line in (tmp_path / "trajectory.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["ids"] == ["q<1>", "q<1>"]
    assert len({line["said"][0] for line in lines}) == 1


def test_a_round_that_several_steps_learn_from_has_its_table_too(tmp_path: Path) -> None:
    tables = _tables(tmp_path, every=4)
    for step in (1, 3, 3, 5, 5, 7, 9):
        tables(_rollouts(step))
    assert sorted(path.name for path in (tmp_path / "rollouts").glob("*.html")) == [
        "step-000005.html",
        "step-000009.html",
    ]
    lines = [json.loads(line) for line in (tmp_path / "rollouts/rollouts.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 5, 9, 9], "and one table a step"


def test_a_group_that_is_spread_over_processes_is_whole_in_the_table(tmp_path: Path) -> None:
    mine, other = _rollouts(), _rollouts()
    other.rewards = {name: [0.0, 0.0] for name in other.rewards}
    there: list[list[object]] = []
    RolloutTables(
        tmp_path / "there", every=2, most=8, form="robust", weights={}, writes=False,
        gather=lambda rows: there.append(rows) or rows,
    )(other)  # fmt: skip
    gathered = iter(there)
    _tables(tmp_path, gather=lambda rows: [*rows, *next(gathered)])(mine)
    lines = [json.loads(line) for line in (tmp_path / "rollouts/rollouts.jsonl").read_text().splitlines()]
    assert [line["total"] for line in lines] == pytest.approx([4.9, 0.0, 0.0, 0.0])
    assert lines[0]["above_group"] == pytest.approx(4.9 * 3 / 4)


def test_what_a_table_says_can_be_explained_offline(tmp_path: Path) -> None:
    rollouts = _rollouts()
    rollouts.previous = [0.25, 0.25]
    _tables(tmp_path)(rollouts)
    folder = tmp_path / "rollouts"
    first, second = (explain(one, folder) for one in read_records(folder / "rollouts.jsonl"))
    assert first.rewards["depth"].robust == 1.0, "the depth lies beside it"
    assert first.rewards["answer"].robust == 1.75, "with the bonus over the last visit"
    assert second.rewards["format"].robust == 0.0


def test_only_one_process_writes(tmp_path: Path) -> None:
    _tables(tmp_path, writes=False)(_rollouts())
    assert not list(tmp_path.iterdir())


def test_a_table_is_cut_between_groups(tmp_path: Path) -> None:
    rollouts = _rollouts()
    rows = [{**rollouts.rows[0], "id": name} for name in ("a", "a", "b", "b", "c", "c")]
    rewards = {"format_reward": [1.0] * 6}
    _tables(tmp_path, most=3)(Rollouts(2, rows, [GOOD] * 6, [[1]] * 6, rewards))
    lines = [json.loads(line) for line in (tmp_path / "rollouts/rollouts.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "a", "b", "b"]
