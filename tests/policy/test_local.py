"""A local policy says what transformers' own `generate` says, in any family, and keeps to its stops and budgets."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sifthinker.policy.base import Policy
from sifthinker.policy.errors import PolicyError, UsageError
from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import ImagePart, Message, message

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "idefics3")
Tiny = Callable[..., LocalPolicy]
Asked = Callable[..., list[Message]]


@pytest.fixture(params=FAMILIES)
def policy(request: pytest.FixtureRequest, shared_policy: Tiny) -> LocalPolicy:
    return shared_policy(request.param)


@pytest.fixture
def qwen(shared_policy: Tiny) -> LocalPolicy:
    return shared_policy("qwen3_vl")


def test_it_is_a_policy(qwen: LocalPolicy) -> None:
    assert isinstance(qwen, Policy)


def test_greedy_text_is_that_of_transformers_generate(
    policy: LocalPolicy, asked: Asked, picture: Callable, greedy: Callable
) -> None:
    messages = [
        message("system", "Be brief."),
        *asked("and this: "),
        message("assistant", "A thing."),
        message("user", ImagePart(picture((50, 120), 3), "crop"), "What now?"),
    ]
    expected, inputs = greedy(policy, messages, 30)
    completion = policy.generate(messages, max_new_tokens=30)
    assert completion.token_ids == expected.tolist()
    assert completion.prompt_tokens == inputs["input_ids"].shape[1]
    assert completion.images == 2
    assert completion.completion_tokens == len(completion.token_ids)


def test_a_conversation_without_images_is_answered(policy: LocalPolicy, greedy: Callable) -> None:
    messages = [message("user", "Hello?")]
    expected, _ = greedy(policy, messages, 10)
    assert policy.generate(messages, max_new_tokens=10).token_ids == expected.tolist()


def test_log_probabilities_are_those_of_one_forward_pass(qwen: LocalPolicy, asked: Asked, greedy: Callable) -> None:
    messages = asked()
    completion = qwen.generate(messages, max_new_tokens=12)
    _, inputs = greedy(qwen, messages, 1)
    ids = torch.cat([inputs["input_ids"], torch.tensor([completion.token_ids])], 1)
    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(completion.token_ids)))
    with torch.inference_mode():
        logits = qwen.model(
            input_ids=ids,
            mm_token_type_ids=types,
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
        ).logits[0, -len(completion.token_ids) - 1 : -1]
    # The placeholders that cannot be generated take no share of the probability.
    names = [f"<|{name}|>" for name in ("vision_start", "vision_end", "image_pad", "video_pad")]
    placeholders = torch.tensor(qwen.processor.tokenizer.convert_tokens_to_ids(names))
    logits = logits.clone().index_fill(1, placeholders, -torch.inf)
    expected = logits.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    assert completion.token_logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_text_ends_exactly_with_the_stop_string(policy: LocalPolicy, asked: Asked) -> None:
    whole = policy.generate(asked(), max_new_tokens=30)
    place = len(whole.text) // 2
    stop = whole.text[place : place + 2]
    stopped = policy.generate(asked(), max_new_tokens=30, stop=["never said", stop])
    assert stopped.text == whole.text[: whole.text.index(stop) + len(stop)]
    assert stopped.stop_string == stop
    assert stopped.finish_reason == "stop"
    assert stopped.completion_tokens < whole.completion_tokens


def test_a_budget_of_tokens_ends_with_length(qwen: LocalPolicy, asked: Asked) -> None:
    completion = qwen.generate(asked(), max_new_tokens=7)
    assert (completion.finish_reason, completion.completion_tokens, completion.stop_string) == ("length", 7, None)


def test_a_time_limit_ends_with_deadline_and_what_there_is(qwen: LocalPolicy, asked: Asked) -> None:
    started = time.monotonic()
    completion = qwen.generate(asked(), max_new_tokens=100_000, timeout=0.3)
    assert completion.finish_reason == "deadline"
    assert completion.text
    assert time.monotonic() - started < 3


def test_pieces_joined_are_the_text(policy: LocalPolicy, asked: Asked) -> None:
    pieces: list[str] = []
    completion = policy.generate(asked(), max_new_tokens=40, on_token=pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces) == completion.text


def test_seeded_sampling_is_repeatable(policy: LocalPolicy, asked: Asked) -> None:
    def sample(seed: int) -> str:
        return policy.generate(asked(), max_new_tokens=20, temperature=1.0, seed=seed).text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_sampling_is_repeatable_under_threads(qwen: LocalPolicy, asked: Asked) -> None:
    def sample(seed: int) -> str:
        return qwen.generate(asked(mark=seed), max_new_tokens=20, temperature=1.0, seed=seed).text

    alone = [sample(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(sample, range(12))) == alone


def test_placeholders_are_never_sampled(policy: LocalPolicy, asked: Asked) -> None:
    completions = policy.generate_batch([asked()] * 8, max_new_tokens=60, temperature=50.0, seed=0)
    said = set(itertools.chain.from_iterable(completion.token_ids for completion in completions))
    tokens = policy.processor.tokenizer.convert_ids_to_tokens(sorted(said))
    assert not [token for token in tokens if any(word in token for word in ("image", "vision", "video", "row_", "img"))]


def test_a_batch_says_what_each_says_alone(policy: LocalPolicy, asked: Asked) -> None:
    conversations = [
        asked("Short?"),
        asked("A rather longer question than the others, so that padding is needed.", size=(40, 160), mark=1),
        [message("user", "No picture at all.")],
        [*asked("Two", mark=2), message("assistant", "Yes."), *asked("Again?", mark=3)],
    ]
    alone = [policy.generate(messages, max_new_tokens=25, stop=["\x00"]).text for messages in conversations]
    policy.forget()
    assert [completion.text for completion in policy.generate_batch(conversations, max_new_tokens=25)] == alone
    assert policy.generate_batch([]) == []


def test_threads_get_each_its_own_answer(policy: LocalPolicy, asked: Asked) -> None:
    def ask(mark: int) -> tuple[str, bool]:
        pieces: list[str] = []
        completion = policy.generate(
            asked(f"Question {mark}" + "?" * mark, mark=mark), max_new_tokens=5 + 3 * mark, on_token=pieces.append
        )
        return completion.text, "".join(pieces) == completion.text

    alone = [ask(mark) for mark in range(10)]
    policy.forget()
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(ask, range(10))) == alone
    assert all(streamed for _, streamed in alone)


def test_callbacks_run_in_the_thread_that_asked(qwen: LocalPolicy, asked: Asked) -> None:
    def ask(mark: int) -> set[int]:
        threads: set[int] = set()
        qwen.generate(asked(mark=mark), max_new_tokens=15, on_token=lambda _: threads.add(threading.get_ident()))
        return threads - {threading.get_ident()}

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [set()] * 6


def test_a_callback_that_raises_ends_its_own_turn_only(qwen: LocalPolicy, asked: Asked) -> None:
    def ask(mark: int) -> str:
        def on_token(piece: str) -> None:
            if mark % 2:
                raise KeyError("the listener is gone")

        try:
            return qwen.generate(asked(mark=mark), max_new_tokens=25, on_token=on_token).text
        except KeyError:
            return "gone"

    expected = ["gone" if mark % 2 else qwen.generate(asked(mark=mark), max_new_tokens=25).text for mark in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == expected
    assert qwen.generate(asked(mark=0), max_new_tokens=25).text == expected[0]


def test_images_are_brought_to_the_sizes_of_the_profile(tiny_policy: Tiny, picture: Callable) -> None:
    qwen = tiny_policy("qwen3_vl", rgb_px=64, depth_px=32, crop_px=48)

    def tokens(size: tuple[int, int], kind: str) -> int:
        return qwen.generate([message("user", ImagePart(picture(size), kind))], max_new_tokens=1).prompt_tokens

    bare = qwen.generate([message("user", "")], max_new_tokens=1).prompt_tokens + 2  # the marks around an image
    assert tokens((640, 320), "rgb") - bare == (64 // 16) * (32 // 16)
    assert tokens((640, 640), "depth") - bare == (32 // 16) ** 2
    assert tokens((20, 20), "crop") - bare == (48 // 16) ** 2
    assert tokens((20, 20), "rgb") - bare == 1


def test_a_template_without_system_turns_gets_the_system_text_with_the_question(tiny_policy: Tiny) -> None:
    qwen = tiny_policy("qwen3_vl")
    template = qwen.processor.chat_template
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    qwen.processor.chat_template = strict + template
    told = qwen.generate([message("system", "Be brief."), message("user", "Hello?")], max_new_tokens=5)
    qwen.processor.chat_template = template
    assert told.text == qwen.generate([message("user", "Be brief.\n\nHello?")], max_new_tokens=5).text


def test_a_template_that_loses_an_image_is_told(tiny_policy: Tiny, asked: Asked) -> None:
    qwen = tiny_policy("qwen3_vl")
    qwen.processor.chat_template = "{% for m in messages %}{{ m.content[0].text }}{% endfor %}"
    with pytest.raises(PolicyError, match="place 1 images, it placed 0"):
        qwen.generate(asked(), max_new_tokens=5)


def test_wrong_use_is_told(qwen: LocalPolicy, asked: Asked) -> None:
    with pytest.raises(UsageError, match="at least one message"):
        qwen.generate([])
    with pytest.raises(UsageError, match="max_new_tokens"):
        qwen.generate(asked(), max_new_tokens=0)


def test_bfloat16_runs(tiny_policy: Tiny, asked: Asked) -> None:
    completions = tiny_policy("qwen3_vl", dtype="bfloat16").generate_batch([asked(), asked(mark=1)], max_new_tokens=5)
    assert [completion.completion_tokens for completion in completions] == [5, 5]
