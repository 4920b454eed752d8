"""From messages to what a model takes: the chat template, token ids, pixels, and keys for the prefix cache."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.control import ControlTokens
from sifthinker.policy.errors import PolicyError
from sifthinker.policy.messages import ImagePart, Message, TextPart, images_of


@dataclass(frozen=True)
class Encoded:
    """A conversation as the model takes it, batch size 1."""

    input_ids: torch.Tensor
    """(1, L) long."""
    keys: npt.NDArray[np.int64]
    """(L,) what stands at each place: the token id, or for an image token a negative number made of the pixels.
    Conversations with equal keys up to a place have the same KV cache up to there."""
    vision: dict[str, torch.Tensor]
    """Every other tensor that the processor made."""
    images: int
    image_starts: tuple[int, ...] = ()
    """Where the tokens of each image begin (patch families only, see `ChatEncoder`)."""
    pixels: tuple[dict[str, torch.Tensor], ...] = ()
    """The tensors of each image by itself (patch families only)."""


class ChatEncoder:
    """Encodes conversations for one model.

    Patch families (Qwen2-VL and its heirs: an image is one run of tokens, its pixels one row a patch) are encoded image
    by image, and the pixels of an image are prepared once. Other families go through their processor as a whole.

    Args:
        processor: of the model.
        profile: how to speak with it.
        control: its control tokens.
        patch_family: whether it is of these families.
        kept_images: prepared images that are kept, the longest unused dropped first.
        kept_bytes: that they may take (a photograph's tensors take hundreds of megabytes); the newest is always kept.
    """

    def __init__(
        self,
        processor: Any,
        profile: PolicyProfile,
        control: ControlTokens,
        *,
        patch_family: bool,
        kept_images: int = 32,
        kept_bytes: int = 1_000_000_000,
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.profile = profile
        self.control = control
        self.patch_family = patch_family
        self.image_token: str = processor.image_token
        self.image_token_id: int = self.tokenizer.convert_tokens_to_ids(self.image_token)
        self._kept_images, self._kept_bytes = kept_images, kept_bytes
        self._lock = threading.Lock()  # tokenizers and processors hold state while they work
        self._prepared: OrderedDict[int, dict[str, torch.Tensor]] = OrderedDict()

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Encode a conversation that ends in a user turn, up to where the assistant begins.

        Raises:
            PolicyError: the model's chat template loses an image or refuses the conversation.
        """
        with self._lock:
            return self._encode(messages)

    def forget(self) -> None:
        """Let go of prepared images."""
        with self._lock:
            self._prepared.clear()

    def _encode(self, messages: Sequence[Message]) -> Encoded:
        images = [self._shown(part) for part in images_of(messages)]
        text = self._text(messages, len(images))
        # A template that writes the opening token itself must not get a second one from the tokenizer.
        bos = self.tokenizer.bos_token
        add_special_tokens = not (bos and text.startswith(bos))
        if self.patch_family:
            return self._encode_patches(text, images, add_special_tokens)
        arguments: dict[str, Any] = {"images": [images]} if images else {}
        batch = self.processor(text=[text], add_special_tokens=add_special_tokens, return_tensors="pt", **arguments)
        input_ids = batch.pop("input_ids")
        batch.pop("attention_mask", None)
        keys = input_ids[0].numpy().copy()
        # Which tokens belong to which image is the processor's secret: all stand for all images together.
        keys[keys == self.image_token_id] = _key(images)
        vision = {name: tensor for name, tensor in batch.items() if isinstance(tensor, torch.Tensor)}
        return Encoded(input_ids, keys, vision, len(images))

    def _encode_patches(self, text: str, images: list[Image.Image], add_special_tokens: bool) -> Encoded:
        prepared = [self._prepare(image) for image in images]
        merged = self.processor.image_processor.merge_size**2
        counts = [int(pixels["image_grid_thw"].prod()) // merged for _, pixels in prepared]
        pieces = text.split(self.image_token)
        expanded = pieces[0]
        for count, piece in zip(counts, pieces[1:], strict=True):
            expanded += self.image_token * count + piece
        ids = np.asarray(self.tokenizer(expanded, add_special_tokens=add_special_tokens)["input_ids"], dtype=np.int64)
        keys = ids.copy()
        places = np.flatnonzero(ids == self.image_token_id)
        if len(places) != sum(counts):
            raise PolicyError(f"Expected {sum(counts)} image tokens for {len(images)} images, got {len(places)}.")
        starts = np.cumsum([0, *counts])
        for (key, _), start, end in zip(prepared, starts[:-1], starts[1:], strict=True):
            keys[places[start:end]] = key
        input_ids = torch.from_numpy(ids)[None]
        vision = {"mm_token_type_ids": (input_ids == self.image_token_id).to(torch.int32)}
        image_starts = tuple(int(places[start]) for start in starts[:-1])
        return Encoded(input_ids, keys, vision, len(images), image_starts, tuple(pixels for _, pixels in prepared))

    def _prepare(self, image: Image.Image) -> tuple[int, dict[str, torch.Tensor]]:
        """The key of an image and its tensors, prepared once."""
        key = _key([image])
        pixels = self._prepared.pop(key, None)
        if pixels is None:
            try:
                pixels = dict(self.processor.image_processor(images=[image], return_tensors="pt"))
            except ValueError as error:
                width, height = image.size
                raise PolicyError(
                    f"The processor of {self.profile.name} refused an image of {width} × {height}: {error}"
                ) from error
        self._prepared[key] = pixels
        while len(self._prepared) > self._kept_images or (len(self._prepared) > 1 and self._too_large()):
            self._prepared.popitem(last=False)
        return key, pixels

    def _too_large(self) -> bool:
        held = sum(tensor.nbytes for pixels in self._prepared.values() for tensor in pixels.values())
        return held > self._kept_bytes

    def _shown(self, part: ImagePart) -> Image.Image:
        image = part.image if part.image.mode == "RGB" else part.image.convert("RGB")
        size = self.profile.shown_size(image.size, part.kind)
        if size == image.size:
            return image
        smaller = max(size) < max(image.size)
        return image.resize(size, Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC)

    def _text(self, messages: Sequence[Message], images: int) -> str:
        """The conversation in the model's own template, one placeholder for each image."""
        conversation = [{"role": turn.role, "content": self._content(turn)} for turn in messages]
        try:
            text = self._templated(conversation)
        except PolicyError:
            if conversation[0]["role"] != "system" or len(conversation) < 2:
                raise
            # Some templates know no system turn: what it says then opens the first user turn.
            system, first, *rest = conversation
            content = [*system["content"], {"type": "text", "text": "\n\n"}, *first["content"]]
            text = self._templated([{"role": first["role"], "content": content}, *rest])
        if (found := text.count(self.image_token)) != images:
            raise PolicyError(
                f"Expected the chat template of {self.profile.name} to place {images} images, it placed {found}: "
                "this model's template cannot carry such a conversation."
            )
        return text

    def _templated(self, conversation: list[dict[str, Any]]) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return str(self.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))
        except (TemplateError, ValueError) as error:
            raise PolicyError(f"The chat template of {self.profile.name} refused the conversation: {error}") from error

    def _content(self, turn: Message) -> list[dict[str, str]]:
        content: list[dict[str, str]] = []
        written = ""
        # Neighbouring texts are joined first: two harmless halves can make one control token.
        for part in (*turn.parts, None):
            if isinstance(part, TextPart):
                written += part.text
                continue
            if written:
                content.append({"type": "text", "text": self.control.neutral(written)})
                written = ""
            if part is not None:
                content.append({"type": "image"})
        return content


def _key(images: Sequence[Image.Image]) -> int:
    """A negative number made of the pixels and sizes of images: what stands for them in the keys."""
    digest = hashlib.blake2b(digest_size=8)
    for image in images:
        digest.update(f"{image.width}x{image.height}".encode())
        digest.update(image.tobytes())
    return -1 - (int.from_bytes(digest.digest(), "little") >> 2)
