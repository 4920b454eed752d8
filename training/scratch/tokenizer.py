"""A tokenizer for the block world: the grammar's pieces, the prompts and two-decimal numbers are single tokens.

Byte-level underneath, so that any text can be said; a question costs about as many tokens as it has words.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sifthinker.policy import prompts

END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL = (END, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO)

NUMBERS = tuple(f"{value / 100:.2f}" for value in range(101))
PIECES = (
    "<think>",
    "</think>",
    "<area>",
    "</area>",
    "<text>",
    "</text>",
    "<answer>",
    "</answer>",
    '[{"bbox_2d":[',
    '],"depth":',
    '},{"bbox_2d":[',
    "}]",
    "]},{",
    "]}]",
    ",",
    prompts.ORIGINAL_IMAGE,
    prompts.DEPTH_IMAGE,
    prompts.OPTIONS,
    prompts.OPTION_SEPARATOR,
    prompts.FOCUS_SUFFIX,
    prompts.DIRECT_SUFFIX,
    prompts.TOOL_OPEN,
    prompts.TOOL_CLOSE,
    prompts.ANSWER_NOW,
)

CHAT_TEMPLATE = (
    "{% for turn in messages %}"
    "{{ '<|im_start|>' + turn.role + '\n' }}"
    "{% if turn.content is string %}{{ turn.content }}"
    "{% else %}{% for part in turn.content %}"
    "{% if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer(corpus: Iterable[str], vocab_size: int = 1200) -> PreTrainedTokenizerFast:
    """Learn word tokens from a corpus of questions and texts, and add the fixed pieces as single tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}]|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    core.add_tokens([AddedToken(piece, normalized=False) for piece in (*PIECES, *NUMBERS)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=END,
        additional_special_tokens=[t for t in SPECIAL if t not in (END, TURN_END)],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    for name, token in (
        ("image_token", IMAGE),
        ("video_token", VIDEO),
        ("vision_start_token", VISION_START),
        ("vision_end_token", VISION_END),
    ):
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer
