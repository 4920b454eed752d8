"""A remote policy retries what is worth it, gives up in time, and tells refusals in a sentence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import httpx
import pytest

from sifthinker.policy.errors import PolicyError, PolicyTimeout, PolicyUnavailable
from sifthinker.policy.messages import message
from sifthinker.policy.remote import RemotePolicy

Serve = Callable[..., Any]


@pytest.mark.parametrize("code", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again(code: int, serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(code), stub.status(code), stub.stream("At last."))
    assert stub.policy(server).generate(stub.HELLO).text == "At last."
    assert len(server.requests) == 3


def test_after_all_attempts_it_is_unavailable(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(500))
    with pytest.raises(PolicyUnavailable, match="status 500 3 times"):
        stub.policy(server).generate(stub.HELLO)
    assert len(server.requests) == 3


def test_what_a_failing_server_says_is_told_with_the_number_of_attempts(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(500, "CUDA out of memory\x1b[2J, secret-key" + "!" * 5000))
    with pytest.raises(PolicyUnavailable, match=r"status 500 3 times: CUDA out of memory \[2J, …!") as caught:
        stub.policy(server).generate(stub.HELLO)
    assert len(str(caught.value)) < 500
    server = serve(stub.status(503, "starting", retry_after="60"))
    with pytest.raises(PolicyUnavailable, match="answered status 503: starting"):
        stub.policy(server).generate(stub.HELLO, timeout=5)
    assert len(server.requests) == 1


def test_a_call_may_be_given_all_the_time_there_is(serve: Serve, stub: ModuleType) -> None:
    assert stub.policy(serve(stub.stream("At last."))).generate(stub.HELLO, timeout=float("inf")).text == "At last."


def test_retry_after_is_honoured(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(429, retry_after="0.6"), stub.stream("ok"))
    started = time.monotonic()
    assert stub.policy(server).generate(stub.HELLO).text == "ok"
    assert time.monotonic() - started >= 0.6


def test_a_retry_after_beyond_the_time_given_is_not_waited_for(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(429, retry_after="3600"))
    started = time.monotonic()
    with pytest.raises(PolicyTimeout, match="rate limit"):
        stub.policy(server).generate(stub.HELLO, timeout=5)
    assert time.monotonic() - started < 4
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [(400, "refused the request"), (401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "is not there"),
     (413, "refused the request"), (302, "redirects")],
)  # fmt: skip
def test_a_refusal_is_told_at_once(code: int, said: str, serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(code, "the image is too large, secret-key", location="http://127.0.0.1:9/"))
    with pytest.raises(PolicyError, match=said) as caught:
        stub.policy(server).generate(stub.HELLO)
    assert len(server.requests) == 1
    assert not isinstance(caught.value, PolicyUnavailable | PolicyTimeout)
    assert "secret-key" not in str(caught.value)


def test_what_a_server_says_of_its_refusal_steers_no_terminal(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.status(400, "no \x1b]0;title\x07 \x9b31m\x7f\r\nmore"))
    with pytest.raises(PolicyError, match=r"refused the request.*no \]0;title 31m more") as caught:
        stub.policy(server).generate(stub.HELLO)
    assert str(caught.value).isprintable()


def test_a_server_that_hangs_is_given_up_in_time(serve: Serve, stub: ModuleType) -> None:
    started = time.monotonic()
    with pytest.raises(PolicyTimeout, match=r"within 0\.5 s"):
        stub.policy(serve(stub.hang(5))).generate(stub.HELLO, timeout=0.5)
    assert time.monotonic() - started < 3


def test_a_server_that_hangs_once_is_asked_again(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.hang(3), stub.stream("Awake."))
    assert stub.policy(server, read_timeout=0.5).generate(stub.HELLO).text == "Awake."


def test_a_server_that_stays_silent_is_told_as_that_and_not_as_out_of_time(serve: Serve, stub: ModuleType) -> None:
    server = serve(*[stub.hang(2)] * 2)
    with pytest.raises(PolicyTimeout, match=r"sent nothing for 0\.2 s, 2 times"):
        stub.policy(server, read_timeout=0.2, attempts=2).generate(stub.HELLO, timeout=20)


@pytest.mark.parametrize(("allowed", "silence"), [(1.0, 1.0), (50.0, 30.0), (300.0, 150.0)])
def test_a_call_with_more_time_waits_longer_for_a_silent_server(
    allowed: float, silence: float, stub: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = RemotePolicy("m", "http://127.0.0.1:9/v1", attempts=1)
    waited: list[float] = []

    def stream(*given: object, timeout: httpx.Timeout, **more: object) -> None:
        waited.append(timeout.read or 0.0)
        raise httpx.ReadTimeout("silence")

    monkeypatch.setattr(policy._client, "stream", stream)
    with pytest.raises(PolicyTimeout, match="sent nothing"):
        policy.generate(stub.HELLO, timeout=allowed)
    assert waited == [pytest.approx(silence, abs=0.1)]


def test_no_connection_is_not_told_as_silence(stub: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RemotePolicy("m", "http://127.0.0.1:9/v1", attempts=1)

    def stream(*given: object, **more: object) -> None:
        raise httpx.ConnectTimeout("no route")

    monkeypatch.setattr(policy._client, "stream", stream)
    with pytest.raises(PolicyTimeout, match="could not be connected to"):
        policy.generate(stub.HELLO)


def test_a_server_that_drips_for_ever_is_given_up_in_time(serve: Serve, stub: ModuleType) -> None:
    started = time.monotonic()
    with pytest.raises(PolicyTimeout):
        stub.policy(serve(stub.stream(*["x"] * 200, pause=0.05))).generate(stub.HELLO, timeout=0.6)
    assert time.monotonic() - started < 4


def test_a_stream_that_was_cut_is_asked_for_again(serve: Serve, stub: ModuleType) -> None:
    for broken in (stub.cut("Half an"), stub.stream("Half an", finish=None, done=False), stub.hang(0.0)):
        server = serve(broken, stub.stream("Whole."))
        assert stub.policy(server).generate(stub.HELLO).text == "Whole."


def test_a_stream_cut_after_text_was_handed_over_is_told(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.cut("Half an"), stub.stream("Whole."))
    pieces: list[str] = []
    with pytest.raises(PolicyUnavailable, match="broke off"):
        stub.policy(server).generate(stub.HELLO, on_token=pieces.append)
    assert pieces == ["Half an"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "line",
    ["data: {half", "data: [1, 2]", 'data: {"choices": 5}', 'data: {"choices": [{"delta": 7}]}',
     'data: {"error": {"message": "out of memory"}}', "data: " + "9" * 1_200_000, "data: " + "[" * 200_000,
     'data: {"choices": [{"delta": {"tool_calls": [{"index": Infinity}]}}]}',
     'data: {"choices": [{"delta": {}, "logprobs": {"content": [{"logprob": NaN}]}}]}'],
)  # fmt: skip
def test_what_is_no_completion_is_asked_for_again_then_told(line: str, serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.stream("so", lines=[line], finish=None, done=False))
    with pytest.raises(PolicyUnavailable, match="broke off"):
        stub.policy(server).generate(stub.HELLO)
    assert len(server.requests) == 3


def test_no_server_at_all_is_told(serve: Serve, stub: ModuleType) -> None:
    with pytest.raises(PolicyUnavailable, match="is the server running"):
        RemotePolicy("m", "http://127.0.0.1:9", box_space="unit").generate(stub.HELLO)


def test_what_a_callback_raises_comes_through(serve: Serve, stub: ModuleType) -> None:
    def on_token(piece: str) -> None:
        raise ValueError("the listener is gone")

    server = serve(stub.stream("One", "two"))
    with pytest.raises(ValueError, match="the listener is gone"):
        stub.policy(server).generate(stub.HELLO, on_token=on_token)
    assert len(server.requests) == 1


def test_logs_hold_no_key_and_no_content(serve: Serve, stub: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(stub.status(500, "echo: my private question"), stub.stream("a private answer"))
    stub.policy(server).generate([message("user", "my private question")])
    assert "attempt 1 of 3" in caplog.text
    assert "secret-key" not in caplog.text
    assert "private" not in caplog.text
