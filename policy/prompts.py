"""Every word that is said to a policy, defined once, for training and inference alike.

Layout of a question (REFERENCE: prompt order of the paper): the RGB image first, then the depth picture, then the
question with its suffix. In tool mode the assistant's turn ends after `</area>`; the reply is a user turn wrapped in
`<tool_response>`, with each box that was looked at, its measured depth and its crop; the next assistant turn goes on
with `<text>`. The assistant's turns joined are the trace.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from sifthinker.policy.messages import ImagePart, Message, Part, message
from sifthinker.policy.trace import AreaBox, render_boxes

ORIGINAL_IMAGE = "Original image: "
DEPTH_IMAGE = "\nDepth image: "
OPTIONS = "\nOptions: "
OPTION_SEPARATOR = "; "

FOCUS_SUFFIX = (
    "\nThink inside <think></think>. Begin with the whole image and move, area by area, to what decides the question: "
    'give each area as <area>[{"bbox_2d":[x1,y1,x2,y2],"depth":d}]</area> (x and y from 0 at the top left to 1 at the '
    "bottom right; d from 0, near, to 1, far), followed by what it shows in <text></text>. Correct an area that turns "
    "out wrong. Then give the answer alone in <answer></answer>."
)
DIRECT_SUFFIX = (
    "\nLook carefully at the image and at the depth image (0 is near, 1 is far), decide, and give the answer alone in "
    "<answer></answer>."
)
DIRECT_SUFFIX_NO_DEPTH = "\nLook carefully at the image, decide, and give the answer alone in <answer></answer>."

TOOL_OPEN = "<tool_response>"
TOOL_CLOSE = "</tool_response>"
ANSWER_NOW = "The budget for looking is used up. Give your answer now, alone in <answer></answer>."
DECLINED = "This area was declined. Look elsewhere, or give your answer alone in <answer></answer>."


def question_text(question: str, options: Sequence[str] | None = None) -> str:
    """The question with its options, as every mode and every dialect states it."""
    if not options:
        return question
    return question + OPTIONS + OPTION_SEPARATOR.join(options)


def image_parts(rgb: Image.Image, depth: Image.Image | None) -> list[Part]:
    """The images as they open a conversation: RGB, then depth when there is one, each announced."""
    parts: list[Part] = [message("user", ORIGINAL_IMAGE).parts[0], ImagePart(rgb, "rgb")]
    if depth is not None:
        parts += [message("user", DEPTH_IMAGE).parts[0], ImagePart(depth, "depth")]
    return parts


def first_turn(
    question: str,
    *,
    rgb: Image.Image,
    depth: Image.Image | None,
    options: Sequence[str] | None = None,
    focus: bool = True,
) -> Message:
    """The user turn that opens a conversation with a policy of the `sif` dialect.

    `focus` asks for a trace (modes internal and tools: the same words); otherwise for the answer alone (direct).
    """
    asked = next_turn(question, options=options, focus=focus, depth_shown=depth is not None)
    return message("user", *image_parts(rgb, depth), "\n" + asked.text)


def next_turn(
    question: str, *, options: Sequence[str] | None = None, focus: bool = True, depth_shown: bool = True
) -> Message:
    """A later question about the same image. `depth_shown`: whether the depth picture was shown with it."""
    direct = DIRECT_SUFFIX if depth_shown else DIRECT_SUFFIX_NO_DEPTH
    return message("user", question_text(question, options) + (FOCUS_SUFFIX if focus else direct))


def tool_reply(looked_at: Sequence[AreaBox], crops: Sequence[Image.Image | None], *, decimals: int = 3) -> Message:
    """What the focus node answers: for each box its place and measured depth, then its crop.

    A crop is None where it would repeat pixels the policy has (the whole image, a box already looked at).
    """
    if len(looked_at) != len(crops):
        raise ValueError(f"expected one crop (or None) for each of the {len(looked_at)} boxes, got {len(crops)}")
    parts: list[Part | str] = [TOOL_OPEN]
    for box, crop in zip(looked_at, crops, strict=True):
        parts.append(render_boxes([box], decimals=decimals))
        if crop is not None:
            parts.append(ImagePart(crop, "crop"))
    parts.append(TOOL_CLOSE)
    return message("user", *_joined(parts))


def answer_now() -> Message:
    """Asked once when a budget is used up."""
    return message("user", ANSWER_NOW)


def declined(reason: str = "") -> Message:
    """Said when a person declines a proposed area; the person's reason comes first."""
    return message("user", f"{reason} {DECLINED}".strip())


def _joined(parts: Sequence[Part | str]) -> list[Part | str]:
    """Neighbouring strings as one, so that a tokenizer sees them as they are written."""
    out: list[Part | str] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        else:
            out.append(part)
    return out
