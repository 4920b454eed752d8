"""The contract of a policy: messages in, completion out, no hidden conversation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.calibration import Calibration
from sifthinker.policy.messages import ImageKind, Message

DialectName = Literal["sif", "native"]
FinishReason = Literal["stop", "length", "deadline"]
TokenCallback = Callable[[str], None]
_MOST_PX = 8000
"""Longest edge that a profile may ask for: it comes with a checkpoint, and a crop is enlarged to what it says."""
_MOST_PIXELS = 10**9
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Told = Annotated[str, AfterValidator(lambda text: _UNSHOWN.sub(" ", text)[:1000])]
"""A text that may come with a checkpoint and is shown in terminals: without control characters, and not endless."""


class PolicyProfile(BaseModel):
    """How to speak with a policy. Declared once for each policy, never guessed from what it says.

    A folder may carry it as `sifthinker.json` beside the weights.
    """

    model_config = ConfigDict(extra="forbid")

    name: Told = Field(description="What the result calls the policy.")
    family: Told = Field(default="unknown", description="transformers' model_type, or the server's model name.")
    dialect: DialectName = Field(
        default="native",
        description="sif: trained on the trace grammar. native: an instruct model as it comes, told the grammar.",
    )
    box_space: BoxSpace = Field(default=BoxSpace.UNIT, description="The space in which the policy writes boxes.")
    box_decimals: int = Field(default=3, ge=0, le=6, description="Decimals of a box or depth written for this policy.")
    rgb_px: int | None = Field(
        default=None, ge=1, le=_MOST_PX, description="Longest edge of the RGB image shown; None: as it is."
    )
    depth_px: int | None = Field(
        default=None, ge=1, le=_MOST_PX, description="Longest edge of the depth picture; None: as it is."
    )
    crop_px: int | None = Field(
        default=None,
        ge=1,
        le=_MOST_PX,
        description="Longest edge of a crop shown, enlarged to it as well; None: as it is.",
    )
    crop_min_px: int | None = Field(
        default=None,
        ge=1,
        le=_MOST_PX,
        description="Longest edge to which a smaller crop is enlarged, where there is no crop_px; None: as it is.",
    )
    uses_depth_image: bool = Field(default=True, description="Whether the depth picture is shown to it.")
    domain: Told | None = Field(default=None, description="What it knows, if it knows one thing only ('block world').")
    notes: tuple[Told, ...] = Field(default=(), description="What whoever uses this policy should be told once.")
    follows_conversations: bool = Field(
        default=True, description="Whether earlier questions about the image are shown to it; else each stands alone."
    )
    visual_tools: bool = Field(
        default=True,
        description="Whether it is told of tools beside the crop (rotate, …); only ever in the dialect native.",
    )
    max_images: int = Field(default=16, ge=1, description="Images it takes in one conversation.")
    vision_patch_px: int | None = Field(
        default=None, ge=1, le=1024, description="Edge of one merged vision token: a resize rounds to multiples of it."
    )
    min_image_pixels: int | None = Field(
        default=None, ge=1, le=_MOST_PIXELS, description="The processor enlarges images below this."
    )
    max_image_pixels: int | None = Field(
        default=None, ge=1, le=_MOST_PIXELS, description="The processor shrinks images above this."
    )
    calibration: Calibration | None = Field(
        default=None, description="When its answers are to be trusted, for mode adaptive (`sifthinker calibrate`)."
    )

    def shown_size(self, image_size: tuple[int, int], kind: ImageKind = "rgb") -> tuple[int, int]:
        """(width, height) at which an image of that kind is handed to the processor or server.

        RGB and depth are only ever made smaller; a crop is also enlarged, which is the point of it. Where the profile
        says what a vision token covers, edges are multiples of it, so that the processor has nothing left to resize.
        """
        longest_px = {"rgb": self.rgb_px, "depth": self.depth_px, "crop": self.crop_px}[kind]
        width, height = image_size
        longest = max(width, height)
        if kind == "crop" and longest_px is None and self.crop_min_px is not None:
            longest_px = self.crop_min_px if longest < self.crop_min_px else None
        if longest_px is None or (longest <= longest_px and kind != "crop"):
            return width, height
        scale, multiple = longest_px / longest, self.vision_patch_px or 1
        return (
            max(multiple, round(width * scale / multiple) * multiple),
            max(multiple, round(height * scale / multiple) * multiple),
        )

    def resized_size(self, image_size: tuple[int, int], kind: ImageKind = "rgb") -> tuple[int, int] | None:
        """(width, height) of an image of that kind after the processor's own resize: the pixels of `BoxSpace.RESIZED`.

        None when the profile does not declare how the processor resizes. The rule is the one of the Qwen-VL family:
        both edges to the nearest multiple of a merged vision token, the area brought into its bounds.
        """
        if self.vision_patch_px is None:
            return None
        width, height = self.shown_size(image_size, kind)
        return _round_to_patches(
            width, height, self.vision_patch_px, self.min_image_pixels or 1, self.max_image_pixels or width * height * 4
        )

    def space_words(self, image_size: tuple[int, int] | None) -> str:
        """What the numbers of a box mean, as a policy is told it: of an image of that (width, height), or of any."""
        match self.box_space:
            case BoxSpace.PERMILLE:
                return "from 0 to 1000 of the width and height"
            case BoxSpace.PIXEL | BoxSpace.RESIZED:
                if image_size is None:
                    return "in pixels"
                size = self.shown_size(image_size)
                if self.box_space is BoxSpace.RESIZED:
                    size = self.resized_size(image_size) or size
                return f"in pixels of the picture, which is {size[0]} wide and {size[1]} high"
            case BoxSpace.PADDED_SQUARE:
                return "from 0 to 1 of the picture padded evenly to a square"
            case _:
                return "from 0 to 1 of the width and height"


def _round_to_patches(width: int, height: int, patch_px: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    def scaled(edge: int, scale: float, rounding: Callable[[float], int]) -> int:
        return rounding(edge * scale / patch_px) * patch_px

    new_width, new_height = scaled(width, 1.0, round), scaled(height, 1.0, round)
    if new_width * new_height > max_pixels:
        scale = math.sqrt(max_pixels / (width * height))
        return max(patch_px, scaled(width, scale, math.floor)), max(patch_px, scaled(height, scale, math.floor))
    if new_width * new_height < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        return scaled(width, scale, math.ceil), scaled(height, scale, math.ceil)
    return new_width, new_height


@dataclass
class Completion:
    """What a policy generated in one call."""

    text: str
    """Generated text. Ends with the stop string when one was hit."""
    finish_reason: FinishReason = "stop"
    stop_string: str | None = None
    """The stop string that ended it, or None when it ended by itself or was cut."""
    token_ids: list[int] = field(default_factory=list)
    """Generated ids, empty where a server does not give them."""
    token_logprobs: list[float] = field(default_factory=list)
    """Natural log-probability of each generated token, empty where unknown."""
    token_texts: list[str] = field(default_factory=list)
    """What each of those tokens added to the text (nothing, for a control token or a part of a character)."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    images: int = 0
    """Images encoded for this call (those found in a cache do not count)."""
    cached_tokens: int = 0
    """Of the prompt tokens, those that a cache had and that were not encoded again."""
    seconds: float = 0.0


@runtime_checkable
class Policy(Protocol):
    """A vision-language model that can be asked. Implementations are safe to call from several threads."""

    @property
    def profile(self) -> PolicyProfile:
        """How to speak with this policy."""
        ...

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
        """Generate one assistant turn.

        Args:
            messages: the whole conversation, ending in a user turn.
            stop: strings that end the turn; the one hit is kept at the end of the text.
            max_new_tokens: budget; when exceeded, `finish_reason` is "length".
            temperature: 0 is greedy.
            seed: makes sampling repeatable.
            timeout: seconds for this call; a local policy then ends with "deadline", a server raises PolicyTimeout.
            on_token: called with each new piece of text; the pieces joined are the text.

        Raises:
            PolicyTimeout, PolicyUnavailable: the server did not answer.
        """
        ...

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
        """`generate` for several conversations at once; the answers come in the order of the questions."""
        ...
