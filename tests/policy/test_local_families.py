"""Families beyond the Qwens: tiles, newline embeddings, sliding windows, templates without system turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import ImagePart, Message, message


@pytest.fixture(params=["internvl", "llava_onevision", "gemma3"], scope="module")
def policy(request: pytest.FixtureRequest, shared_policy: Callable[..., LocalPolicy]) -> LocalPolicy:
    return shared_policy(request.param)


def test_greedy_text_is_that_of_transformers_generate(
    policy: LocalPolicy, asked: Callable[..., list[Message]], picture: Callable, greedy: Callable
) -> None:
    messages = [
        *asked("and this: "),
        message("assistant", "A thing."),
        message("user", ImagePart(picture((50, 120), 3), "crop"), "What now?"),
    ]
    expected, inputs = greedy(policy, messages, 30)
    completion = policy.generate(messages, max_new_tokens=30)
    assert completion.token_ids == expected.tolist()
    assert completion.prompt_tokens == inputs["input_ids"].shape[1]


def test_a_batch_and_the_cache_change_nothing(policy: LocalPolicy, asked: Callable[..., list[Message]]) -> None:
    conversations = [
        [message("system", "Be brief."), *asked("Short?")],
        asked("A rather longer question than the others, so that padding is needed.", size=(40, 160), mark=1),
        [message("user", "No picture at all.")],
    ]
    policy.forget()
    together = [completion.text for completion in policy.generate_batch(conversations, max_new_tokens=25)]
    for messages, text in zip(conversations, together, strict=True):
        policy.forget()
        first = policy.generate(messages, max_new_tokens=25)
        again = policy.generate(messages, max_new_tokens=25)
        assert first.text == again.text == text
        assert first.cached_tokens == 0
