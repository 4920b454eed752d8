"""Any policy as a LangChain chat model: LangChain's own standard suites, and what they do not cover.

The standard suites need `pip install langchain-tests`; without it they are skipped.
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from PIL import Image

from sifthinker.policy.base import Completion, PolicyProfile
from sifthinker.policy.chat_messages import policy_messages
from sifthinker.policy.chat_model import FocusChatModel
from sifthinker.policy.errors import ImageError, UsageError
from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import Message, message

suites = pytest.importorskip("langchain_tests.integration_tests")
units = pytest.importorskip("langchain_tests.unit_tests")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*marked with '@pytest.mark.asyncio' but it is not an async function"),
]


class Obedient:
    """A policy on a real tiny model that also does what it is told of tools and JSON, which no tiny model can.

    What has no such instruction is answered by the model; a call and its arguments, or an object of a schema, are made
    by rule from what the system turn asks for and the user says.
    """

    def __init__(self, model: LocalPolicy) -> None:
        self.model = model
        self.heard: list[list[Message]] = []

    @property
    def profile(self) -> PolicyProfile:
        return self.model.profile

    def generate(self, messages: Sequence[Message], **options: Any) -> Completion:
        self.heard.append(list(messages))
        told = messages[0].text if messages[0].role == "system" else ""
        said = messages[-1].text
        if "<tools>" in told and "<tool_response>" not in said:
            text = f"Let me see. {self._call(told, said)}"
        elif "JSON" in told:
            text = f"```json\n{self._object(told, said)}\n```"
        else:
            return self.model.generate(messages, **{**options, "max_new_tokens": min(options["max_new_tokens"], 48)})
        if (on_token := options.get("on_token")) is not None:
            for start in range(0, len(text), 3):
                on_token(text[start : start + 3])
        return Completion(text, prompt_tokens=sum(len(turn.text) for turn in messages), completion_tokens=len(text))

    def generate_batch(self, conversations: Sequence[Sequence[Message]], **options: Any) -> list[Completion]:
        return [self.generate(messages, **options) for messages in conversations]

    @staticmethod
    def _call(told: str, said: str) -> str:
        listed = told.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
        tools = {tool["function"]["name"]: tool["function"] for tool in map(json.loads, listed)}
        must = re.search(r"a call of the tool (\w+)", told)
        tool = tools[must[1]] if must else next(iter(tools.values()))
        fields = tool["parameters"].get("properties", {})
        number = re.search(r"\d+", said)
        made = {
            name: (int(number[0]) if number else 3) if kind.get("type") == "integer" else said
            for name, kind in fields.items()
        }
        call = {"name": tool["name"], "arguments": made}
        return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"

    @staticmethod
    def _object(told: str, said: str) -> str:
        _, found, schema = told.partition("JSON schema:\n")
        names = list(json.loads(schema)["properties"]) if found else re.findall(r"'(\w+)'", said)
        return json.dumps({name: f"a {name}" for name in names})


class _OnTinyModel:
    """What both suites are told: which class, and what it can."""

    policy: Obedient
    folder: str

    @pytest.fixture(autouse=True)
    def _tiny(self, shared_policy: Callable[[str], LocalPolicy], tiny_folder: Callable[[str], Path]) -> None:
        self.policy = Obedient(shared_policy("qwen3_vl"))
        self.folder = str(tiny_folder("qwen3_vl"))

    @property
    def chat_model_class(self) -> type[FocusChatModel]:
        return FocusChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"policy": self.policy}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return self.folder


class TestStandardUnits(_OnTinyModel, units.ChatModelUnitTests):  # type: ignore[name-defined, misc]
    """LangChain's unit suite."""


@pytest.mark.asyncio
class TestStandardIntegration(_OnTinyModel, suites.ChatModelIntegrationTests):  # type: ignore[name-defined, misc]
    """LangChain's integration suite, on a real tiny model. Its picture is made here: the suite would download one."""

    @pytest.fixture(autouse=True)
    def _picture(self, monkeypatch: pytest.MonkeyPatch) -> None:
        content = base64.b64decode(png(Image.new("RGB", (64, 48), "red")))
        monkeypatch.setattr(
            "langchain_tests.integration_tests.chat_models.httpx.get", lambda *_, **__: SimpleNamespace(content=content)
        )


def test_no_test_of_the_standard_suites_is_overridden() -> None:
    for suite in (TestStandardUnits, TestStandardIntegration, _OnTinyModel):
        assert not [name for name in vars(suite) if name.startswith("test_")]


def png(image: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def test_messages_become_what_a_policy_takes() -> None:
    data = png(Image.new("RGB", (9, 7), "red"))
    system, first, mine, last = policy_messages(
        [
            SystemMessage("Be brief."),
            HumanMessage(
                [{"type": "text", "text": "What?"}, {"type": "image", "base64": data, "mime_type": "image/png"}]
            ),
            AIMessage("A thing."),
            ToolMessage("It is near.", tool_call_id="1"),
            HumanMessage([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]),
        ]
    )
    assert (system, mine) == (message("system", "Be brief."), message("assistant", "A thing."))
    assert [turn.role for turn in (first, last)] == ["user"] * 2
    assert first.text == "What?"
    assert first.images[0].size == last.images[0].size == (9, 7)
    assert last.text == "<tool_response>It is near.</tool_response>\n"


def test_what_several_tools_gave_is_one_turn_for_templates_that_alternate() -> None:
    calls = [{"name": "look", "args": {}, "id": name, "type": "tool_call"} for name in "ab"]
    given = [ToolMessage(f"From {name}.", tool_call_id=name) for name in "ab"]
    said = policy_messages([HumanMessage("What?"), AIMessage("", tool_calls=calls), *given])
    assert [turn.role for turn in said] == ["user", "assistant", "user"]
    assert said[-1].text == "<tool_response>From a.</tool_response>\n<tool_response>From b.</tool_response>"


def test_the_answer_is_the_policys(shared_policy: Callable[[str], LocalPolicy]) -> None:
    policy = shared_policy("qwen3_vl")
    model = FocusChatModel(policy=policy, max_tokens=20)
    answer = model.invoke("Hello?")
    expected = policy.generate([message("user", "Hello?")], max_new_tokens=20)
    assert answer.content == expected.text
    assert answer.usage_metadata["output_tokens"] == 20
    assert answer.response_metadata["finish_reason"] == "length"
    assert "".join(chunk.content for chunk in model.stream("Hello?")) == expected.text
    assert model.invoke("Hello?", max_tokens=5).usage_metadata["output_tokens"] == 5
    stop = expected.text[2:4]
    assert model.invoke("Hello?", stop=[stop]).content.endswith(stop)


def test_a_stream_that_is_closed_ends_the_generation(shared_policy: Callable[[str], LocalPolicy]) -> None:
    model = FocusChatModel(policy=shared_policy("qwen3_vl"), max_tokens=100_000)
    before = threading.active_count()
    started = time.monotonic()
    stream = model.stream("Hello?")
    next(stream)
    stream.close()
    assert time.monotonic() - started < 30
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image", "url": "file:///etc/passwd"},
        {"type": "image", "file_id": "abc"},
        {"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"},
    ],
)
def test_nothing_is_fetched_and_other_media_are_refused(block: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        policy_messages([HumanMessage([block])])


@pytest.mark.parametrize("data", ["AAAA", "not base64!", "R0lGODlhAQABAAAAACw=", png(Image.new("L", (9000, 1)))])
def test_what_is_no_fitting_image_is_refused(data: str) -> None:
    with pytest.raises(ImageError):
        policy_messages([HumanMessage([{"type": "image", "base64": data, "mime_type": "image/png"}])])


def test_an_image_in_a_message_is_judged_before_it_is_decoded_as_one_in_a_file_is() -> None:
    scans = base64.b64decode(png(Image.new("RGB", (8, 8)), "JPEG"))
    scan = scans[scans.index(b"\xff\xda") : -2]
    endless = base64.b64encode(scans[:-2] + scan * 300 + scans[-2:]).decode()
    with pytest.raises(ImageError, match="far too many parts"):
        policy_messages([HumanMessage([{"type": "image", "base64": endless, "mime_type": "image/jpeg"}])])
    sixteen = Image.fromarray(np.full((20, 20), 32768, dtype=np.uint16))
    block = {"type": "image", "base64": png(sixteen), "mime_type": "image/png"}
    (said,) = policy_messages([HumanMessage([block])])
    assert said.images[0].getpixel((3, 3)) == (128, 128, 128)


def test_a_name_is_loaded_when_first_needed() -> None:
    model = FocusChatModel(policy="no such policy")
    with pytest.raises(UsageError, match="Known forms"):
        model.invoke("Hello?")
