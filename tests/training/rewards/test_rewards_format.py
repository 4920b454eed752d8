"""Format: the strict parser, and a text to each area; and how completions are read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sifthinker.policy.errors import TraceError
from sifthinker.policy.trace import parse
from sifthinker.training.rewards import format_reward
from sifthinker.training.rewards.completions import text_of

Said = Callable[..., str]
BOX = (0.1, 0.1, 0.5, 0.5, 0.4)


def test_a_trace_earns_one(said: Said) -> None:
    assert format_reward(completions=[said([BOX]), said([BOX], [BOX, BOX])]) == [1.0, 1.0]


@pytest.mark.parametrize(
    "spoilt",
    [
        "",
        "red",
        "<answer>red</answer>",
        "Look: {}",
        "{} There.",
        "<think></think><answer>red</answer>",
        "<think><area>[]</area><text>t</text></think><answer>red</answer>",
        '<think><area>[{"bbox_2d":[0.5,0.1,0.1,0.5],"depth":0.4}]</area><text>t</text></think><answer>red</answer>',
        '<think><area>[{"bbox_2d":[0.1,0.1,0.5,1.5],"depth":0.4}]</area><text>t</text></think><answer>red</answer>',
        '<think><area>[{"bbox_2d":[0.1,0.1,0.5,NaN],"depth":0.4}]</area><text>t</text></think><answer>red</answer>',
        '<think><area>[{"bbox_2d":[0.1,0.1,0.5,0.5]}]</area><text>t</text></think><answer>red</answer>',
    ],
)
def test_anything_else_earns_nothing(said: Said, spoilt: str) -> None:
    text = spoilt.replace("{}", said([BOX]))
    with pytest.raises(TraceError):
        parse(text)
    assert format_reward(completions=[text]) == [0.0]


def test_small_numbers_may_be_written_with_an_exponent(said: Said) -> None:
    assert format_reward(completions=[said([(0.00001, 0.1, 0.5, 0.5, 0.4)])]) == [1.0]


def test_a_row_without_depth_is_not_asked_for_depths() -> None:
    text = '<think><area>[{"bbox_2d":[0.1,0.1,0.5,0.5]}]</area><text>t</text></think><answer>red</answer>'
    assert format_reward(completions=[text, text], depth=[None, object()]) == [1.0, 0.0]


def test_completions_come_as_texts_or_as_messages(said: Said) -> None:
    text = said([BOX])
    whole = {"role": "assistant", "content": text}
    parts = {"role": "assistant", "content": [{"type": "text", "text": text[:20]}, {"type": "text", "text": text[20:]}]}
    assert format_reward(completions=[text, [whole], [parts], whole]) == [1.0] * 4


def test_the_turns_of_the_assistant_joined_are_the_trace(said: Said) -> None:
    before, after = said([BOX]).split("</area>")
    turns = [
        {"role": "assistant", "content": before + "</area>"},
        {"role": "user", "content": "<tool_response>…</tool_response>"},
        {"role": "assistant", "content": after},
    ]
    assert text_of(turns) == said([BOX])


def test_thinking_that_a_template_took_out_is_put_back(said: Said) -> None:
    thinking, content = said([BOX]).removeprefix("<think>").split("</think>")
    assert text_of([{"role": "assistant", "reasoning_content": thinking, "content": content}]) == said([BOX])


def test_a_message_without_words_is_an_empty_completion() -> None:
    assert format_reward(completions=[[{"role": "assistant", "content": None}], []]) == [0.0, 0.0]
