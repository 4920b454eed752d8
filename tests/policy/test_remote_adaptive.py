"""Mode adaptive with a served model: log-probabilities where the server gives them, the other signals where not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from sifthinker.agent import FocusResult, create_focus_agent
from sifthinker.agent.asking import read_settings
from sifthinker.policy.errors import PolicyError, UsageError
from sifthinker.policy.remote import RemotePolicy

Serve = Callable[..., Any]
TRACE = '<think><area>[{"bbox_2d":[0.1,0.2,0.5,0.6]}]</area><text>a thing</text></think><answer>'
REST = "<text>a thing</text></think><answer>blue</answer>"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIFTHINKER_HOME", str(tmp_path))


def told(*tokens: tuple[str, float]) -> list[str]:
    """Lines of a stream with the probability of each token."""
    return [
        "data: "
        + json.dumps(
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {"content": token},
                        "logprobs": {"content": [{"token": token, "logprob": math.log(probability)}]},
                    }
                ]
            }
        )
        for token, probability in tokens
    ]


def ask(server: Any) -> FocusResult:
    policy = RemotePolicy("some-model", server.url, api_key="k", box_space="unit", dialect="native")
    agent = create_focus_agent(policy, depth="none", mode="adaptive")
    return agent.ask("What colour?", image=Image.new("RGB", (60, 40)), options=["red", "blue"])


def test_a_server_that_tells_its_confidence_is_asked_for_it_in_the_first_part_alone(
    serve: Serve, stub: ModuleType
) -> None:
    server = serve(
        stub.stream(lines=told((TRACE, 1.0), ("red", 0.3), ("</answer>", 1.0))), stub.stream(TRACE), stub.stream(REST)
    )
    result = ask(server)
    assert result.adaptive is not None
    assert result.adaptive.confidence == pytest.approx(0.3)
    assert (result.answer, result.adaptive.went_on) == ("blue", True)
    assert server.requests[0]["logprobs"] is True
    assert all("logprobs" not in request for request in server.requests[1:])


def test_a_sure_server_is_asked_once(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.stream(lines=told((TRACE, 1.0), ("red", 0.97), ("</answer>", 1.0))))
    result = ask(server)
    assert result.adaptive is not None
    assert (result.answer, result.adaptive.went_on, len(server.requests)) == ("red", False, 1)


def test_a_server_that_refuses_log_probabilities_answers_all_the_same_and_it_is_said(
    serve: Serve, stub: ModuleType
) -> None:
    server = serve(stub.status(400, "logprobs: unknown field"), stub.stream(f"{TRACE}red</answer>"))
    result = ask(server)
    assert result.adaptive is not None
    assert (result.answer, result.adaptive.went_on, result.adaptive.confidence) == ("red", False, None)
    assert any("gives no log-probabilities" in warning for warning in result.warnings)
    assert [request.get("logprobs") for request in server.requests] == [True, None]


def test_a_refusal_for_another_reason_leaves_log_probabilities_on(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(400, "too long"), stub.status(400, "too long"), stub.stream("red"))
    policy = stub.policy(server, logprobs=True)
    with pytest.raises(PolicyError, match="too long"):
        policy.generate(stub.HELLO)
    policy.generate(stub.HELLO)
    assert [request.get("logprobs") for request in server.requests] == [True, None, True]


@pytest.mark.parametrize("key", ["secret-key\r\n", " secret-key"])
def test_what_a_file_leaves_around_a_key_is_no_part_of_it(key: str, serve: Serve, stub: ModuleType) -> None:
    assert stub.policy(serve(stub.stream("red")), api_key=key).generate(stub.HELLO).text == "red"


@pytest.mark.parametrize("key", ["secret-kéy", "secret\nkey", "“secret-key”"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_quoted(key: str, serve: Serve, stub: ModuleType) -> None:
    with pytest.raises(UsageError, match="API key holds a character") as caught:
        stub.policy(serve(), api_key=key)
    assert "secret" not in str(caught.value)


def test_a_key_stays_the_words_that_were_given() -> None:
    assert read_settings(["api_key=0012", "rgb_px=0012", "attempts=5"]) == {
        "api_key": "0012",
        "rgb_px": 10,
        "attempts": 5,
    }
