"""What of a branch is learnt: each token's weight in the loss, its part, and the object that it tells of."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from transformers import PreTrainedTokenizerFast

from sifthinker.training.scratch.tokenizer import NUMBERS

if TYPE_CHECKING:
    from sifthinker.training.scratch.samples import SampleConfig

Part = Literal["", "number", "conclusion", "answer"]
CONCLUSION = re.compile(r"<text>At [^:<]*:( [^<]*)</text>")
"""What follows from where two things are: "At depth 0.26 the cube, at depth 0.32 the cone: the cube is closer."."""


@dataclass
class Labelled:
    """Tokens with, for each, its weight (0: not learnt), the part it belongs to, and the object of the scene that a
    number of a learnt area tells of (-1: none)."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)


class Labeller:
    """Labels the tokens of pieces of text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: SampleConfig) -> None:
        self.config = config
        self._encode = tokenizer.backend_tokenizer.encode
        ids = tokenizer.convert_tokens_to_ids
        self.numbers = set(ids(list(NUMBERS)))
        self.structure = set(tokenizer.get_added_vocab().values()) - self.numbers
        self.area_open, self.area_close = ids("<area>"), ids("</area>")
        self.answer_open, self.answer_close = ids("<answer>"), ids("</answer>")
        self.box_open = {ids('[{"bbox_2d":['), ids('},{"bbox_2d":[')}

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self._encode(text, add_special_tokens=False).ids

    def label(
        self,
        pieces: Sequence[tuple[str, bool]],
        *,
        whole_first: bool,
        objects: Sequence[Sequence[int]] = (),
        moved: Set[int] = frozenset(),
    ) -> Labelled:
        """The pieces one after the other.

        Args:
            pieces: texts, and whether each is learnt.
            whole_first: the first learnt area is the whole image, which is always the same.
            objects: for each learnt area those that its boxes are of.
            moved: learnt areas whose numbers are not learnt.
        """
        out = Labelled()
        area = -1
        for text, learnt in pieces:
            ids = self.tokens(text)
            out.ids += ids
            if not learnt:
                out.weights += [0.0] * len(ids)
                out.parts += [""] * len(ids)
                out.objects += [-1] * len(ids)
                continue
            concluding = self._conclusion(text)
            box, within, answering = -1, False, False
            for place, token in enumerate(ids):
                if token == self.area_open:
                    area, box, within = area + 1, -1, True
                elif token == self.area_close:
                    within = False
                elif token == self.answer_close:
                    answering = False
                elif token in self.box_open:
                    box += 1
                weight, part = self._weighed(token, answering=answering, concluding=place in concluding)
                told = -1
                if part == "number" and area == 0 and whole_first:
                    weight = self.config.weight_whole
                if part == "number" and within:
                    told = objects[area][box] if area < len(objects) and box < len(objects[area]) else -1
                    weight = 0.0 if area in moved else weight
                out.weights.append(weight)
                out.parts.append(part)
                out.objects.append(told)
                answering = answering or token == self.answer_open
        return out

    def _weighed(self, token: int, *, answering: bool, concluding: bool) -> tuple[float, Part]:
        if token in self.numbers:
            return 1.0, "number"
        if token in self.structure:
            return self.config.weight_structure, ""
        if answering:
            return self.config.weight_answer, "answer"
        if concluding:
            return self.config.weight_conclusion, "conclusion"
        return self.config.weight_text, ""

    def _conclusion(self, text: str) -> range:
        """The places of the tokens of a text that say what follows from the two things it has told of."""
        found = CONCLUSION.search(text)
        if found is None:
            return range(0)
        return range(len(self.tokens(text[: found.start(1)])), len(self.tokens(text[: found.end(1)])))
