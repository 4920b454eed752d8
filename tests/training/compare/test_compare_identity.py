"""What the answers of a folder depend on: another adapter, dtype or rule is noticed; a new calibration does no harm."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from comparing import BOX, compared, looking, patches
from scripted import ScriptedPolicy, area

from sifthinker.policy.base import Completion
from sifthinker.policy.calibration import Calibration, PartScores
from sifthinker.policy.calibration_store import identity_of, keep_calibration
from sifthinker.policy.errors import UsageError
from sifthinker.training.calibrate.asked import data_digest
from sifthinker.training.compare import run as run_module
from sifthinker.training.compare.data import open_data
from sifthinker.training.compare.identity import identity
from sifthinker.training.compare.journal import RUN
from sifthinker.training.compare.plan import Plan
from sifthinker.training.compare.records import Answered, Asking
from sifthinker.training.compare.run import Comparison, Finished, compare

SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIFTHINKER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> ScriptedPolicy:
    """What every name loads, whatever the options."""
    policy = looking()
    monkeypatch.setattr(run_module, "load_policy", lambda name, **options: policy)
    return policy


def with_options(data: Path, out: Path, **options: Any) -> Finished:
    plan = Plan(policies=("some/model",), modes=("direct",))
    return compare(Comparison(str(data), out, plan, Asking(depth="none", options=options), engine="threads"))


def adapter(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def calibration(policy: ScriptedPolicy, threshold: float, data_sha256: str = "0" * 64) -> Calibration:
    scores = PartScores(accuracy=0.5, cost=1.0)
    return Calibration(
        confidence_threshold=threshold, depth_tolerance=None, identity=identity_of(policy), data="patches",
        data_sha256=data_sha256, questions=4, internal=scores, tools=scores, learnt=scores, held_out=None, went_on=0.5,
    )  # fmt: skip


def test_another_adapter_under_the_same_name_is_refused(tmp_path: Path, loaded: ScriptedPolicy) -> None:
    data = patches(tmp_path / "d", 1)
    first, second = (adapter(tmp_path / name, name.encode()) for name in ("a", "b"))
    with_options(data, tmp_path / "o", adapter=str(first))
    with pytest.raises(UsageError, match="options adapter was sha256"):
        with_options(data, tmp_path / "o", adapter=str(second))
    with pytest.raises(UsageError, match="options adapter was sha256"):
        with_options(data, tmp_path / "o")
    assert with_options(data, tmp_path / "o", adapter=first).new == 0
    (first / "adapter_model.safetensors").write_bytes(b"trained further")
    with pytest.raises(UsageError, match="another comparison"):
        with_options(data, tmp_path / "o", adapter=str(first))


@pytest.mark.parametrize("option", ["dtype", "quantization", "revision", "extra_body"])
def test_another_option_that_answers_depend_on_is_refused(option: str, tmp_path: Path, loaded: ScriptedPolicy) -> None:
    data = patches(tmp_path / "d", 1)
    with_options(data, tmp_path / "o", **{option: "one"})
    with pytest.raises(UsageError, match=f"options {option} was"):
        with_options(data, tmp_path / "o", **{option: "another"})


def test_what_answers_do_not_depend_on_may_change_and_no_secret_is_written_down(
    tmp_path: Path, loaded: ScriptedPolicy
) -> None:
    data = patches(tmp_path / "d", 1)
    body = {"token": SECRET}
    with_options(data, tmp_path / "o", api_key=SECRET, extra_body=body, max_batch=4, device="cpu")
    again = with_options(data, tmp_path / "o", api_key="another", extra_body=body, max_concurrent=2, cache_bytes=0)
    assert again.new == 0
    assert not [path for path in (tmp_path / "o").iterdir() if SECRET.encode() in path.read_bytes()]


def test_a_policy_that_was_handed_over_is_known_by_its_own_identity(tmp_path: Path) -> None:
    data, policy = patches(tmp_path / "d", 1), looking()
    policy.identity = "weights:one"  # type: ignore[attr-defined]
    compared(data, tmp_path / "o", policy, modes=("direct",))
    policy.identity = "weights:two"  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="identity was weights:one, now it is weights:two"):
        compared(data, tmp_path / "o", policy, modes=("direct",))


def test_a_folder_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    data, policy = patches(tmp_path / "d", 2), looking()
    compared(data, tmp_path / "o", policy, modes=("direct", "adaptive"), limit=1, timed=0)
    path = tmp_path / "o" / RUN
    told = json.loads(path.read_text())
    for later in ("identity", "options", "adaptive"):
        del told["policies"]["scripted"][later]
    told["policies"]["scripted"]["profile"]["calibration"] = None
    told["decoding"] |= {"confidence_threshold": None, "depth_tolerance": None}
    path.write_text(json.dumps(told))
    assert compared(data, tmp_path / "o", policy, modes=("direct", "adaptive"), timed=0).new == 2
    assert json.loads(path.read_text())["policies"]["scripted"]["adaptive"]


def test_a_calibration_is_no_part_of_a_folder_s_weights(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "policy", b"weights")
    (folder / "sifthinker.json").write_text('{"name":"x","box_space":"unit"}')  # as a person may write it
    policy = looking()
    before = identity(str(folder), policy)
    keep_calibration(policy, calibration(policy, 0.6), folder=folder)
    assert "calibration" in (folder / "sifthinker.json").read_text()
    calibrated = looking(calibration=calibration(policy, 0.6))
    assert identity(str(folder), calibrated) == before
    (folder / "sifthinker.json").write_text('{"name":"x","box_space":"permille"}')
    assert identity(str(folder), policy)["weights"] != before["weights"]


def test_two_rules_are_not_mixed_and_other_modes_do_not_mind(tmp_path: Path) -> None:
    data, policy = patches(tmp_path / "d", 2), looking()
    keep_calibration(policy, calibration(policy, 0.6))
    finished = compared(data, tmp_path / "o", policy, modes=("direct", "adaptive"), limit=1, timed=0)
    rule = finished.results.about.adaptive["scripted"]
    assert (rule.confidence_threshold, rule.depth_tolerance, rule.source, rule.data) == (0.6, None, "learnt", "patches")
    assert json.loads((tmp_path / "o" / RUN).read_text())["policies"]["scripted"]["adaptive"] == rule.bounds
    keep_calibration(policy, calibration(policy, 0.7))
    assert compared(data, tmp_path / "o", policy, modes=("direct",), timed=0).new == 1
    with pytest.raises(UsageError, match=r"adaptive confidence_threshold was 0.6, now it is 0.7"):
        compared(data, tmp_path / "o", policy, modes=("direct", "adaptive"), timed=0)
    keep_calibration(policy, calibration(policy, 0.6))
    assert compared(data, tmp_path / "o", policy, modes=("adaptive",), timed=0).new == 1


def half_sure() -> ScriptedPolicy:
    """It answers with a confidence of one half."""
    text = f"<think>{area(BOX)}<text>There.</text></think><answer>red</answer>"
    pieces = re.findall(r"[^<>]+|[<>]", text)
    logprobs = [math.log(0.5) if piece == "red" else 0.0 for piece in pieces]
    return ScriptedPolicy(lambda messages: Completion(text, token_logprobs=logprobs, token_texts=pieces))


def test_the_rule_is_that_of_the_beginning_for_every_question(tmp_path: Path) -> None:
    data, policy = patches(tmp_path / "d", 8), half_sure()
    keep_calibration(policy, calibration(policy, 0.2))

    def calibrated_meanwhile(row: Answered) -> None:
        keep_calibration(policy, calibration(policy, 0.9))

    finished = compared(
        data, tmp_path / "o", policy, modes=("adaptive",), concurrency=1, on_answer=calibrated_meanwhile, timed=0
    )
    assert [(row.confidence, row.went_on) for row in finished.rows] == [(pytest.approx(0.5), False)] * 8


def test_a_rule_learnt_on_the_very_questions_is_told(tmp_path: Path) -> None:
    path, policy = patches(tmp_path / "d", 2), looking()
    data = open_data(str(path))
    keep_calibration(policy, calibration(policy, 0.6, data_digest(data, data.questions())))
    modes = ("direct", "adaptive")
    (note,) = compared(path, tmp_path / "o", policy, modes=modes, timed=0).results.about.notes
    assert "learnt on these very questions" in note
    assert compared(path, tmp_path / "p", policy, modes=modes, timed=0, limit=1).results.about.notes == []
    (note,) = compared(path, tmp_path / "q", looking(name="other"), modes=modes, timed=0).results.about.notes
    assert "No rule of mode adaptive was learnt" in note
