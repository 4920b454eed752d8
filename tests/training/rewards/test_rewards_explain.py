"""`sifthinker rewards`: each reward of a completion, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from sifthinker.agent.cli import app
from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import WHOLE, Box
from sifthinker.policy.errors import DataError, SifthinkerError, UsageError
from sifthinker.training.rewards import answer_reward, depth_reward, format_reward, grounding_reward, published
from sifthinker.training.rewards.attacks import ATTACKS, honest, world_samples
from sifthinker.training.rewards.explain import RewardRecord, explain, read_records

Said = Callable[..., str]
TRUE: Box = (0.4, 0.4, 0.6, 0.6)
FAR: Box = (0.8, 0.1, 1.0, 0.3)


@pytest.fixture
def folder(tmp_path: Path, ramp: DepthMap, said: Said) -> Path:
    """`one.json`: a completion with a fault for each reward; `depth.png` beside it."""
    ramp.to_png16(tmp_path / "depth.png")
    record = {
        "id": "val-7",
        "question": "What color is it?",
        "completion": said([(*WHOLE, 0.5)], [(*TRUE, 0.9), (*FAR, 0.9)], answer="blue"),
        "answer": "red",
        "options": ["red", "blue"],
        "boxes": [TRUE],
        "depth": "depth.png",
        "rank": 3,
    }
    (tmp_path / "one.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


def run(*words: str | Path, width: int = 160) -> Result:
    return CliRunner().invoke(app, ["rewards", *map(str, words)], env={"COLUMNS": str(width), "NO_COLOR": "1"})


def flat(result: Result) -> str:
    """What was printed, in one line and without the frames of the table."""
    return " ".join("".join(" " if one in "│┃┏┓┗┛━┡┩─├┤└┘┼╇┳┴┬" else one for one in result.stdout).split())


def test_it_shows_each_reward_and_why(folder: Path) -> None:
    result = run("explain", folder / "one.json")
    assert result.exit_code == 0, result.output
    shown = flat(result)
    for words in (
        "val-7 · What color is it? “blue”, right is “red”",
        "a trace of 2 areas",
        "choice: option 'blue', right is 'red'",
        "last area: 2 boxes for 1",
        "HIoU 0.500 = ½ (unions 0.500 + pairs 1.000 / 2)",
        "bonus 0.460 over the whole image, 0.040",
        "[0.400, 0.400, 0.600, 0.600] 0.9: wrong, measured 0.500 ± 0.050",
        "[0.800, 0.100, 1.000, 0.300] 0.9: in no right place",
        "published: last area 0.750, first area 0.750",
        "published: 2 of 3 depths right, in all areas",
    ):
        assert words in shown


def test_json_is_one_object_with_the_rewards_themselves(folder: Path, ramp: DepthMap) -> None:
    result = run("explain", folder / "one.json", "--json")
    found = json.loads(result.stdout)
    rewards = found["completions"][0]["rewards"]
    text = read_records(folder / "one.json")[0].completion
    depth = DepthMap.from_png16(folder / "depth.png")
    assert rewards["grounding"]["robust"] == grounding_reward(completions=[text], boxes=[[TRUE]])[0] == 0.96
    assert rewards["depth"]["robust"] == depth_reward(completions=[text], boxes=[[TRUE]], depth=[depth])[0]
    assert rewards["depth"]["published"] == published.depth_reward(completions=[text], depth=[depth])[0]
    assert found["means"]["format"] == {"robust": 1.0, "published": 1.0}


def test_what_is_explained_is_what_is_earned(tmp_path: Path) -> None:
    """On honest traces and on all attacks."""
    for sample in world_samples(2, seed=5):
        np.save(tmp_path / "depth.npy", sample.depth.array)
        for said in (honest, *ATTACKS.values()):
            text = said(sample)
            columns: dict[str, Any] = {
                "completions": [text], "answer": [sample.answer], "options": [sample.options],
                "boxes": [sample.boxes], "depth": [sample.depth],
            }  # fmt: skip
            record = RewardRecord(
                completion=text, answer=sample.answer, options=sample.options, boxes=sample.boxes, depth="depth.npy"
            )
            found = explain(record, tmp_path).rewards
            for name, robust in (
                ("format", format_reward), ("answer", answer_reward),
                ("grounding", grounding_reward), ("depth", depth_reward),
            ):  # fmt: skip
                loose = getattr(published, f"{name}_reward")
                assert [found[name].robust, found[name].published] == [robust(**columns)[0], loose(**columns)[0]]
                assert all(found[name].why)


def test_a_file_may_hold_lines_or_a_list(folder: Path) -> None:
    one = json.loads((folder / "one.json").read_text())
    other = {**one, "completion": [{"role": "assistant", "content": "no idea"}], "id": None, "depth": None}
    (folder / "two.jsonl").write_text(f"{json.dumps(one)}\n\n{json.dumps(other)}\n")
    (folder / "two.json").write_text(json.dumps([one, other]))
    for name in ("two.jsonl", "two.json"):
        result = run("explain", folder / name)
        assert result.exit_code == 0
        assert "2 · What color is it? no answer" in flat(result)
        assert "outside: expected <think>" in flat(result)
        assert "Means of 2 completions" in flat(result)
    assert len(json.loads(run("explain", folder / "two.jsonl", "--json", "--limit", "1").stdout)["completions"]) == 1


def test_lines_end_where_json_lines_end_and_a_mark_of_the_encoding_is_no_text(folder: Path, said: Said) -> None:
    record = {"completion": said([TRUE], words="One.\u2028Two.\x85"), "answer": "red"}
    lines = "\r\n".join([json.dumps(record, ensure_ascii=False)] * 2)
    (folder / "marked.jsonl").write_bytes(f"\ufeff{lines}".encode())
    assert [one.completion for one in read_records(folder / "marked.jsonl")] == [record["completion"]] * 2


def test_a_record_whose_boxes_cannot_be_meant_is_named(folder: Path, said: Said) -> None:
    good = {"completion": said([TRUE]), "answer": "red", "boxes": [TRUE]}
    bad = {**good, "boxes": [[10, 10, 200, 90]]}
    (folder / "pixels.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(UsageError, match=r"pixels\.jsonl, line 2: .*to_unit"):
        read_records(folder / "pixels.jsonl")


def test_previous_shows_the_bonus(said: Said, tmp_path: Path) -> None:
    record = RewardRecord(completion=said([TRUE]), answer="red", previous=0.25)
    assert explain(record, tmp_path).rewards["answer"].robust == 1.75
    assert "bonus over 0.25 at the last visit" in explain(record, tmp_path).rewards["answer"].why


def test_a_grey_depth_image_names_its_polarity(said: Said, tmp_path: Path, ramp: DepthMap) -> None:
    from PIL import Image

    Image.fromarray((255 - ramp.array * 255).astype(np.uint8)).save(tmp_path / "grey.png")
    record = RewardRecord(completion=said([(*TRUE, 0.5)]), answer="red", boxes=[TRUE], depth="grey.png:near=bright")
    assert explain(record, tmp_path).rewards["depth"].robust == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"completion": "x"}', r"bad\.json, record 1 .* at answer"),
        ('{"completion": "x", "answer": "y"}\n{oops', r"bad\.json, line 2 is no JSON"),
        ("3", r"record 1 .* at the record"),
        ('[{"completion": 3, "answer": "y"}]', r"at completion"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_records(tmp_path / "bad.json")


def test_a_file_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_records(tmp_path / "none.json")


@pytest.mark.parametrize("depth", ["none.png", "none.npy", "one.json", "none.png:near=dark"])
def test_a_depth_that_cannot_be_read_is_told(folder: Path, said: Said, depth: str) -> None:
    with pytest.raises(SifthinkerError):
        explain(RewardRecord(completion=said([TRUE]), answer="red", depth=depth), folder)


@pytest.mark.parametrize("depth", ["../{}", "{parent}/{}", "link/{}"])
@pytest.mark.parametrize("name", ["depth.png", "depth.npy", "depth.png:near=dark"])
def test_a_record_names_no_depth_outside_its_folder(folder: Path, said: Said, depth: str, name: str) -> None:
    np.save(folder / "depth.npy", DepthMap.from_png16(folder / "depth.png").array)
    (inner := folder / "inner").mkdir()
    (inner / "link").symlink_to(folder)
    record = RewardRecord(completion=said([TRUE]), answer="red", depth=depth.format(name, parent=folder))
    with pytest.raises(DataError, match="folder"):
        explain(record, inner)


def test_words_of_a_policy_do_not_steer_the_terminal(folder: Path, said: Said) -> None:
    text = said([TRUE], answer="[red]x[/red] \x1b[31mhello")
    (folder / "evil.json").write_text(json.dumps({"completion": text, "answer": "[bold]y"}))
    result = run("explain", folder / "evil.json")
    assert "\x1b" not in result.stdout
    assert "[red]x[/red]" in flat(result)


def test_attacks_are_shown_beside_the_honest_trace() -> None:
    result = run("attacks", "--count", "4")
    assert result.exit_code == 0
    assert "honest" in result.stdout
    assert all(name in result.stdout for name in ATTACKS)


@pytest.mark.parametrize(
    "odd",
    [
        {"boxes": ["abcd"]},
        {"boxes": [5]},
        {"boxes": [{"x": 1}]},
        {"boxes": [[None, 0, 1, 1]]},
        {"completion": [{"role": "assistant", "content": ["a"]}]},
        {"completion": [{"role": "assistant", "content": 5}]},
    ],
)
def test_what_is_no_completion_is_told_in_a_sentence(odd: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(json.dumps({"completion": "x", "answer": "y", **odd}))
    with pytest.raises(UsageError, match="Expected"):
        explain(read_records(tmp_path / "odd.json")[0], tmp_path)


def test_a_file_of_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(UsageError, match="no completion"):
        read_records(tmp_path / "none.jsonl")


def test_a_trace_whose_texts_are_empty_is_none(said: Said, ramp: DepthMap) -> None:
    for words, earned in (("I look.", 1.0), ("", 0.0), ("  ", 0.0), (".", 0.0), ("\u200b", 0.0), ("看", 1.0)):
        text = said([(*WHOLE, 0.5)], words=words)
        assert format_reward(completions=[text], depth=[ramp]) == [earned]
