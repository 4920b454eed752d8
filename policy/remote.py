"""Remote policies: a model behind an OpenAI-compatible server (vLLM, `transformers serve`, a hosted one)."""

from __future__ import annotations

import copy
import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import tenacity

from sifthinker.policy.base import Completion, PolicyProfile, TokenCallback
from sifthinker.policy.errors import PolicyError, PolicyTimeout, PolicyUnavailable, UsageError
from sifthinker.policy.messages import Message, count_images
from sifthinker.policy.profiles import profile_of_server, with_known_resize
from sifthinker.policy.remote_stream import BrokenStream, ReportedError, fields_refused, read_reply, words_of
from sifthinker.policy.remote_wire import conversation, endpoint, retry_after, server_key, shown_url

logger = logging.getLogger(__name__)


class _Busy(Exception):
    """The server answered 429 or 5xx. Its words are no part of the message, which is logged."""

    def __init__(self, status: int, retry_after: float | None, said: str) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.retry_after = retry_after
        self.said = said


@dataclass(frozen=True)
class _Call:
    """One call with its retries.

    Attributes:
        body: of the request, without the fields that not every server takes.
        stop: strings that end the answer.
        temperature: of sampling.
        deadline: in `time.monotonic()` seconds.
        allowed: seconds, of which the deadline was made.
        silence: seconds without a byte after which an attempt is given up.
    """

    body: dict[str, Any]
    stop: Sequence[str]
    temperature: float
    deadline: float
    allowed: float
    silence: float


_SILENCE_S = 30.0
_LONGEST_S = 7 * 24 * 3600.0  # of a call: neither locks nor sockets wait without end
_MOST_TOLD = 300  # characters of what a server says about a failure
_WORTH_A_RETRY = (_Busy, BrokenStream, httpx.TransportError)


class RemotePolicy:
    """A model behind an OpenAI-compatible server. Safe to call from several threads.

    Each call is streamed, so that a server that hangs or breaks off is noticed. There is one retry layer, here: 429,
    5xx, lost connections and broken streams are tried again with growing, jittered pauses (or as `Retry-After` says),
    as long as no text has been handed to `on_token`; a refusal (400, 401, 403, 404, …) is told at once. A server that
    refuses stop strings, log-probabilities or the temperature (hosted models that reason do) is from then on asked
    without: answers are cut here, and sampled at its own temperature.

    A served Qwen2.5-VL writes boxes in pixels of the picture that its server makes of the one sent, and not every
    server makes the same: llama.cpp takes no more than 4,096 tokens. Unless `rgb_px` says otherwise, it is therefore
    sent pictures of 1,792 pixels at most, which all bring to the same size. Behind vLLM, `rgb_px=3584` is as right,
    at four times the tokens.

    Args:
        model: the server's name for the model.
        url: the server's address, with or without `/v1`.
        name: what results call the policy; by default the model's name.
        api_key: by default the environment variable OPENAI_API_KEY, if set. Never logged.
        profile: a profile, or a folder with a `sifthinker.json`, for a model that is known (a served embedded policy).
        connect_timeout: seconds to connect.
        read_timeout: seconds without a byte after which a call counts as hanging, and is tried again; by default 30, or
            half of the time that the call has where that is more.
        call_timeout: seconds for a whole call with its retries, where the caller says none.
        attempts: of one call, the first included.
        max_concurrent: calls under way at once; further ones wait their turn.
        logprobs: ask for log-probabilities with every call (not every server gives them); mode adaptive asks for them
            by itself, see `with_logprobs`.
        extra_body: further fields of every request, for what a server offers beyond the standard; they win over those
            of the same name.
        token_limit_field: the request's field for `max_new_tokens` ("max_completion_tokens" for some hosted models).
        declared: fields of `PolicyProfile` (box_space, dialect, rgb_px, …).

    Raises:
        UsageError: the address is none, an option does not exist, or `extra_body` is no mapping.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        name: str | None = None,
        api_key: str | None = None,
        profile: PolicyProfile | str | Path | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float | None = None,
        call_timeout: float = 60.0,
        attempts: int = 3,
        max_concurrent: int = 8,
        logprobs: bool = False,
        extra_body: dict[str, Any] | None = None,
        token_limit_field: str = "max_tokens",
        **declared: Any,
    ) -> None:
        if not isinstance(extra_body, Mapping | None):
            raise UsageError(
                f"Expected extra_body as a mapping of the request's further fields, got {extra_body!r}: on the command "
                "line --set extra_body='{top_k: 20}'."
            )
        self.model = model
        self.url = endpoint(url)
        self.call_timeout = call_timeout
        self.attempts = attempts
        self.max_concurrent = max_concurrent
        self.identity = f"openai:{model}@{shown_url(self.url)}"
        self._profile = with_known_resize(profile_of_server(model, name, profile, declared))
        self._logprobs = logprobs
        self._extra_body = dict(extra_body or {})
        self._token_limit_field = token_limit_field
        self._read_timeout = read_timeout
        self._refused: set[str] = set()  # fields that the server was found not to take
        self._slots = threading.BoundedSemaphore(max_concurrent)
        self._api_key = server_key(api_key)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._api_key}"} if self._api_key else {},
            timeout=httpx.Timeout(read_timeout or _SILENCE_S, connect=connect_timeout),
            limits=httpx.Limits(max_connections=max_concurrent, max_keepalive_connections=max_concurrent),
        )
        for note in self._profile.notes:
            logger.warning(note)

    @property
    def profile(self) -> PolicyProfile:
        """How to speak with this policy."""
        return self._profile

    @cached_property
    def with_logprobs(self) -> RemotePolicy:
        """This policy, asking for log-probabilities too. A server that refuses them is from then on asked without."""
        asking = copy.copy(self)  # the connections and the places among the calls under way stay shared
        asking._logprobs = True
        return asking

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def generate(
        self,
        messages: Sequence[Message],
        *,
        stop: Sequence[str] = (),
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout: float | None = None,
        on_token: TokenCallback | None = None,
    ) -> Completion:
        """Generate one assistant turn, see `Policy.generate`.

        Raises:
            PolicyTimeout: no whole answer within `timeout` (default: `call_timeout`).
            PolicyUnavailable: the server failed or broke off, after all attempts.
            PolicyError: the server refused the request.
        """
        if not messages:
            raise UsageError("Expected at least one message to generate an answer to, got none.")
        started = time.monotonic()
        allowed = min(self.call_timeout if timeout is None else timeout, _LONGEST_S)
        deadline = started + allowed
        body = {
            "model": self.model,
            "messages": conversation(messages, self._profile),
            self._token_limit_field: max_new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"seed": seed} if seed is not None else {}),
            **self._extra_body,
        }
        if not self._slots.acquire(timeout=max(allowed, 0.0)):
            raise PolicyTimeout(f"{self._who} got no free slot within {allowed:g} s ({self.max_concurrent} at once).")
        try:
            silence = min(allowed, self._read_timeout or max(_SILENCE_S, allowed / 2))
            call = _Call(body, stop, temperature, deadline, allowed, silence)
            completion = self._with_retries(call, on_token)
        finally:
            self._slots.release()
        completion.images = count_images(messages)
        completion.seconds = time.monotonic() - started
        return completion

    def generate_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        stop: Sequence[str] = (),
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> list[Completion]:
        """`generate` for several conversations, `max_concurrent` at once; number i is sampled with `seed + i`.

        Raises:
            The error of the first conversation that failed, as in `generate`.
        """

        def ask(index: int) -> Completion:
            return self.generate(
                conversations[index],
                stop=stop,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=None if seed is None else seed + index,
                timeout=timeout,
            )

        with ThreadPoolExecutor(max_workers=self.max_concurrent) as pool:
            return list(pool.map(ask, range(len(conversations))))

    @property
    def _who(self) -> str:
        return f"{self.model} at {shown_url(self.url)}"

    def _with_retries(self, call: _Call, on_token: TokenCallback | None) -> Completion:
        handed_over = attempts = 0

        def hand_over(piece: str) -> None:
            nonlocal handed_over
            handed_over += len(piece)
            if on_token:
                on_token(piece)

        def worth_it(state: tenacity.RetryCallState) -> bool:
            nonlocal attempts
            attempts = state.attempt_number
            # Text that was handed over cannot be taken back: another attempt may say something else.
            failed = state.outcome is not None and isinstance(state.outcome.exception(), _WORTH_A_RETRY)
            return failed and not (on_token and handed_over)

        retrying = tenacity.Retrying(
            retry=worth_it,
            stop=lambda state: (
                state.attempt_number >= self.attempts or time.monotonic() + state.upcoming_sleep >= call.deadline
            ),
            wait=_pause,
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            return retrying(self._attempt, call, hand_over)
        except _Busy as error:
            if time.monotonic() + (error.retry_after or 0.0) >= call.deadline and error.status == 429:
                raise PolicyTimeout(
                    f"{self._who} is at its rate limit for longer than the {call.allowed:g} s given."
                ) from error
            times = f" {attempts} times" if attempts > 1 else ""
            said = f": {error.said[:_MOST_TOLD]}" if error.said else "."
            raise PolicyUnavailable(
                f"{self._who} answered status {error.status}{times}{said}", status=error.status
            ) from error
        except BrokenStream as error:
            raise PolicyUnavailable(f"{self._who} broke off in the middle of an answer: {error}.") from error
        except httpx.TimeoutException as error:
            if isinstance(error, httpx.ConnectTimeout):
                raise PolicyTimeout(f"{self._who} could not be connected to: is the address right?") from error
            if time.monotonic() < call.deadline:
                times = f", {attempts} times" if attempts > 1 else ""
                raise PolicyTimeout(
                    f"{self._who} sent nothing for {call.silence:g} s{times}: is it still loading its model, or stuck?"
                ) from error
            raise PolicyTimeout(f"{self._who} did not answer within {call.allowed:g} s.") from error
        except httpx.TransportError as error:
            raise PolicyUnavailable(
                f"{self._who} could not be reached: is the server running and the address right? ({error})"
            ) from error

    def _attempt(self, call: _Call, on_text: TokenCallback, *, without: frozenset[str] = frozenset()) -> Completion:
        left = call.deadline - time.monotonic()
        if left <= 0:
            raise httpx.ReadTimeout("no time left")
        optional: dict[str, Any] = {"temperature": call.temperature}
        if call.stop:
            optional["stop"] = list(call.stop)
        if self._logprobs:
            optional["logprobs"] = True
        optional = {name: value for name, value in optional.items() if name not in {*without, *self._refused}}
        timeout = httpx.Timeout(min(call.silence, left), connect=min(self._client.timeout.connect or left, left))
        asked = {**optional, **call.body}
        with self._client.stream("POST", self.url, json=asked, timeout=timeout) as response:
            status = response.status_code
            if status == 200:
                try:
                    return read_reply(response, call.stop, call.deadline, on_text)
                except ReportedError:
                    # Some servers fail on stop strings for image models (`transformers serve` 5.23): the next attempt
                    # goes without, and the answer is cut here.
                    if call.stop:
                        self._refused.add("stop")
                    raise
            said = words_of(response, call.deadline, secret=self._api_key)
            if status == 429 or status >= 500:
                raise _Busy(status, retry_after(response), said)
        refused = fields_refused(said, optional.keys() - call.body.keys()) if status in (400, 422) else frozenset()
        if not refused:
            raise self._refusal(status, said)
        made = self._attempt(call, on_text, without=without | refused)
        self._refused |= refused  # it was refused for these alone
        logger.warning("%s does not take %s: it is asked without.", self._who, " and ".join(sorted(refused)))
        return made

    def _refusal(self, status: int, said: str) -> PolicyError:
        if status in (401, 403):
            why = f"refused the API key (status {status}): set OPENAI_API_KEY, or give load_policy api_key=…."
        elif status == 404:
            why = "is not there (status 404): does the server serve a model of this name?"
        elif 300 <= status < 400:
            why = f"redirects (status {status}), which is not followed: give its real address."
        else:
            why = f"refused the request (status {status}): {said[:_MOST_TOLD]}"
        return PolicyError(f"{self._who} {why}", status=status)

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        what = str(error) if isinstance(error, (_Busy, BrokenStream)) else type(error).__name__
        logger.warning(
            "%s: %s; attempt %d of %d, next in %.1f s",
            self._who, what, state.attempt_number, self.attempts, state.upcoming_sleep,
        )  # fmt: skip


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: what the server asked for, else doubling from half a second, jittered."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Busy) and error.retry_after is not None:
        return error.retry_after
    return min(0.5 * 2 ** (state.attempt_number - 1), 8.0) * random.uniform(0.5, 1.5)
