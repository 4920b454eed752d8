"""The `native` dialect: an instruct model as it comes, told the grammar in a system prompt with one worked example.

It writes boxes in its own declared space and no depths: the graph measures those. Near misses of the grammar (boxes in
a code fence, prose around the tags, a tool call) are repaired by the lenient parser and told in `warnings`; a turn with
neither an area nor an answer is asked for once more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image

from sifthinker.policy import prompts, reading
from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.boxes import WHOLE
from sifthinker.policy.messages import ImagePart, Message, Part, message
from sifthinker.policy.reading import ReadCompletion, ReadSpan, TurnMode
from sifthinker.policy.tool_calls import ToolAnswer, ToolDescription, lift_calls, tool_notes
from sifthinker.policy.trace import AreaBox, render_boxes

_ROLE = "You answer a question about a picture by looking at it area by area, closer and closer to what decides it.\n"
_FORM = (
    "Write in this form, and nothing outside the tags:\n"
    "<think><area>BOXES</area><text>what this area shows</text> … </think><answer>the answer alone</answer>\n"
    '- BOXES is a JSON list of one to four boxes, [{{"bbox_2d":[x1,y1,x2,y2]}}], left, top, right and bottom {space}. '
    "They always refer to the whole picture, never to a crop.\n"
    "- The first area is the whole picture: {whole}.\n"
    "- Each further area is nearer to what decides the question. If one turns out wrong, say so in its text and give "
    "a better one. Two to four areas are enough.\n"
    "- The answer stands alone in <answer></answer>; where options are given it is one of them, word for word.\n"
)
_PAUSE = (
    "After each </area> stop. You are sent the area cut out of the full picture, with its measured depth. Then go on "
    "with <text>, followed by the next <area> or by </think><answer>.\n"
)
_DEPTH = (
    "The second picture shows how far everything is from the camera, red being nearest and violet farthest; depths are "
    "told as numbers from 0, near, to 1, far.\n"
)
_EXAMPLE_QUESTION = "Which is closer to the camera, the mug or the lamp?"
_EXAMPLE_OPTIONS = ("mug", "lamp")
_MUG, _LAMP = AreaBox(bbox_2d=(0.11, 0.52, 0.3, 0.81), depth=0.2), AreaBox(bbox_2d=(0.64, 0.13, 0.85, 0.47), depth=0.7)
_EXAMPLE_TEXTS = (
    "A desk by a window: a mug stands at its left edge, a lamp at the back on the right.",
    "The mug stands low in the picture, in front of everything; the lamp stands behind the papers.",
)
_DIRECT = (
    "Look carefully at the picture, decide, and give the answer alone in <answer></answer>; where options are given it "
    "is one of them, word for word."
)
_GO_ON = "\nGo on with <text></text> about this, then the next <area></area>, or </think><answer></answer>."
_RETRY = (
    "That could not be read: {problems} Go on in the form you were given: <area>"
    '[{{"bbox_2d":[x1,y1,x2,y2]}}]</area> with numbers {space}, or, if you know it, the answer alone in '
    "<answer></answer>."
)
_MOST_PROBLEMS = 3
_OWN_TAG = re.compile(r"<(?=\s*/?\s*tool_response\s*>)", re.IGNORECASE)


def _enclosed(text: str) -> str:
    """What a tool found, unable to close the reply that it stands in: it may have been read from the picture."""
    return _OWN_TAG.sub("< ", text)


class NativeDialect:
    """See `sifthinker.policy.dialect.Dialect`."""

    same_opening = False  # in mode tools it is told to pause after each area

    def __init__(self, profile: PolicyProfile) -> None:
        self.profile = profile

    def stop_strings(self, mode: TurnMode) -> tuple[str, ...]:
        """Where a turn of that mode ends."""
        return ("</area>", "</answer>") if mode == "tools" else ("</answer>",)

    def build_first(
        self,
        question: str,
        *,
        rgb: Image.Image,
        depth: Image.Image | None,
        options: Sequence[str] | None = None,
        mode: TurnMode = "tools",
        tools: Sequence[ToolDescription] = (),
    ) -> list[Message]:
        """The system turn with the grammar and the worked example, and the user turn with the pictures."""
        shown = depth if self.profile.uses_depth_image else None
        asked = message(
            "user", *prompts.image_parts(rgb, shown), "\n" + self._question(question, options, mode, first=True)
        )
        told = _DEPTH if shown is not None else ""
        if mode == "direct":
            return [message("system", told + _DIRECT), asked]
        form = _FORM.format(
            space=self.profile.space_words(rgb.size), whole=self._boxes([AreaBox(bbox_2d=WHOLE)], rgb.size)
        )
        pause = _PAUSE + tool_notes(tools) if mode == "tools" else ""
        return [message("system", _ROLE + told + form + pause + self._example(rgb.size, mode)), asked]

    def build_next(
        self,
        question: str,
        *,
        image_size: tuple[int, int],
        options: Sequence[str] | None = None,
        mode: TurnMode = "tools",
        depth_shown: bool = True,
    ) -> Message:
        """A later question about the same image."""
        return message("user", self._question(question, options, mode, first=False))

    def build_tool_reply(
        self,
        looked_at: Sequence[AreaBox],
        crops: Sequence[Image.Image | None],
        *,
        image_size: tuple[int, int],
        answers: Sequence[Sequence[ToolAnswer]] = (),
    ) -> Message:
        """Each box with its measured depth, its crop or None, what tools found there, and what is to come next."""
        parts: list[Part | str] = [prompts.TOOL_OPEN]
        for index, (box, crop) in enumerate(zip(looked_at, crops, strict=True)):
            parts.append(self._boxes([box], image_size))
            if crop is not None:
                parts += [" cut out: ", ImagePart(crop, "crop")]
            parts.append("\n")
            for answer in answers[index] if answers else ():
                parts.append(_enclosed(f"{answer.call}: {answer.text}".rstrip()) + " ")
                if answer.picture is not None:
                    parts.append(ImagePart(answer.picture, "crop"))
                parts.append("\n")
        return message("user", *parts, prompts.TOOL_CLOSE + _GO_ON)

    def build_retry(self, problems: Sequence[str]) -> Message:
        """Says what could not be read and repeats the form."""
        told = " ".join(problems[:_MOST_PROBLEMS])
        return message("user", _RETRY.format(problems=told, space=self.profile.space_words(None)))

    def build_answer_now(self) -> Message:
        """Asked once when a budget is used up."""
        return prompts.answer_now()

    def read_span(self, text: str, *, image_size: tuple[int, int]) -> ReadSpan:
        """Read one turn of mode tools, with the tools it asks for."""
        bare, calls = lift_calls(text)
        return reading.read_span(bare, self.profile, image_size, calls)

    def read_completion(self, text: str, *, image_size: tuple[int, int], mode: TurnMode = "internal") -> ReadCompletion:
        """Read a completion of mode direct or internal."""
        return reading.read_completion(lift_calls(text)[0], self.profile, image_size, mode, depth_asked=False)

    def _question(self, question: str, options: Sequence[str] | None, mode: TurnMode, *, first: bool) -> str:
        asked = prompts.question_text(question, options)
        if first:
            return asked
        return (
            f"{asked}\n{_DIRECT}" if mode == "direct" else f"{asked}\nAnswer in the same form, beginning with <think>."
        )

    def _boxes(self, boxes: Sequence[AreaBox], image_size: tuple[int, int]) -> str:
        return render_boxes(
            boxes,
            decimals=self.profile.box_decimals,
            space=self.profile.box_space,
            image_size=self.profile.shown_size(image_size),
            resized_size=self.profile.resized_size(image_size),
        )

    def _example(self, image_size: tuple[int, int], mode: TurnMode) -> str:
        """A worked example in the model's own space, as it goes in this mode."""

        def area(*boxes: AreaBox) -> str:
            bare = [box.model_copy(update={"depth": None}) for box in boxes]
            return f"<area>{self._boxes(bare, image_size)}</area>"

        def reply(*boxes: AreaBox) -> str:
            return (
                f"\n{prompts.TOOL_OPEN}{self._boxes(boxes, image_size)}{prompts.TOOL_CLOSE}\n"
                if mode == "tools"
                else ""
            )

        whole = AreaBox(bbox_2d=WHOLE, depth=0.5)
        first, second = (f"<text>{text}</text>" for text in _EXAMPLE_TEXTS)
        return (
            f"Example. {prompts.question_text(_EXAMPLE_QUESTION, _EXAMPLE_OPTIONS)}\n"
            f"<think>{area(whole)}{reply(whole)}{first}{area(_MUG, _LAMP)}{reply(_MUG, _LAMP)}{second}"
            f"</think><answer>{_EXAMPLE_OPTIONS[0]}</answer>"
        )
