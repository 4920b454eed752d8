"""What an OpenAI-compatible server sends back: a stream of events, read piece by piece, or one JSON object; and what it
says about a failure."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from sifthinker.policy.base import Completion, FinishReason, TokenCallback
from sifthinker.policy.errors import PolicyError
from sifthinker.policy.stops import StopFinder

MAX_TEXT = 32_768
"""Characters of an answer; a server that floods is cut off there."""
MAX_LINE = 1_000_000
MAX_REPLY = 32_000_000
"""Bytes of a whole reply, with all that stands around the text."""
MAX_WORDS = 2000
"""Bytes of what a server says about a failure."""
_END: dict[str, Any] = {}


class BrokenStream(Exception):
    """The reply ended too early or is no reply. The message says how, without its content."""


class ReportedError(BrokenStream):
    """The server began to answer and then reported an error of its own."""


@dataclass
class _Reply:
    """A reply while it comes in."""

    stops: StopFinder
    pieces: list[str] = field(default_factory=list)
    length: int = 0
    thinking: bool = False
    finish_reason: str | None = None
    stop_reason: str | None = None
    logprobs: list[float] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)
    deltas: int = 0
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        return self.stops.hit is not None or self.length >= MAX_TEXT

    def add(self, text: str) -> None:
        piece = self.stops.feed(text[: MAX_TEXT - self.length])
        if piece:
            self.pieces.append(piece)
            self.length += len(piece)

    def take(self, event: dict[str, Any]) -> None:
        """Take what one event (or the whole reply) says."""
        if "error" in event:
            raise ReportedError("it reported an error")
        if isinstance(event.get("usage"), dict):
            self.usage = event["usage"]
        for choice in (event.get("choices") or [])[:1]:
            self._take(choice, choice.get("delta") or choice.get("message") or {})

    def _take(self, choice: dict[str, Any], content: dict[str, Any]) -> None:
        reasoning = content.get("reasoning_content") or content.get("reasoning")
        self.deltas += bool(reasoning or content.get("content"))
        if isinstance(reasoning, str) and reasoning:
            # A server may tell the thinking apart; in the grammar it is part of the text.
            self.add(reasoning if self.thinking or reasoning.lstrip().startswith("<think>") else "<think>" + reasoning)
            self.thinking = True
        text = content.get("content")
        if isinstance(text, str) and text:
            if self.thinking and "</think>" not in "".join(self.pieces):
                self.add("</think>")
            self.thinking = False
            self.add(text)
        for call in content.get("tool_calls") or []:
            function = call.get("function") or {}
            parts = self.calls.setdefault(int(call.get("index") or 0), ["", ""])
            parts[0] += function.get("name") or ""
            parts[1] += function.get("arguments") or ""
        for token in ((choice.get("logprobs") or {}).get("content")) or []:
            self.logprobs.append(_logprob(token["logprob"]))
            self.tokens.append(str(token.get("token") or ""))
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        reason = choice.get("stop_reason")
        self.stop_reason = reason if isinstance(reason, str) else self.stop_reason


def read_reply(response: httpx.Response, stop: Sequence[str], deadline: float, on_text: TokenCallback) -> Completion:
    """The completion that a response holds. `deadline` is in `time.monotonic()` seconds.

    Raises:
        BrokenStream: it ended before the answer did, or is not what such a server sends.
        httpx.ReadTimeout: the deadline passed.
        PolicyError: the server's filter withheld the answer.
    """
    reply = _Reply(StopFinder(stop))
    events = _events(response, deadline)
    done, told = False, 0
    while not done and not reply.full:  # full: the server did not heed the stop string or the budget
        try:
            event = next(events, _END)
            if event is _END:
                break
            done = event is None
            reply.take(event or {})
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
            raise BrokenStream(f"it sent something that is no completion ({type(error).__name__})") from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.DecodingError) as error:
            raise BrokenStream("the connection was closed") from error
        for piece in reply.pieces[told:]:
            on_text(piece)
        told = len(reply.pieces)
    if not (done or reply.finish_reason or reply.full):
        raise BrokenStream("the stream ended without its end mark")
    if reply.finish_reason == "content_filter":
        raise PolicyError("The server's content filter withheld the answer.")
    for name, arguments in reply.calls.values():
        reply.add(f'<tool_call>{{"name":{json.dumps(name)},"arguments":{arguments or "{}"}}}</tool_call>')
    completion = _completion(reply, stop)
    for piece in reply.pieces[told:]:
        on_text(piece)
    return completion


def words_of(response: httpx.Response, deadline: float, *, secret: str | None) -> str:
    """The beginning of what a server says about a failure, without a secret that it repeats and control characters."""
    said = b""
    with suppress(httpx.HTTPError):  # the failure counts, said in words or not
        for chunk in response.iter_bytes():
            said += chunk
            if len(said) >= MAX_WORDS or time.monotonic() >= deadline:
                break
    words = said[:MAX_WORDS].decode("utf-8", "replace")
    if secret:
        words = words.replace(secret, "…")
    words = "".join(sign if sign.isprintable() else " " for sign in words)  # nothing in it steers a terminal
    return " ".join(words.split())


def fields_refused(said: str, sent: Set[str]) -> frozenset[str]:
    """Which of the fields sent a refusal is about: those that it names, else log-probabilities."""
    named = {name for name in sent if re.search(rf"\b{name}\b", said)}
    if "support" not in said.lower():
        named.discard("temperature")  # a value that no server takes, which whoever asked for it should know
    return frozenset(named or {"logprobs"} & sent)


def _completion(reply: _Reply, stop: Sequence[str]) -> Completion:
    reason: FinishReason = "stop"
    if reply.stops.hit is None:
        if reply.finish_reason == "length" or reply.length >= MAX_TEXT:
            reason = "length"
        else:
            _give_back_stop(reply, stop)
    return Completion(
        text="".join(reply.pieces),
        finish_reason=reason,
        stop_string=reply.stops.hit,
        token_logprobs=reply.logprobs,
        token_texts=reply.tokens,
        prompt_tokens=_count(reply.usage, "prompt_tokens"),
        # a reply that was cut here is not counted by its server: it sends about a token a piece
        completion_tokens=_count(reply.usage, "completion_tokens") or len(reply.tokens) or reply.deltas,
        cached_tokens=_count(reply.usage.get("prompt_tokens_details"), "cached_tokens"),
    )


def _logprob(said: Any) -> float:
    """A log-probability as a server tells it, which may round it above 0 or to minus infinity."""
    value = float(said)
    if math.isnan(value):
        raise ValueError("a log-probability that is no number")
    return min(max(value, -1e4), 0.0)


def _count(usage: Any, name: str) -> int:
    """A count of the server's usage report, 0 where it gives none."""
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and found >= 0 else 0


def _give_back_stop(reply: _Reply, stop: Sequence[str]) -> None:
    """Add the stop string that the server took away: the one it names, else the one that closes what stands open."""
    text = "".join(reply.pieces)
    taken = reply.stop_reason if reply.stop_reason in stop else None
    if taken is None:
        open_at = {string: text.rfind(f"<{string[2:]}") for string in stop if string.startswith("</")}
        unclosed = {string: at for string, at in open_at.items() if at >= 0 and text.find(string, at) < 0}
        taken = max(unclosed, key=lambda string: unclosed[string]) if unclosed else None
    if taken:
        reply.add(taken)


def _events(response: httpx.Response, deadline: float) -> Iterator[dict[str, Any] | None]:
    """The events of a reply as JSON objects, and None for the end mark. A reply in one piece is one event."""
    if "text/event-stream" not in response.headers.get("content-type", ""):
        body = b""
        for chunk in response.iter_bytes():
            body += chunk
            _check(deadline, len(body))
        yield _object(body)
        return
    rest, received = b"", 0
    for chunk in response.iter_bytes():
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        received += len(chunk)
        if received > MAX_REPLY:
            raise ValueError("a reply without end")
        _check(deadline, len(rest))
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                yield None if data == b"[DONE]" else _object(data)


def _object(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise TypeError("expected a JSON object")
    return found


def _check(deadline: float, length: int) -> None:
    if time.monotonic() >= deadline:
        raise httpx.ReadTimeout("the call's time is up")
    if length > MAX_LINE:
        raise ValueError("a line without end")
