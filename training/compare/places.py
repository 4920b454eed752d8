"""Questions whose answer is a place, in words: every mode is told how a box is written, and in which space.

The prompts of the modes with a trace say so of their areas; that of the baseline, which has none, says nothing.
"""

from __future__ import annotations

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.boxes import BoxSpace, Size
from sifthinker.training.compare.data import Question


def worded(question: Question, profile: PolicyProfile, image_size: Size) -> str:
    """The words of a question as a policy is asked it, the same in every mode.

    Args:
        question: what is asked.
        profile: declares the space in which the policy writes boxes.
        image_size: (width, height) of the upright image.
    """
    if question.kind != "place":
        return question.text
    space = _space(profile, image_size)
    return f"{question.text} A box is written [x1,y1,x2,y2]: its left, top, right and bottom edge, {space}."


def _space(profile: PolicyProfile, image_size: Size) -> str:
    """What the numbers of a box mean."""
    match profile.box_space:
        case BoxSpace.PERMILLE:
            return "from 0 to 1000 of the width and height"
        case BoxSpace.PIXEL | BoxSpace.RESIZED:
            width, height = profile.shown_size(image_size)
            if profile.box_space is BoxSpace.RESIZED:
                width, height = profile.resized_size(image_size) or (width, height)
            return f"in pixels of the picture, which is {width} wide and {height} high"
        case BoxSpace.PADDED_SQUARE:
            return "from 0 to 1 of the picture padded evenly to a square"
        case _:
            return "from 0 to 1 of the width and height"
