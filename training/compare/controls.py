"""Controls of tool mode: boxes in place of the policy's, to see what its own looking is worth.

What happens, exactly. The first area is given: the whole image, with its measured depth. From there the policy goes on
in its own words, but wherever it names an area other boxes stand in its place, narrowing down as traces do (paper
section 3.1): the hull of the control's boxes, where these are several; the boxes widened; then the boxes themselves,
and they again if it goes on. The focus node replies to them as to any area, with measured depths and crops. The policy
never sees a place of its own choosing. Budgets, decoding and grading are those of mode tools.

The narrowing matters: given the boxes at once, a trained policy is led off the path it knows, and a control would
measure that instead of the place.

    oracle   the boxes that decide the question
    random   boxes of the same number and size, each anywhere
    centre   one box in the middle, half as wide and half as high as the image: a guess that knows nothing
    wrong    boxes of the same number and size that touch none of the right ones, widened neither. Their hull is left
             out where it would show one
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sifthinker.policy.base import Completion, Policy, PolicyProfile, TokenCallback
from sifthinker.policy.boxes import WHOLE, Box, Size, area, expand, hull, iou
from sifthinker.policy.messages import Message
from sifthinker.policy.trace import AreaBox, render_boxes
from sifthinker.training.compare.data import Question
from sifthinker.training.compare.records import Control

WIDENED = 1.36
"""How much wider and higher boxes are on the way to them: as in the block world's own traces."""

CENTRE: Box = (0.25, 0.25, 0.75, 0.75)
_TRIES = 4096
_DRAWS = 64  # of wrong boxes, until their hull shows no right one
_LAST_AREA = re.compile(r"<area>(?:(?!<area>).)*\Z", re.DOTALL)


def control_boxes(control: Control, question: Question, seed: int) -> tuple[Box, ...] | None:
    """The boxes that are looked at. None where there can be none: the right ones are not known, or leave no room.

    The same question and seed give the same boxes.
    """
    if control == "centre":
        return (CENTRE,)
    if not question.boxes:
        return None
    if control == "oracle":
        return question.boxes
    rng = np.random.default_rng([seed, *f"{control} {question.id}".encode()])
    if control == "random":
        return tuple(_anywhere(box, rng) for box in question.boxes)
    return _wrong(question.boxes, rng)


def elsewhere(
    boxes: Sequence[Box], forbidden: Sequence[Box], rng: np.random.Generator, *, widened: float = 1.0
) -> tuple[Box, ...] | None:
    """Boxes of the same sizes that touch no forbidden one, nor each other; None where there is no room.

    `widened`: so much wider and higher they touch no forbidden one either.
    """
    placed: list[Box] = []
    for box in sorted(boxes, key=area, reverse=True):  # the largest first: it needs the most room
        found = _free(box, forbidden, placed, rng, widened)
        if found is None:
            return None
        placed.append(found)
    return tuple(placed)


def _wrong(true: Sequence[Box], rng: np.random.Generator) -> tuple[Box, ...] | None:
    """Boxes that stay off the right ones also on the way to them: widened, and, where that can be, in their hull."""
    first: tuple[Box, ...] | None = None
    for _ in range(_DRAWS):
        found = elsewhere(true, true, rng, widened=WIDENED)
        if found is not None and not _shows(_around(found), true):
            return found
        first = first or found
    return first


def _around(boxes: Sequence[Box]) -> Box:
    """The first area that several boxes are come to through."""
    return hull([expand(box, WIDENED) for box in boxes])


def _shows(box: Box, others: Sequence[Box]) -> bool:
    """Whether a part of another box lies in a box."""
    return any(iou(box, other) > 0 for other in others)


def _free(
    box: Box, forbidden: Sequence[Box], placed: Sequence[Box], rng: np.random.Generator, widened: float
) -> Box | None:
    width, height = box[2] - box[0], box[3] - box[1]
    corners = rng.random((_TRIES, 2)) * (1 - width, 1 - height)  # (T, 2)
    free = np.ones(_TRIES, bool)
    for taken, factor in ((forbidden, widened), (placed, 1.0)):
        beyond_x, beyond_y = width * (factor - 1) / 2, height * (factor - 1) / 2
        for x1, y1, x2, y2 in taken:
            apart_x = (corners[:, 0] - beyond_x >= x2) | (corners[:, 0] + width + beyond_x <= x1)
            apart_y = (corners[:, 1] - beyond_y >= y2) | (corners[:, 1] + height + beyond_y <= y1)
            free &= apart_x | apart_y
    at = np.flatnonzero(free)
    return _placed(corners[at[0]], width, height) if len(at) else None


def _anywhere(box: Box, rng: np.random.Generator) -> Box:
    width, height = box[2] - box[0], box[3] - box[1]
    return _placed(rng.random(2) * (1 - width, 1 - height), width, height)


def _placed(corner: Sequence[float] | np.ndarray, width: float, height: float) -> Box:
    x, y = float(corner[0]), float(corner[1])
    return (x, y, min(x + width, 1.0), min(y + height, 1.0))


class ControlledPolicy:
    """A policy whose areas are given, see above. What it is shown and what it concludes are its own.

    Args:
        policy: the one that is asked.
        boxes: looked at in place of its own.
        depth_of: measures the depth of a box; None where there is no depth map.
        image_size: (width, height) of the upright image.
        avoid: the hull of the boxes is left out where it would show one of these.
    """

    def __init__(
        self,
        policy: Policy,
        boxes: Sequence[Box],
        depth_of: Callable[[Box], float | None],
        image_size: Size,
        *,
        avoid: Sequence[Box] = (),
    ) -> None:
        self._policy = policy
        wide = [expand(box, WIDENED) for box in boxes]
        narrowing = [[_around(boxes)]] if len(boxes) > 1 and not _shows(_around(boxes), avoid) else []
        areas: list[Sequence[Box]] = [[WHOLE], *narrowing, wide, boxes]
        self._areas = [self._written(area, depth_of, image_size) for area in areas]

    @property
    def profile(self) -> PolicyProfile:
        """The policy's own."""
        return self._policy.profile

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
        """One turn: the first is given, those after it are the policy's, with other boxes in their areas."""
        turns = sum(turn.role == "assistant" for turn in messages)
        if turns == 0:
            said = f"<think>{self._areas[0]}"
            if on_token is not None:
                on_token(said)
            return Completion(said, stop_string="</area>")
        completion = self._policy.generate(
            messages, stop=stop, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, timeout=timeout
        )  # not told piece by piece: its areas are not to be seen by anyone
        if "</area>" in stop and completion.text.endswith("</area>"):
            given = self._areas[min(turns, len(self._areas) - 1)]
            completion = replace(completion, text=_LAST_AREA.sub(lambda _: given, completion.text))
        if on_token is not None:
            on_token(completion.text)
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
        """`generate` one after another."""
        return [
            self.generate(
                messages, stop=stop, max_new_tokens=max_new_tokens, temperature=temperature,
                seed=None if seed is None else seed + index, timeout=timeout,
            )
            for index, messages in enumerate(conversations)
        ]  # fmt: skip

    def _written(self, boxes: Sequence[Box], depth_of: Callable[[Box], float | None], size: Size) -> str:
        profile = self._policy.profile
        said_depth = profile.dialect == "sif"  # a native policy is not asked for depths
        areas = [AreaBox(bbox_2d=box, depth=depth_of(box) if said_depth else None) for box in boxes]
        return (
            "<area>"
            + render_boxes(
                areas,
                decimals=profile.box_decimals,
                space=profile.box_space,
                image_size=profile.shown_size(size),
                resized_size=profile.resized_size(size),
            )
            + "</area>"
        )
