"""The focus agent as a model of lmms-eval: with its own classes where it is installed, and with stand-ins of them."""

from __future__ import annotations

import ast
import importlib
import json
import sys
import tomllib
import types
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.policy.errors import DataError, PolicyError, PolicyTimeout, PolicyUnavailable, UsageError
from sifthinker.training.benchmarks import lmms_eval as door
from sifthinker.training.benchmarks.lmms_asking import LmmsAsker, LmmsQuestion, read_messages

ROOT = Path(__file__).parents[3]
HOME = "sifthinker.training.benchmarks"
WORDS = ("crimson", "emerald", "azure")


# ── lmms-eval's own classes as far as a model meets them (0.7) ──


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


@dataclass
class Instance:
    request_type: str
    arguments: tuple[Any, ...]
    idx: int
    metadata: dict[str, Any] = field(default_factory=dict)
    task_name: str | None = None
    doc_id: Any = None
    repeats: Any = None

    def __post_init__(self) -> None:
        self.task_name, self.doc_id, self.repeats = (self.metadata[name] for name in ("task", "doc_id", "repeats"))

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


class Lmms(ABC):
    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}

    @abstractmethod
    def loglikelihood(self, requests): ...

    @abstractmethod
    def generate_until(self, requests): ...

    @abstractmethod
    def generate_until_multi_round(self, requests): ...


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


STAND_INS: dict[str, dict[str, Any]] = {
    "lmms_eval": {},
    "lmms_eval.api": {},
    "lmms_eval.api.instance": {
        "Instance": Instance,
        "GenerationResult": GenerationResult,
        "TokenCounts": TokenCounts,
    },
    "lmms_eval.api.model": {"lmms": Lmms},
    "lmms_eval.models": {},
    "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
}


@pytest.fixture(params=["stand-in", "installed"])
def focus_model(request, monkeypatch):
    """The class that lmms-eval makes."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if request.param == "installed":
        pytest.importorskip("lmms_eval.api.model")
    else:
        for name, attributes in STAND_INS.items():
            module = types.ModuleType(name)
            vars(module).update(attributes)
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, f"{HOME}.lmms_model", raising=False)
    module, _, name = door.manifest().chat_class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def saying(word_of=lambda text: next(word for word in WORDS if word in text), **profile) -> ScriptedPolicy:
    """A policy that answers with the colour that its question names."""
    return ScriptedPolicy(lambda messages: f"<answer>{word_of(messages[-1].text)}</answer>", **profile)


def picture(number: int = 0) -> Image.Image:
    return Image.new("RGB", (64 + number, 48), (90, 120, 30))


def to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """As lmms-eval makes messages of a task's pictures and words."""
    content = [{"type": "image", "url": one} for one in doc["pictures"]]
    return [{"role": "user", "content": [*content, {"type": "text", "text": doc["question"]}]}]


def asked(model, docs: list[dict[str, Any]], kind: str = "generate_until", **arguments: Any) -> list[Any]:
    """The requests of a task, put to a model."""
    instance = sys.modules["lmms_eval.api.instance"].Instance
    model.task_dict["colours"] = {"test": docs}
    requests = [
        instance(
            request_type=kind,
            arguments=("", to_messages, {"max_new_tokens": 16, **arguments}, number, "colours", "test"),
            idx=0,
            metadata={"task": "colours", "doc_id": number, "repeats": 1},
        )
        for number in range(len(docs))
    ]
    return getattr(model, kind)(requests)


def docs(count: int) -> list[dict[str, Any]]:
    return [
        {"question": f"Is it {WORDS[number % 3]}? ({number})", "pictures": [picture(number)]} for number in range(count)
    ]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lmms_eval_finds_the_model_by_its_entry_point():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert points["lmms_eval.models"] == {door.MODEL: f"{HOME}.lmms_eval:manifest"}


def test_lmms_eval_is_imported_by_its_model_alone():
    for path in (ROOT / "training").rglob("*.py"):
        if path.name == "lmms_model.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "lmms_eval"], path


def test_requests_are_answered_in_their_order_several_at_once(focus_model, tmp_path):
    traces = tmp_path / "out/traces.jsonl"
    model = focus_model(batch_size="3", policy=saying(), mode="direct", depth="none", traces=str(traces))
    assert model.is_simple is False
    answers = asked(model, docs(8))
    assert [one.text for one in answers] == [WORDS[number % 3] for number in range(8)]
    assert all(one.token_counts.input_tokens > 0 and one.token_counts.output_tokens > 0 for one in answers)
    kept = sorted(rows(traces), key=lambda row: row["doc_id"])
    assert [row["answer"] for row in kept] == [one.text for one in answers]
    assert kept[1]["question"] == "Is it emerald? (1)"
    assert kept[1]["trace"] == "<answer>emerald</answer>"
    assert kept[1]["result"]["mode"] == "direct"


def test_a_trace_is_as_long_as_the_agent_allows_not_as_the_task_does(focus_model, tmp_path):
    policy = ScriptedPolicy(*focus_lines((0.1, 0.1, 0.6, 0.6), (0.2, 0.2, 0.5, 0.5), answer="crimson"))
    model = focus_model(policy=policy, mode="tools", depth="none", max_new_tokens=500, traces=tmp_path / "t.jsonl")
    assert [one.text for one in asked(model, docs(1))] == ["crimson"]
    (row,) = rows(tmp_path / "t.jsonl")
    assert len(row["result"]["steps"]) == 2
    assert policy.limits[0]["max_new_tokens"] > 16


def test_a_question_that_fails_is_an_empty_answer_and_told(focus_model, tmp_path, caplog):
    def answer(text: str) -> str:
        if "emerald" in text:
            raise PolicyError("it fell over")
        if "azure" in text:
            raise PolicyTimeout("it took too long")
        return "crimson"

    model = focus_model(policy=saying(answer), mode="direct", depth="none", traces=tmp_path / "t.jsonl")
    broken = [
        {"question": "Is it crimson?", "pictures": [str(tmp_path / "none.png")]},
        {"question": "crimson?", "pictures": []},
    ]
    answers = asked(model, [*docs(3), *broken, {"question": " ", "pictures": [picture()]}])
    assert [one.text for one in answers] == ["crimson", "", "", "", "", ""]
    assert "5 of 6 questions failed" in caplog.text
    errors = [row["error"] for row in rows(tmp_path / "t.jsonl")]
    assert errors[0] == ""
    assert "fell over" in errors[1]
    assert "too long" in errors[2]
    assert "no picture" in errors[4]
    assert "no words" in errors[5]


def test_a_server_that_never_answers_is_no_score_of_zero(focus_model):
    def answer(text: str) -> str:
        raise PolicyUnavailable("nobody is there")

    model = focus_model(policy=saying(answer), mode="direct", depth="none")
    with pytest.raises(PolicyUnavailable, match="Not one of 3 questions was answered"):
        asked(model, docs(3))


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until_multi_round"])
def test_what_cannot_be_asked_is_said(focus_model, kind):
    model = focus_model(policy=saying(), mode="direct", depth="none")
    with pytest.raises(UsageError, match=f"colours asks for {kind}"):
        asked(model, docs(1), kind)


def test_wrong_use_is_said(focus_model, monkeypatch, tmp_path):
    given = {"policy": saying(), "depth": "none"}
    with pytest.raises(UsageError, match="whole number, got 'auto'"):
        focus_model(batch_size="auto", **given)
    with pytest.raises(UsageError, match="modes"):
        focus_model(mode="quick", **given)
    with pytest.raises(UsageError, match="'pretrained'"):
        focus_model(pretrained="a/b", **given)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        focus_model(traces=tmp_path / "file/traces.jsonl", **given)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="several processes"):
        focus_model(**given)


def test_an_answer_outside_its_tags_counts_only_when_asked_for():
    question = LmmsQuestion("t", "test", 0, to_messages(docs(1)[0]))
    given = {"mode": "direct", "depth": "none"}
    for lenient, counted in ((False, ""), (True, "crimson")):
        asker = LmmsAsker(policy=ScriptedPolicy("crimson"), lenient=lenient, **given)
        assert asker.answer_all([question])[0].text == counted


def test_an_answer_ends_where_the_task_says():
    asker = LmmsAsker(policy=ScriptedPolicy("<answer>crimson; or azure</answer>"), mode="direct", depth="none")
    question = LmmsQuestion("t", "test", 0, to_messages(docs(1)[0]), until=("\n\n", ";"))
    assert asker.answer_all([question])[0].text == "crimson"


def test_several_pictures_are_shown_as_one(tmp_path):
    policy = saying()
    asker = LmmsAsker(policy=policy, mode="direct", depth="none", traces=tmp_path / "t.jsonl")
    doc = {"question": "Which is crimson?", "pictures": [picture(), picture()]}
    assert asker.answer_all([LmmsQuestion("t", "test", 0, to_messages(doc))])[0].text == "crimson"
    (row,) = rows(tmp_path / "t.jsonl")
    assert row["pictures"] == 2
    assert row["question"] == "Here are 2 pictures side by side, the first on the left.\nWhich is crimson?"


def test_words_come_in_their_order():
    messages = [
        {"role": "system", "content": "Be brief."},
        *to_messages({"question": "What?", "pictures": [picture()]}),
    ]
    text, pictures = read_messages(LmmsQuestion("t", "test", 0, messages))
    assert text == "Be brief.\nWhat?"
    assert len(pictures) == 1


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "video", "url": "a.mp4"}]},
        {"role": "user", "content": [{"type": "audio", "url": "a.wav"}]},
        {"role": "user", "content": [{"type": "image", "url": {"array": []}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "crimson"}]},
    ],
)
def test_videos_sounds_and_talks_are_refused(message):
    asker = LmmsAsker(policy=saying(), mode="direct", depth="none")
    with pytest.raises(UsageError, match="the focus agent"):
        asker.answer_all([LmmsQuestion("films", "test", 0, [message])])
