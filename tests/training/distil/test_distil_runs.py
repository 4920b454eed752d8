"""Runs of the agent that are right and grounded become records for answering without tools; the rest is told why."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from building import FlatDepth, contents, questions
from scripted import ScriptedPolicy, area

from sifthinker.agent.cli import run
from sifthinker.policy.errors import PolicyUnavailable, UsageError
from sifthinker.policy.messages import Message, count_images
from sifthinker.training.data.check import check_records
from sifthinker.training.data.config import SourceConfig
from sifthinker.training.data.load import training_set
from sifthinker.training.data.tables import read_records, read_rejects
from sifthinker.training.distil.config import DistilConfig
from sifthinker.training.distil.run import distil
from sifthinker.training.rewards import answer_reward, depth_reward, format_reward

BOXES = ([0.1, 0.2, 0.4, 0.5], [0.6, 0.5, 0.9, 0.9])
WHOLE = (0.0, 0.0, 1.0, 1.0)


def _number(messages: Sequence[Message]) -> int:
    """Of the question in `building.questions`: "What is at place 3?"."""
    return int(messages[0].text.partition("What is at place ")[2].partition("?")[0])


def _turn(messages: Sequence[Message]) -> int:
    return sum(message.role == "assistant" for message in messages)


def _knows(messages: Sequence[Message]) -> str:
    """Looks at the whole, then at the right boxes, and answers right; says wrong depths on purpose."""
    number = _number(messages)
    boxes = BOXES[: 1 + number % 2]
    spans = [
        f"<think>{area(WHOLE, depth=0.9)}",
        f"<text>I look for it.</text>{area(*boxes, depth=0.9)}",
        f"<text>It is there.</text></think><answer>thing {number}</answer>",
    ]
    return spans[_turn(messages)]


def _looks_elsewhere(messages: Sequence[Message]) -> str:
    spans = [
        f"<think>{area(WHOLE)}",
        f"<text>Hm.</text>{area((0.0, 0.9, 0.05, 0.99))}",
        f"<text>There.</text></think><answer>thing {_number(messages)}</answer>",
    ]
    return spans[_turn(messages)]


def _is_wrong(messages: Sequence[Message]) -> str:
    return _knows(messages).replace("<answer>thing", "<answer>no thing")


def _mumbles(messages: Sequence[Message]) -> str:
    return "Well, " + _knows(messages) if _turn(messages) == 0 else _knows(messages)


def _config(path: Path, **fields: object) -> DistilConfig:
    settings: dict[str, object] = {"sources": (SourceConfig(kind="jsonl", path=path),), "samples": 1, "shard_size": 4}
    return DistilConfig(**{**settings, **fields})  # type: ignore[arg-type]


def test_a_good_run_becomes_a_record_without_crops_and_with_measured_depths(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 6), tmp_path / "out"
    policy = ScriptedPolicy(_knows)
    found = distil(_config(path), out, policy=policy, depth=FlatDepth())
    assert (found.records, found.rejects, found.runs.runs) == (6, 0, 6)
    assert found.areas == {2: 6}
    assert max(count_images(heard) for heard in policy.heard) > 2, "the runs were shown crops"
    records = list(read_records(out))
    for number, record in enumerate(records):
        trace = record.parsed()
        assert [box.bbox_2d for box in trace.steps[-1].boxes] == [tuple(box) for box in BOXES[: 1 + number % 2]]
        assert trace.steps[0].boxes[0].depth == pytest.approx(0.5, abs=0.01)  # measured, not the 0.9 that was said
        assert trace.steps[1].boxes[0].depth == pytest.approx(0.35, abs=0.02)
        assert trace.answer == f"thing {number}"
        assert "tool_response" not in json.dumps(record.model_dump(mode="json"))
        assert len(record.images) == 2
        assert record.provenance.teacher == "scripted"
        assert "1 of 1 runs were good" in record.provenance.notes[0]
    assert not check_records(out, deep=True).wrong
    batch = training_set(out, depth=True)[:6]
    told = [record.trace for record in records]
    columns = {name: batch[name] for name in ("answer", "boxes", "depth")}
    for reward in (format_reward, answer_reward, depth_reward):
        assert reward(completions=told, **columns) == [1.0] * 6


@pytest.mark.parametrize(
    ("line", "reason", "said"),
    [
        (_is_wrong, "answer", "Expected the answer 'thing 0', got 'no thing 0'"),
        (_looks_elsewhere, "grounding", "HIoU"),
        (_mumbles, "grammar", "grammar"),
        ("<think></think>", "answer", "Expected the answer"),
    ],
)
def test_what_is_not_good_enough_is_kept_with_its_reason(line: object, reason: str, said: str, tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 2), tmp_path / "out"
    found = distil(_config(path, samples=2), out, policy=ScriptedPolicy(line), depth=FlatDepth())  # type: ignore[arg-type]
    assert (found.records, found.rejects, found.reasons) == (0, 2, {reason: 2})
    first = next(iter(read_rejects(out)))
    assert said in first.message
    assert "Of 2 runs none was kept" in first.message
    assert first.attempts == 2
    assert first.text


def test_of_several_runs_the_best_grounded_one_is_learnt_from(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 1), tmp_path / "out"
    loose = (0.1, 0.15, 0.45, 0.55)

    def spans(box: Sequence[float]) -> list[str]:
        return [
            f"<think>{area(WHOLE)}",
            f"<text>a</text>{area(box)}",
            "<text>b</text></think><answer>thing 0</answer>",
        ]

    policy = ScriptedPolicy(*spans(loose), *spans(BOXES[0]), *spans((0.7, 0.7, 0.9, 0.9)))
    found = distil(_config(path, samples=3, concurrency=1), out, policy=policy, depth=FlatDepth())
    (record,) = read_records(out)
    assert record.parsed().steps[-1].boxes[0].bbox_2d == tuple(BOXES[0])
    assert record.provenance.attempts == 3
    assert found.runs.reasons == {"good": 2, "grounding": 1}
    assert "2 of 3 runs were good" in record.provenance.notes[0]


def test_thresholds_decide_and_a_question_may_give_several_records(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 3)
    few = distil(_config(path, min_areas=3), tmp_path / "a", policy=ScriptedPolicy(_knows), depth=FlatDepth())
    assert few.reasons == {"areas": 3}
    more = distil(
        _config(path, min_hiou=0.0), tmp_path / "b", policy=ScriptedPolicy(_looks_elsewhere), depth=FlatDepth()
    )
    assert more.records == 3
    assert check_records(tmp_path / "b").wrong == {"last_area_is_elsewhere": 3}
    twice = distil(_config(path, keep=2), tmp_path / "c", policy=ScriptedPolicy(_knows), depth=FlatDepth())
    assert twice.records == 6
    assert twice.families["plain"].asked == 6
    assert len({record.id for record in read_records(tmp_path / "c")}) == 6


def test_runs_differ_by_seed_and_the_first_is_greedy(tmp_path: Path) -> None:
    seen: list[tuple[float, int | None]] = []

    class Listening(ScriptedPolicy):
        def generate(self, messages, **named):  # type: ignore[no-untyped-def]
            if _turn(messages) == 0:
                seen.append((named["temperature"], named["seed"]))
            return super().generate(messages, **named)

    config = _config(questions(tmp_path / "s", 2), samples=3, temperature=0.8, concurrency=1)
    distil(config, tmp_path / "out", policy=Listening(_knows), depth=FlatDepth())
    assert [temperature for temperature, _ in seen] == [0.0, 0.8, 0.8] * 2
    assert len({seed for _, seed in seen}) == 6


def test_a_policy_that_does_not_answer_loses_nothing_that_is_finished(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 6), tmp_path / "out"

    def breaks(messages: Sequence[Message]) -> str:
        if _number(messages) >= 3:
            raise PolicyUnavailable("The server is gone.")
        return _knows(messages)

    with pytest.raises(PolicyUnavailable, match="3 finished samples are kept"):
        distil(_config(path, concurrency=1), out, policy=ScriptedPolicy(breaks), depth=FlatDepth())
    policy = ScriptedPolicy(_knows)
    found = distil(_config(path, concurrency=1), out, policy=policy, depth=FlatDepth())
    assert (found.records, found.progress.earlier, found.runs.runs) == (6, 3, 3)
    distil(_config(path), tmp_path / "whole", policy=ScriptedPolicy(_knows), depth=FlatDepth())
    assert contents(out) == contents(tmp_path / "whole")


def test_a_folder_that_was_begun_otherwise_is_refused(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 1), tmp_path / "out"
    distil(_config(path), out, policy=ScriptedPolicy(_knows), depth=FlatDepth())
    with pytest.raises(UsageError, match="min_hiou"):
        distil(_config(path, min_hiou=0.9), out, policy=ScriptedPolicy(_knows), depth=FlatDepth())


def test_the_embedded_policy_is_distilled_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sifthinker.training.world.dataset import make_world

    list(make_world(tmp_path / "w", split="train", count=6, seed=5, size=256, workers=1))
    line = [
        "distil",
        str(tmp_path / "out"),
        "--source",
        f"world:{tmp_path / 'w'}",
        "--samples",
        "2",
        "--min-hiou",
        "0.2",
    ]
    assert run([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["records"] + told["rejects"] == 6
    assert told["runs"]["runs"] == 12
    assert sum(share["asked"] for share in told["families"].values()) == 6
    for record in read_records(tmp_path / "out"):
        assert all(box.depth is not None for step in record.parsed().steps for box in step.boxes)
        assert record.provenance.depth == "exact"
        assert '"depth":0.' in record.trace
    assert run(line) == 0
    assert "is complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--source", "nowhere:x"], "Expected a source"),
        (["--source", "jsonl:nowhere.jsonl"], "No file"),
        (["--source", "world:w", "--mode", "direct"], "--mode"),
    ],
)
def test_wrong_use_is_told_in_one_sentence(
    line: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["distil", str(tmp_path / "out"), *line]) == 2
    assert said in capsys.readouterr().err
