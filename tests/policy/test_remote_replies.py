"""What servers take out of an answer is given back: stop strings, tool calls, thinking, log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from sifthinker.policy.errors import PolicyError, PolicyUnavailable

Serve = Callable[..., Any]


def test_a_reply_without_text_and_without_end_is_cut_off(serve: Serve, stub: ModuleType) -> None:
    empty = 'data: {"choices": []' + " " * 900_000 + "}"
    server = serve(stub.stream(lines=[empty] * 40, done=False))
    with pytest.raises(PolicyUnavailable, match="broke off"):
        stub.policy(server, attempts=1).generate(stub.HELLO)


def test_a_server_that_floods_is_cut_off(serve: Serve, stub: ModuleType) -> None:
    completion = stub.policy(serve(stub.stream(*["flood " * 500] * 100))).generate(stub.HELLO)
    assert len(completion.text) == 32_768
    assert completion.finish_reason == "length"


STOPS = ("</area>", "</answer>")


@pytest.mark.parametrize(
    ("said", "text", "hit"),
    [
        ("<think><area>[1]", "<think><area>[1]</area>", "</area>"),
        ("<text>so</text></think><answer>red", "<text>so</text></think><answer>red</answer>", "</answer>"),
        ("<area>[1]</area><text>x</text><area>[2]", "<area>[1]</area>", "</area>"),
        ("It is red.", "It is red.", None),
        ("<area>[1]</area> and more", "<area>[1]</area>", "</area>"),
    ],
)
def test_a_stop_string_the_server_took_is_given_back(
    said: str, text: str, hit: str | None, serve: Serve, stub: ModuleType
) -> None:
    pieces: list[str] = []
    completion = stub.policy(serve(stub.stream(*said))).generate(stub.HELLO, stop=STOPS, on_token=pieces.append)
    assert (completion.text, completion.stop_string) == (text, hit)
    assert "".join(pieces) == text


def test_a_stop_string_that_the_server_names_is_given_back(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.stream("so far", stop_reason="END"))
    assert stub.policy(server).generate(stub.HELLO, stop=["END"]).text == "so farEND"


def test_a_server_that_fails_on_stop_strings_is_asked_without_and_cut_here(serve: Serve, stub: ModuleType) -> None:
    failed = stub.stream(lines=['data: {"error": "no stop strings here"}'], finish=None, done=False)
    server = serve(failed, stub.stream("<area>[1]</area>", " and more"), stub.stream("<area>[2]</area>", " and more"))
    remote = stub.policy(server)
    assert remote.generate(stub.HELLO, stop=STOPS).text == "<area>[1]</area>"
    assert remote.generate(stub.HELLO, stop=STOPS).text == "<area>[2]</area>"
    assert [request.get("stop") for request in server.requests] == [list(STOPS), None, None]


def test_a_cut_at_the_budget_gets_no_stop_string(serve: Serve, stub: ModuleType) -> None:
    completion = stub.policy(serve(stub.stream("<area>[1", finish="length"))).generate(stub.HELLO, stop=STOPS)
    assert (completion.text, completion.finish_reason, completion.stop_string) == ("<area>[1", "length", None)


def test_a_tool_call_becomes_text(serve: Serve, stub: ModuleType) -> None:
    call = '"tool_calls": [{"index": 0, "function": {"name": %s, "arguments": %s}}]'
    lines = [f'data: {{"choices": [{{"delta": {{{call % parts}}}}}]}}' for parts in
             [('"zoom"', '"{\\"bbox_2d\\": [1,"'), ("null", '" 2, 3, 4]}"')]]  # fmt: skip
    completion = stub.policy(serve(stub.stream("Look. ", lines=lines, finish="tool_calls"))).generate(stub.HELLO)
    assert completion.text == 'Look. <tool_call>{"name":"zoom","arguments":{"bbox_2d": [1, 2, 3, 4]}}</tool_call>'


def test_thinking_told_apart_is_put_back_into_the_text(serve: Serve, stub: ModuleType) -> None:
    lines = [f'data: {{"choices": [{{"delta": {delta}}}]}}' for delta in
             ['{"reasoning_content": "<area>[1]</area>"}', '{"reasoning_content": "<text>x</text>"}',
              '{"content": "<answer>red</answer>"}']]  # fmt: skip
    completion = stub.policy(serve(stub.stream(lines=lines))).generate(stub.HELLO)
    assert completion.text == "<think><area>[1]</area><text>x</text></think><answer>red</answer>"


def test_log_probabilities_come_where_they_are_asked_for(serve: Serve, stub: ModuleType) -> None:
    tokens = '{"content": [{"logprob": -0.5}, {"logprob": -2}]}'
    line = f'data: {{"choices": [{{"delta": {{"content": "ab"}}, "logprobs": {tokens}}}]}}'
    server = serve(stub.stream(lines=[line]))
    assert stub.policy(server, logprobs=True).generate(stub.HELLO).token_logprobs == [-0.5, -2.0]
    assert server.requests[0]["logprobs"] is True


def test_a_withheld_answer_is_told(serve: Serve, stub: ModuleType) -> None:
    with pytest.raises(PolicyError, match="content filter"):
        stub.policy(serve(stub.stream("", finish="content_filter"))).generate(stub.HELLO)


def test_log_probabilities_are_asked_for_where_they_are_wanted_and_come_with_their_tokens(
    serve: Serve, stub: ModuleType
) -> None:
    tokens = '{"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -2}]}'
    line = f'data: {{"choices": [{{"delta": {{"content": "ab"}}, "logprobs": {tokens}}}]}}'
    server = serve(stub.stream(lines=[line]))
    remote = stub.policy(server)
    completion = remote.with_logprobs.generate(stub.HELLO)
    assert (completion.token_logprobs, completion.token_texts) == ([-0.5, -2.0], ["a", "b"])
    remote.generate(stub.HELLO)
    assert [request.get("logprobs") for request in server.requests] == [True, None]


def test_a_server_that_refuses_log_probabilities_is_asked_without_from_then_on(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(422, "logprobs are not supported"), stub.stream("a"))
    remote = stub.policy(server, attempts=1).with_logprobs
    assert [remote.generate(stub.HELLO).text for _ in range(2)] == ["a", "a"]
    assert [request.get("logprobs") for request in server.requests] == [True, None, None]


def test_a_refusal_for_another_reason_is_told_all_the_same(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(400, "too many images"))
    with pytest.raises(PolicyError, match="too many images"):
        stub.policy(server).with_logprobs.generate(stub.HELLO)
    assert len(server.requests) == 2


def refusing(serve: Serve, stub: ModuleType, **refusals: str) -> Any:
    """A server that refuses a request for the first of these fields that it holds."""

    def act(handler: Any) -> None:
        said = next((said for name, said in refusals.items() if name in server.requests[-1]), None)
        (stub.stream("<area>[1]</area>", " more") if said is None else stub.status(400, said))(handler)

    server = serve(act)
    return server


def test_a_server_that_takes_neither_stop_strings_nor_a_temperature_is_asked_without_from_then_on(
    serve: Serve, stub: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    server = refusing(
        serve,
        stub,
        stop="Unsupported parameter: 'stop' is not supported with this model.",
        temperature="Unsupported value: 'temperature' does not support 0.0 with this model.",
        logprobs="not allowed",
    )
    remote = stub.policy(server, attempts=1)
    assert [remote.generate(stub.HELLO, stop=STOPS).text for _ in range(2)] == ["<area>[1]</area>"] * 2
    assert remote.with_logprobs.generate(stub.HELLO, stop=STOPS).text == "<area>[1]</area>"
    optional = [sorted({"stop", "temperature", "logprobs"} & request.keys()) for request in server.requests]
    assert optional == [["stop", "temperature"], ["temperature"], [], [], ["logprobs"], []]
    assert "does not take stop: it is asked without" in caplog.text


def test_a_temperature_that_no_server_takes_is_told(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(400, "Invalid 'temperature': expected a value <= 2."))
    with pytest.raises(PolicyError, match="a value <= 2"):
        stub.policy(server).generate(stub.HELLO, temperature=3.0)
    assert len(server.requests) == 1


def test_a_field_of_the_callers_own_is_never_left_out(serve: Serve, stub: ModuleType) -> None:
    server = refusing(serve, stub, temperature="'temperature' is not supported")
    with pytest.raises(PolicyError, match="is not supported"):
        stub.policy(server, extra_body={"temperature": 1}).generate(stub.HELLO)
    assert [request["temperature"] for request in server.requests] == [1]
