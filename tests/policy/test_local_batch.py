"""Conversations that share forward passes: in prefill and in decoding, each says what it says alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from sifthinker.policy.batch import Batch, _RowsLayer
from sifthinker.policy.errors import PolicyError
from sifthinker.policy.job import Job
from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import ImagePart, Message, message
from sifthinker.policy.prefill import PASS_TOKENS
from sifthinker.policy.running import Running

Tiny = Callable[..., LocalPolicy]
Asked = Callable[..., list[Message]]
PATCH_FAMILIES = ("qwen3_vl", "qwen2_5_vl", "qwen2_vl")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[LocalPolicy], list[tuple[int, int]]]:
    """`passes(policy)`: a list of the forward passes from now on, as (conversations, new tokens of each)."""

    def watch(policy: LocalPolicy) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        forward = policy.model.forward

        def watched(**inputs: Any) -> Any:
            seen.append(tuple(inputs["input_ids"].shape))
            return forward(**inputs)

        monkeypatch.setattr(policy.model, "forward", watched)
        return seen

    return watch


def conversations(asked: Asked, picture: Callable, count: int = 6) -> list[list[Message]]:
    """Questions of several lengths on pictures of several sizes, one of them a second turn with a crop."""
    found = [asked("Where?" + "?" * 3 * mark, mark=mark, size=(48 + 16 * (mark % 2), 48)) for mark in range(count)]
    crop = message("user", "Here: ", ImagePart(picture((32, 32), 9), "crop"))
    found[1] = [*found[1], message("assistant", "Look."), crop]
    return found


def test_conversations_that_come_together_are_encoded_together(
    tiny_policy: Tiny, asked: Asked, passes: Callable
) -> None:
    qwen = tiny_policy("qwen3_vl")
    seen = passes(qwen)
    qwen.generate_batch([asked("Where?" + "?" * mark, mark=mark) for mark in range(6)], max_new_tokens=4)
    assert [rows for rows, _ in seen] == [6, 6, 6, 6]  # one pass of prefill, then a token each


@pytest.mark.parametrize("family", PATCH_FAMILIES)
def test_what_is_encoded_together_is_what_is_encoded_alone(
    family: str, tiny_policy: Tiny, asked: Asked, picture: Callable
) -> None:
    policy, talks = tiny_policy(family), conversations(asked, picture)
    alone = [policy.generate(talk, max_new_tokens=12) for talk in talks]
    policy.forget()
    together = policy.generate_batch(talks, max_new_tokens=12)
    assert [one.text for one in together] == [one.text for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-4)
        assert (one.images, one.cached_tokens, one.prompt_tokens) == (other.images, 0, other.prompt_tokens)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_what_is_known_of_each_may_be_of_any_length(
    attn: str, tiny_policy: Tiny, asked: Asked, picture: Callable, passes: Callable
) -> None:
    policy, talks = tiny_policy("qwen3_vl", attn=attn), conversations(asked, picture)
    longer = [
        [*talk, message("assistant", "I see."), message("user", "And now?" * (1 + n))] for n, talk in enumerate(talks)
    ]
    alone = [policy.generate(talk, max_new_tokens=10) for talk in longer]
    policy.forget()
    for talk in talks[::2]:
        policy.generate(talk, max_new_tokens=3)  # of every other conversation the beginning is known
    seen = passes(policy)
    together = policy.generate_batch(longer, max_new_tokens=10)
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.cached_tokens > 30 for one in together] == [True, False] * 3  # beyond what the template has in common
    assert max(rows for rows, width in seen if width > 1) > 1
    again = policy.generate_batch(longer, max_new_tokens=10)  # all is known, and right
    assert [one.text for one in again] == [one.text for one in alone]
    assert all(one.images == 0 for one in again)


def test_a_pass_that_fails_is_gone_through_one_by_one(
    tiny_policy: Tiny, asked: Asked, picture: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, talks = tiny_policy("qwen3_vl"), conversations(asked, picture)
    expected = [one.text for one in policy.generate_batch(talks, max_new_tokens=6)]
    policy.forget()
    forward = policy.model.forward

    def full(**inputs: Any) -> Any:
        rows, width = inputs["input_ids"].shape
        if rows > 1 and width > 1:
            raise torch.cuda.OutOfMemoryError("no memory for so many")
        return forward(**inputs)

    monkeypatch.setattr(policy.model, "forward", full)
    assert [one.text for one in policy.generate_batch(talks, max_new_tokens=6)] == expected


def test_turns_wait_where_their_caches_together_would_take_too_much(
    tiny_policy: Tiny, asked: Asked, passes: Callable
) -> None:
    talks = [asked("Where?", mark=mark) for mark in range(5)]
    free = tiny_policy("qwen3_vl")
    expected = [one.text for one in free.generate_batch(talks, max_new_tokens=4)]
    place = free._engine._running._place_bytes
    bounded = tiny_policy("qwen3_vl", batch_bytes=2 * place * (len(free.encoder.encode(talks[0]).keys) + 4))
    seen = passes(bounded)
    assert [one.text for one in bounded.generate_batch(talks, max_new_tokens=4)] == expected
    assert max(rows for rows, _ in seen) == 2
    seen.clear()
    tight = tiny_policy("qwen3_vl", batch_bytes=1)
    seen = passes(tight)
    assert [one.text for one in tight.generate_batch(talks, max_new_tokens=4)] == expected
    assert {rows for rows, _ in seen} == {1}, "one alone is always let in"


@pytest.mark.parametrize("where", ["prefill", "batch"])
def test_turns_for_which_there_is_no_memory_come_again_when_others_have_left(
    where: str, tiny_policy: Tiny, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = [asked("Where?", mark=mark) for mark in range(3)]
    policy = tiny_policy("qwen3_vl")
    expected = [one.text for one in policy.generate_batch(talks, max_new_tokens=6)]
    policy.forget()
    running, forward, reserve, failures = policy._engine._running, policy.model.forward, Batch.reserve, []

    def full(**inputs: Any) -> Any:
        if running.jobs and inputs["input_ids"].shape[1] > 1:
            failures.append(len(running.jobs))
            raise torch.OutOfMemoryError("no memory beside others")
        return forward(**inputs)

    def no_room(batch: Batch, rows: int, places: int) -> None:
        if rows > len(batch):
            failures.append(len(running.jobs))
            raise torch.OutOfMemoryError("no memory for so many")
        reserve(batch, rows, places)

    if where == "prefill":
        monkeypatch.setattr(policy.model, "forward", full)
    else:
        monkeypatch.setattr(Batch, "reserve", no_room)
    running.max_bytes = running._most_bytes = 10**9
    running._place_bytes = 0  # so that the first is let in alone
    assert [one.text for one in policy.generate_batch(talks, max_new_tokens=6)] == expected
    assert failures == [1] * (3 if where == "prefill" else 1)  # together, then each for itself; not at every step
    assert running.max_bytes == 10**9  # as before, now that they have left


@pytest.mark.parametrize("most", [1, 2])
def test_turns_join_in_parts_where_there_is_no_memory_for_all_at_once(
    most: int, tiny_policy: Tiny, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = [asked("Where?", mark=mark) for mark in range(4)]
    policy = tiny_policy("qwen3_vl")
    expected = [one.text for one in policy.generate_batch(talks, max_new_tokens=6)]
    policy.forget()
    reserve = _RowsLayer.reserve

    def little(layer: _RowsLayer, rows: int, places: int, **like: Any) -> None:
        if rows - (len(layer._buffers[0]) if layer._buffers else 0) > most:
            raise torch.OutOfMemoryError("no memory for so many")
        reserve(layer, rows, places, **like)

    monkeypatch.setattr(_RowsLayer, "reserve", little)
    assert [one.text for one in policy.generate_batch(talks, max_new_tokens=6)] == expected


def test_one_turn_for_which_there_is_no_memory_does_not_end_the_others(
    tiny_policy: Tiny, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy("qwen3_vl")
    reserve = _RowsLayer.reserve

    def full(layer: _RowsLayer, rows: int, places: int, **like: Any) -> None:
        if rows > 1:
            raise torch.OutOfMemoryError("no memory for so many")
        reserve(layer, rows, places, **like)

    monkeypatch.setattr(_RowsLayer, "reserve", full)
    jobs = [policy._job(asked("Where?", mark=mark), (), 3, 0.0, None, None, None) for mark in range(2)]
    running = policy._engine._running
    running.step(jobs)
    assert [job.error is None for job in jobs] == [True, False]
    assert len(running.jobs) == 1


def test_a_batch_that_cannot_grow_beside_the_prefix_cache_does_without_it(
    tiny_policy: Tiny, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, talk = tiny_policy("qwen3_vl"), asked("Where?", mark=1)
    expected = policy.generate(talk, max_new_tokens=80).text
    assert len(policy._cache)
    reserve = _RowsLayer.reserve

    def full(layer: _RowsLayer, rows: int, places: int, **like: Any) -> None:
        grows = layer._buffers is not None and places > layer._buffers[0].shape[2] > 0
        if grows and len(policy._cache):
            raise torch.OutOfMemoryError("no memory beside the cache")
        reserve(layer, rows, places, **like)

    monkeypatch.setattr(_RowsLayer, "reserve", full)
    assert policy.generate(talk, max_new_tokens=80).text == expected


def test_a_turn_for_which_there_is_no_memory_alone_fails(
    tiny_policy: Tiny, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy("qwen3_vl")

    def full(**inputs: Any) -> Any:
        raise torch.OutOfMemoryError("no memory at all")

    monkeypatch.setattr(policy.model, "forward", full)
    with pytest.raises(PolicyError, match="no memory at all"):
        policy.generate_batch([asked(mark=0), asked(mark=1)])


def test_a_pass_takes_no_more_tokens_than_it_should(tiny_policy: Tiny, asked: Asked, passes: Callable) -> None:
    policy = tiny_policy("qwen3_vl")
    seen = passes(policy)
    long = "?" * (PASS_TOKENS // 3)
    talks = [asked(long, mark=0), asked(long, mark=1), asked(long, mark=2), asked("Short", mark=3)]
    policy.generate_batch(talks, max_new_tokens=1)
    assert sorted(rows for rows, _ in seen) == [1, 1, 2]  # a short one is not padded to a long one either
    assert all(rows * width <= PASS_TOKENS for rows, width in seen)


def cached(length: int, value: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.full((1, 2, length, 4), value), torch.full((1, 2, length, 4), -value)) for _ in range(3)]


def said(batch: Batch, row: int) -> Sequence[float]:
    """What stands in a row, the same in every layer and head."""
    layers = batch.row(row)
    assert all(torch.equal(keys, -values) and torch.equal(keys, layers[0][0]) for keys, values in layers)
    return layers[0][0][0, 1, :, 2].tolist()


def step(batch: Batch, values: Sequence[float]) -> None:
    new = torch.tensor(values)[:, None, None, None].expand(-1, 2, 1, 4)
    batch.begin()
    for layer in range(3):
        batch.cache.update(new, -new, layer)


def test_a_call_may_be_given_all_the_time_there_is(tiny_policy: Tiny, asked: Asked) -> None:
    qwen = tiny_policy("qwen3_vl", max_batch=1)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(qwen.generate, asked(), max_new_tokens=3, timeout=float("inf")) for _ in range(3)]
        assert [one.result(timeout=60).completion_tokens for one in waiting] == [3, 3, 3]


def test_waiting_costs_nothing_while_there_is_time(tiny_policy: Tiny, asked: Asked) -> None:
    class Watched(deque[Job]):
        searched = 0

        def __contains__(self, job: object) -> bool:
            self.searched += 1
            return super().__contains__(job)

    qwen = tiny_policy("qwen3_vl", max_batch=1)
    qwen._engine._waiting = waiting = Watched()
    qwen.generate_batch([asked() for _ in range(4)], max_new_tokens=4, timeout=60)
    assert waiting.searched == 0


@pytest.mark.parametrize("callers", [1, 2])
def test_a_call_that_waits_for_a_place_ends_when_its_time_is_up(
    callers: int, tiny_policy: Tiny, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    qwen = tiny_policy("qwen3_vl")
    monkeypatch.setattr(Running, "room", property(lambda running: 0))
    started = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        waiting = [pool.submit(qwen.generate, asked("What?"), timeout=0.4) for _ in range(callers)]
        ended = [one.result(timeout=20) for one in waiting]
    assert [(one.finish_reason, one.text) for one in ended] == [("deadline", "")] * callers
    assert 0.3 < time.monotonic() - started < 10
    monkeypatch.undo()
    assert qwen.generate(asked("What?"), max_new_tokens=3).completion_tokens == 3, "the next one finds a place"


def test_turns_join_and_leave_a_batch_without_touching_the_others() -> None:
    batch = Batch(3)
    batch.join([cached(3, 1.0), cached(5, 2.0)])
    step(batch, [1.5, 2.5])
    batch.join([cached(130, 3.0)])  # beyond the room that there was
    step(batch, [1.6, 2.6, 3.6])
    assert said(batch, 0) == pytest.approx([1, 1, 1, 1.5, 1.6])
    assert said(batch, 1) == pytest.approx([2, 2, 2, 2, 2, 2.5, 2.6])
    assert said(batch, 2) == pytest.approx([3] * 130 + [3.6])
    batch.leave(0)  # the last takes its place
    assert said(batch, 0) == pytest.approx([3] * 130 + [3.6])
    batch.leave(0)
    for mark in range(200):
        step(batch, [float(mark)])
    assert said(batch, 0) == pytest.approx([2, 2, 2, 2, 2, 2.5, 2.6, *range(200)])


def test_a_batch_masks_what_does_not_stand_in_it() -> None:
    batch = Batch(3)
    batch.join([cached(1, 1.0), cached(3, 2.0)])
    mask = batch.begin()
    assert mask is not None
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    new = torch.ones(2, 2, 1, 4)
    keys, values = batch.cache.update(new, new, 0)
    assert keys.shape == values.shape == (2, 2, 4, 4)
    assert torch.isfinite(keys).all()
    batch = Batch(3)
    batch.join([cached(4, 1.0)])
    assert batch.begin() is None
