"""A run looked at before it is started: the model on the meta device, the first batch, the plan, the command.

The first batch goes through the model's own processor where that is on this machine; else its size is estimated from
the words and the published rule by which the processor resizes, and the report says so.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, Field

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.files import expanded
from sifthinker.policy.load import EMBEDDED
from sifthinker.policy.messages import ImageKind, Message, images_of
from sifthinker.training.planner import Plan, plan
from sifthinker.training.sft.recipe import SftRecipe
from sifthinker.training.sizes import ModelShape, config_of, published, shape_of

ENCODED = "encoded by the model's processor"
ESTIMATED = "estimated: the model's processor is not on this machine"
_PIECE = re.compile(r"\d|[^\W\d_]+|[^\s\w]+|_+")


class Lengths(BaseModel):
    """How long the sequences are that a run begins with."""

    how: str = Field(description="Whether they were encoded or estimated.")
    longest: int = Field(description="Tokens of the longest sequence, its images included.")
    image_tokens: int = Field(description="Of one sequence, the most there are.")
    images: int = Field(description="In one sequence, the most there are.")

    def text_tokens(self) -> int:
        """Of the longest sequence, without its images."""
        return max(1, self.longest - self.image_tokens)

    def image_pixels(self, shape: ModelShape) -> int:
        """Of one image as the processor hands it on."""
        return self.image_tokens // max(1, self.images) * (shape.patch_px * shape.merge) ** 2


class FirstBatch(Lengths):
    """The first samples of a run, and how large they are."""

    samples: list[str] = Field(description="Each as record:mode.")
    sequences: int
    answer_tokens: int = Field(description="Of one sequence that are learnt, the most there are.")


class DryRun(BaseModel):
    """What a run would be."""

    plan: Plan
    batch: FirstBatch | None = Field(description="None: no data was given.")
    records: int | None = None
    asked: int | None = None
    steps: int | None = None


def dry_run(recipe: SftRecipe, *, hub: bool = False) -> DryRun:
    """Build everything of a run but its weights.

    Args:
        recipe: with or without data.
        hub: ask the hub for the model's config even where one comes with the package.

    Raises:
        PolicyLoadError: no config of the model. DataError: records that cannot be read.
    """
    shape = shape_of(recipe.model, hub=hub)
    if recipe.data is None:
        return DryRun(plan=plan(recipe.workload(), shape), batch=None)
    from sifthinker.training.sft.run import material_of
    from sifthinker.training.sft.samples import told
    from sifthinker.training.sft.schedule import Schedule

    material = material_of(recipe)
    schedule = Schedule(len(material.train), recipe)
    visits = [schedule.visit(row) for row in range(min(recipe.batch, len(schedule)))]
    indices = [material.train[visit.index] for visit in visits]
    names = [f"{material.ids[index]}:{visit.mode}" for index, visit in zip(indices, visits, strict=True)]
    processor, profile, model = processor_of(recipe, shape, hub=hub)
    pairs = zip(indices, visits, strict=True)
    conversations = [
        told(material.rows[index], visit, profile, shuffle=recipe.shuffle_options) for index, visit in pairs
    ]
    if processor is None:
        batch = _estimated(conversations, names, profile, shape)
    else:
        batch = _encoded(conversations, names, model, processor, profile)
    known = {
        "text_tokens": batch.text_tokens(),
        "answer_tokens": max(1, batch.answer_tokens),
        "images": batch.images,
    }
    if batch.images:
        known["image_pixels"] = batch.image_pixels(shape)
    made = plan(recipe.workload(**known), shape)
    steps = -(-len(schedule) // made.samples_per_step)
    steps = min(steps, recipe.max_steps or steps)
    return DryRun(plan=made, batch=batch, records=len(material.train), asked=len(material.asked), steps=steps)


def processor_of(recipe: SftRecipe, shape: ModelShape, *, hub: bool) -> tuple[Any, PolicyProfile, Any]:
    """The model's processor where it is at hand (else None), the profile, and the model on the meta device."""
    import torch
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from sifthinker.policy.profiles import profile_of_family, profile_of_folder
    from sifthinker.training.sft.start import limit_pixels, trained_profile

    folder = EMBEDDED if recipe.model == "embedded" else expanded(recipe.model)
    config, _ = config_of(recipe.model, hub=hub)
    cached = not folder.is_dir() and isinstance(try_to_load_from_cache(recipe.model, "tokenizer_config.json"), str)
    if not (folder.is_dir() or cached or hub):
        known = published().get(recipe.model, {}).get("processor", {})
        size = {
            "vision_patch_px": shape.patch_px * shape.merge,
            "min_image_pixels": known.get("min_pixels"),
            "max_image_pixels": recipe.max_pixels or known.get("max_pixels"),
        }
        sizes = {"rgb_px": recipe.rgb_px, "depth_px": recipe.depth_px, "crop_px": recipe.crop_px}
        return None, PolicyProfile(name=recipe.model, dialect="sif", **size, **sizes), None
    source = str(folder) if folder.is_dir() else recipe.model
    processor = AutoProcessor.from_pretrained(source)
    if recipe.max_pixels is not None:
        limit_pixels(processor, recipe.max_pixels)
    start = (profile_of_folder(folder) if folder.is_dir() else None) or profile_of_family(
        recipe.model, config.model_type
    )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return processor, trained_profile(start, processor, recipe, name=recipe.name or "dry-run"), model


def _encoded(
    conversations: list[list[Message]], names: list[str], model: Any, processor: Any, profile: PolicyProfile
) -> FirstBatch:
    from sifthinker.policy.local import LocalPolicy
    from sifthinker.training.sft.encoding import IGNORED, TurnEncoder

    encoder = LocalPolicy(model, processor, profile, cache_bytes=0).encoder
    turns = TurnEncoder(encoder)
    sequences = [sequence for conversation in conversations for sequence in turns.encode(conversation)]
    return FirstBatch(
        how=ENCODED,
        samples=names,
        sequences=len(sequences),
        longest=max(len(one.input_ids) for one in sequences),
        image_tokens=max(int((one.input_ids == encoder.image_token_id).sum()) for one in sequences),
        answer_tokens=max(int((one.labels != IGNORED).sum()) for one in sequences),
        images=max(len(images_of(conversation)) for conversation in conversations),
    )


def _estimated(
    conversations: list[list[Message]], names: list[str], profile: PolicyProfile, shape: ModelShape
) -> FirstBatch:
    texts, said, pictures = [], [], []
    for conversation in conversations:
        texts.append(sum(estimated_tokens(turn.text) + 5 for turn in conversation))
        said.append(sum(estimated_tokens(turn.text) + 1 for turn in conversation if turn.role == "assistant"))
        pictures.append(
            sum(image_tokens(part.image.size, part.kind, profile, shape) for part in images_of(conversation))
        )
    return FirstBatch(
        how=ESTIMATED,
        samples=names,
        sequences=len(conversations),
        longest=max(text + picture for text, picture in zip(texts, pictures, strict=True)),
        image_tokens=max(pictures),
        answer_tokens=max(said),
        images=max(len(images_of(conversation)) for conversation in conversations),
    )


def estimated_tokens(text: str) -> int:
    """About how many tokens a text is for the tokenizers of the Qwen family: each digit one, a word one or two."""
    return sum(1 + len(piece) // 8 if piece[0].isalpha() else 1 for piece in _PIECE.findall(text))


def image_tokens(size: tuple[int, int], kind: ImageKind, profile: PolicyProfile, shape: ModelShape) -> int:
    """How many tokens an image (width, height) becomes, its two marks included."""
    shown = profile.shown_size(size, kind)
    as_rgb = profile.model_copy(update={"rgb_px": None})
    width, height = as_rgb.resized_size(shown) or shown
    return shape.image_tokens(width * height) + 2
