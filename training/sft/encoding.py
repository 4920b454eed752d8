"""From conversations to batches: the encoder that inference uses, and labels on the assistant's tokens only.

Each assistant turn is learnt after exactly the tokens that stand before it when the policy is asked. The end of a turn
is learnt where the policy ends it by itself; after `</area>` the agent ends it (a stop string), and in mode internal
the trace goes on there, so that end is never taught. A chat template that changes earlier turns (some drop their
thinking) has such a conversation learnt in several sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from sifthinker.policy.encoding import ChatEncoder, Encoded
from sifthinker.policy.errors import DataError
from sifthinker.policy.messages import ImagePart, Message, message

IGNORED = -100
"""The label of a token that is not learnt."""
_SENTINEL = "sifthinker"


@dataclass(frozen=True)
class TurnSequence:
    """One sequence of a batch."""

    input_ids: torch.Tensor
    """(L,) long."""
    labels: torch.Tensor
    """(L,) long, `IGNORED` where nothing is learnt."""
    vision: dict[str, torch.Tensor]
    """The pixels and what goes with them, along dimension 0."""


class TurnEncoder:
    """Encodes conversations that end in an assistant turn.

    Args:
        encoder: the policy's own (`LocalPolicy.encoder`).
    """

    def __init__(self, encoder: ChatEncoder) -> None:
        self.encoder = encoder
        self.tokenizer = encoder.tokenizer
        self._end = self._end_of_turn()

    def encode(self, messages: Sequence[Message]) -> list[TurnSequence]:
        """The sequences of a conversation: one, unless the template changes earlier turns.

        Raises:
            DataError: it does not end in an assistant turn. PolicyError: the template cannot carry it.
        """
        turns = [index for index, turn in enumerate(messages) if turn.role == "assistant"]
        if not turns or turns[-1] != len(messages) - 1 or turns[0] == 0:
            raise DataError("Expected a conversation that begins with a question and ends in an assistant turn.")
        last = self.encoder.encode(messages[: turns[-1]])
        ids = last.input_ids[0].tolist() + self._said(messages[turns[-1]])
        labels = [IGNORED] * last.input_ids.shape[1] + self._said(messages[turns[-1]])
        sequences = []
        for index in turns[:-1]:
            before = self.encoder.encode(messages[:index])
            said = self._said(messages[index])
            start = before.input_ids.shape[1]
            end = start + len(said)
            if ids[:end] == before.input_ids[0].tolist() + said:
                labels[start:end] = said
            else:
                sequences.append(self._sequence(before, said))
        return [*sequences, self._whole(last, ids, labels)]

    def _said(self, turn: Message) -> list[int]:
        """The tokens of an assistant turn that are learnt."""
        text = self.encoder.control.neutral(turn.text)
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids if text.endswith("</area>") else ids + self._end

    def _sequence(self, before: Encoded, said: list[int]) -> TurnSequence:
        places = before.input_ids.shape[1]
        return self._whole(before, before.input_ids[0].tolist() + said, [IGNORED] * places + said)

    def _whole(self, encoded: Encoded, ids: list[int], labels: list[int]) -> TurnSequence:
        vision = {name: tensor for name, tensor in encoded.vision.items() if name != "mm_token_type_ids"}
        for name in encoded.pixels[0] if encoded.pixels else ():
            vision[name] = torch.cat([pixels[name] for pixels in encoded.pixels])
        return TurnSequence(torch.tensor(ids), torch.tensor(labels), vision)

    def _end_of_turn(self) -> list[int]:
        """What the template writes after an assistant's words, up to the token that ends a turn."""
        turns = [
            {"role": "user", "content": [{"type": "text", "text": "?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": _SENTINEL}]},
        ]
        text = str(self.encoder.processor.apply_chat_template(turns, tokenize=False))
        _, found, after = text.rpartition(_SENTINEL)
        ids = list(self.tokenizer(after, add_special_tokens=False)["input_ids"]) if found else []
        for place, token in enumerate(ids):
            if token in self.encoder.control.end_ids:
                return ids[: place + 1]
        return [self.tokenizer.eos_token_id]


class Collator:
    """Makes a batch of rows. Rows are dictionaries with `row` (place in the run) and `conversation` (turns).

    Args:
        turns: encodes conversations.
        max_tokens: sequences longer than this are left out; where a batch would be empty, a small picture with nothing
            to learn takes their place, so that memory is what was planned, and every process still looks at a picture.
    """

    def __init__(self, turns: TurnEncoder, *, max_tokens: int | None = None) -> None:
        self.turns = turns
        self.max_tokens = max_tokens

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors as the model takes them, right-padded, with `labels` (B, L), `rows` (B,) and `left_out` (1,)."""
        sequences = [sequence for row in rows for sequence in self.turns.encode(row["conversation"])]
        limit = self.max_tokens or max(len(sequence.input_ids) for sequence in sequences)
        kept = [sequence for sequence in sequences if len(sequence.input_ids) <= limit]
        left_out = len(sequences) - len(kept)
        if not kept:
            kept = self._nothing()
        batch = self._stacked(kept)
        batch["rows"] = torch.tensor([row["row"] for row in rows])
        batch["left_out"] = torch.tensor([left_out])
        return batch

    def _nothing(self) -> list[TurnSequence]:
        """A short sequence with a picture, of which nothing is learnt."""
        turns = [message("user", ImagePart(Image.new("RGB", (32, 32))), "?"), message("assistant", "")]
        return [
            TurnSequence(one.input_ids, torch.full_like(one.labels, IGNORED), one.vision)
            for one in self.turns.encode(turns)
        ]

    def _stacked(self, sequences: Sequence[TurnSequence]) -> dict[str, torch.Tensor]:
        pad = self.turns.tokenizer.pad_token_id
        pad = self.turns.tokenizer.eos_token_id if pad is None else pad
        batch = {
            "input_ids": _padded([sequence.input_ids for sequence in sequences], pad),
            "attention_mask": _padded([torch.ones_like(sequence.input_ids) for sequence in sequences], 0),
            "labels": _padded([sequence.labels for sequence in sequences], IGNORED),
        }
        if self.turns.encoder.patch_family:
            images = batch["input_ids"] == self.turns.encoder.image_token_id
            batch["mm_token_type_ids"] = images.to(torch.int32)
        names = {name for sequence in sequences for name in sequence.vision}
        for name in sorted(names):
            tensors = [sequence.vision[name] for sequence in sequences if name in sequence.vision]
            if any(tensor.shape[1:] != tensors[0].shape[1:] for tensor in tensors):
                raise DataError(
                    f"This model's processor makes {name} of different shapes ({tuple(tensors[0].shape)}, …), which "
                    "cannot stand in one batch: say batch: 1 in the recipe."
                )
            batch[name] = torch.cat(tensors)
        return batch


def _padded(tensors: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    """(B, L), padded on the right."""
    return torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True, padding_value=value)
