"""Questions whose answer is a place, in words: every mode is told how a box is written, and in which space.

The prompts of the modes with a trace say so of their areas; that of the baseline, which has none, says nothing.
"""

from __future__ import annotations

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.boxes import Size
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
    space = profile.space_words(image_size)
    return f"{question.text} A box is written [x1,y1,x2,y2]: its left, top, right and bottom edge, {space}."
