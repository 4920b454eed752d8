"""The prefix cache encodes nothing twice, never changes what is said, and keeps within its bytes."""

from __future__ import annotations

import functools
import gc
import logging
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sifthinker.policy import memory
from sifthinker.policy.kv_cache import PrefixCache, cache_argument, joined
from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import ImagePart, Message, message

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "idefics3")
Tiny = Callable[..., LocalPolicy]
Asked = Callable[..., list[Message]]


def focus_run(policy: LocalPolicy, asked: Asked, picture: Callable, steps: int = 4) -> list[tuple[str, int, int]]:
    """A loop in which each turn brings a crop: (text, cached tokens, encoded images) of each turn."""
    messages = asked("Where is it?")
    turns = []
    for step in range(steps):
        completion = policy.generate(messages, max_new_tokens=12)
        turns.append((completion.text, completion.cached_tokens, completion.images))
        messages = [
            *messages,
            message("assistant", completion.text),
            message("user", "Here: ", ImagePart(picture((48, 32), 10 + step), "crop")),
        ]
    return turns


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_output_is_the_same_with_the_cache_off(
    family: str, tiny_policy: Tiny, asked: Asked, picture: Callable
) -> None:
    cached = focus_run(tiny_policy(family), asked, picture)
    plain = focus_run(tiny_policy(family, cache_bytes=0), asked, picture)
    assert [text for text, _, _ in cached] == [text for text, _, _ in plain]
    assert all(found == 0 for _, found, _ in plain)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("error:.*past_key_values.*:FutureWarning")
def test_a_model_is_given_its_cache_under_the_name_that_its_transformers_has(
    family: str, tiny_policy: Tiny, asked: Asked, picture: Callable
) -> None:
    assert focus_run(tiny_policy(family), asked, picture, steps=2)


def test_the_cache_s_name_is_the_model_s_own_also_behind_an_adapter() -> None:
    class Before:
        def forward(self, input_ids: object, past_key_values: object = None, **more: object) -> None: ...

    class Since:
        def forward(self, input_ids: object, cache: object = None, **more: object) -> None: ...

    class Adapter:
        def forward(self, *given: object, **more: object) -> None: ...

        def get_base_model(self) -> Since:
            return Since()

    names = [cache_argument(of) for of in (Before(), Since(), Adapter(), Since().forward, lambda **given: None)]
    assert names == ["past_key_values", "cache", "cache", "cache", "past_key_values"]


def test_asking_for_the_cache_s_name_keeps_no_model_alive() -> None:
    class Hooked:
        def forward(self, cache: object = None) -> None: ...

    model = Hooked()
    model.forward = functools.partial(Hooked.forward, model)  # type: ignore[method-assign]  # as accelerate's hooks do
    gone = weakref.ref(model)
    assert cache_argument(model) == "cache"
    del model
    gc.collect()
    assert gone() is None


def test_prepared_images_are_bounded_by_bytes_and_forgotten(tiny_policy: Tiny, picture: Callable) -> None:
    qwen = tiny_policy("qwen3_vl")
    talks = [[message("user", ImagePart(picture((90, 70), mark)), "What?")] for mark in range(3)]
    for talk in talks:
        qwen.encoder.encode(talk)
    one, *others = qwen.encoder._prepared.values()
    assert len(others) == 2
    qwen.encoder._kept_bytes = 2 * sum(tensor.nbytes for tensor in one.values())
    qwen.encoder.encode(talks[0])
    assert len(qwen.encoder._prepared) == 2
    qwen.encoder._kept_bytes = 1
    qwen.encoder.encode(talks[1])
    assert len(qwen.encoder._prepared) == 1, "the newest is kept whatever it takes"
    qwen.forget()
    assert not qwen.encoder._prepared


def test_the_next_turn_encodes_only_what_is_new(tiny_policy: Tiny, asked: Asked, picture: Callable) -> None:
    turns = focus_run(tiny_policy("qwen3_vl"), asked, picture)
    assert [images for _, _, images in turns] == [1, 1, 1, 1]
    found = [cached for _, cached, _ in turns]
    assert found[0] == 0
    assert found == sorted(set(found))


def test_another_question_on_the_same_images_shares_them(tiny_policy: Tiny, asked: Asked) -> None:
    qwen = tiny_policy("qwen3_vl")
    qwen.generate(asked("What colour is it?"), max_new_tokens=5)
    second = qwen.generate(asked("How many are there?"), max_new_tokens=5)
    assert second.images == 0
    assert second.cached_tokens > 24  # the tokens of the image
    assert second.text == tiny_policy("qwen3_vl").generate(asked("How many are there?"), max_new_tokens=5).text


def test_branches_of_one_conversation_share_its_beginning(tiny_policy: Tiny, asked: Asked, picture: Callable) -> None:
    qwen, fresh = tiny_policy("qwen3_vl"), tiny_policy("qwen3_vl", cache_bytes=0)
    root = [*asked(), message("assistant", "Look here.")]
    for mark in range(3):
        branch = [*root, message("user", ImagePart(picture((32, 32), mark), "crop"), "and?")]
        completion = qwen.generate(branch, max_new_tokens=8)
        assert completion.text == fresh.generate(branch, max_new_tokens=8).text
        assert completion.images == (2 if mark == 0 else 1)


def test_another_picture_of_the_same_size_is_never_taken_for_the_first(tiny_policy: Tiny, asked: Asked) -> None:
    qwen, fresh = tiny_policy("qwen3_vl"), tiny_policy("qwen3_vl", cache_bytes=0)
    texts = set()
    for mark in range(4):
        text = qwen.generate(asked(mark=mark), max_new_tokens=15).text
        assert text == fresh.generate(asked(mark=mark), max_new_tokens=15).text
        texts.add(text)
    assert len(texts) > 1


def test_asking_the_same_again_encodes_one_token(tiny_policy: Tiny, asked: Asked) -> None:
    qwen = tiny_policy("qwen2_5_vl")
    first = qwen.generate(asked(), max_new_tokens=10)
    again = qwen.generate(asked(), max_new_tokens=10)
    assert again.text == first.text
    assert again.cached_tokens == again.prompt_tokens - 1
    assert again.images == 0


def test_a_batch_fills_and_uses_the_cache(tiny_policy: Tiny, asked: Asked) -> None:
    qwen = tiny_policy("qwen3_vl")
    conversations = [asked(f"Question {mark}", mark=mark) for mark in range(4)]
    first = qwen.generate_batch(conversations, max_new_tokens=8)
    again = qwen.generate_batch(conversations, max_new_tokens=8)
    assert [completion.text for completion in again] == [completion.text for completion in first]
    assert all(completion.images == 0 for completion in again)


def layers(length: int, value: float = 0.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.full((1, 2, length, 4), value), torch.full((1, 2, length, 4), value)) for _ in range(3)]


SIZE = 2 * 3 * 2 * 4 * 4  # bytes of one place in `layers`


def test_bytes_are_bounded_and_the_longest_unused_goes_first() -> None:
    cache = PrefixCache(25 * SIZE)
    conversations = [np.array([mark] * 10) for mark in range(3)]
    cache.keep(conversations[0], layers(10))
    cache.keep(conversations[1], layers(10))
    assert cache.match(conversations[0])[0] == 10  # used: now the second is the longest unused
    cache.keep(conversations[2], layers(10))
    assert cache.bytes <= cache.max_bytes
    assert [cache.match(keys)[0] for keys in conversations] == [10, 0, 10]


def test_what_is_larger_than_the_whole_cache_is_not_kept_which_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cache = PrefixCache(5 * SIZE)
    for start in range(3):
        cache.keep(np.arange(start, start + 10), layers(10))
    assert len(cache) == 0
    assert caplog.text.count("cache_bytes") == 1


@pytest.mark.parametrize(("free", "kept", "decoded"), [(None, 10**9, None), (2 * 10**9, 10**9, 5 * 10**8),
                                                       (40 * 10**9, 10**10, 10**10)])  # fmt: skip
def test_the_cache_is_as_large_as_the_device_allows(
    free: int | None, kept: int, decoded: int | None, tiny_policy: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    qwen = tiny_policy("qwen3_vl")
    assert (qwen._cache.max_bytes, qwen._engine._running.max_bytes) == (kept, decoded)
    said = tiny_policy("qwen3_vl", cache_bytes=5, batch_bytes=7)
    assert (said._cache.max_bytes, said._engine._running.max_bytes) == (5, 7)


def test_a_longer_conversation_takes_the_place_of_its_beginning() -> None:
    cache = PrefixCache(1000 * SIZE)
    cache.keep(np.arange(10), layers(10, 1.0))
    cache.keep(np.arange(15), layers(15, 2.0))
    cache.keep(np.arange(12), layers(12, 3.0))
    assert len(cache) == 1
    length, found = cache.match(np.array([0, 1, 2, 99]))
    assert length == 3
    assert found[0][0].shape == (1, 2, 3, 4)
    assert float(found[0][0].max()) == 2.0


def test_caches_joined_end_together_and_are_what_they_were() -> None:
    parts, lengths = [layers(3, 1.0), layers(5, 2.0), layers(1, 3.0)], [3, 5, 1]
    cache, mask = joined(parts, lengths)
    assert mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]
    assert cache.layers[0].keys.shape == (3, 2, 5, 4)
    for row, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        for layer, (keys, values) in zip(cache.layers, part, strict=True):
            assert torch.equal(layer.keys[row, :, 5 - length :], keys[0])
            assert torch.equal(layer.values[row, :, 5 - length :], values[0])


def test_a_batch_grows_without_touching_what_stands_in_it() -> None:
    cache, _ = joined([layers(3, 1.0), layers(5, 2.0)], [3, 5])
    new = torch.full((2, 2, 1, 4), 7.0)
    for _ in range(200):  # beyond the room that it was given
        for index in range(3):
            keys, values = cache.update(new, new, index)
    assert keys.shape == values.shape == (2, 2, 205, 4)
    assert keys[0, 0, :, 0].tolist() == [0.0] * 2 + [1.0] * 3 + [7.0] * 200
    assert values[1, 1, :, 3].tolist() == [2.0] * 5 + [7.0] * 200
