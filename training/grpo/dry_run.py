"""A GRPO run looked at before it is started: the questions of its first round as the policy is shown them, the plan."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.files import expanded
from sifthinker.policy.load import EMBEDDED
from sifthinker.policy.messages import ImageKind
from sifthinker.training.grpo.data import Row, load_rows
from sifthinker.training.grpo.order import order_of
from sifthinker.training.grpo.plan import Prompts, workload
from sifthinker.training.grpo.recipe import GrpoRecipe, ScenesConfig
from sifthinker.training.grpo.start import as_sft, check_arguments
from sifthinker.training.planner import Plan, plan
from sifthinker.training.sft.dry_run import ENCODED, ESTIMATED, Lengths, estimated_tokens, image_tokens, processor_of
from sifthinker.training.sft.start import is_adapter
from sifthinker.training.sizes import ModelShape, shape_of

KINDS: tuple[ImageKind, ...] = ("rgb", "depth")
"""A prompt's images, in their order."""


class FirstRound(Lengths):
    """The questions that a run samples first, and how large their prompts are."""

    questions: list[str] = Field(description="Their ids.")
    group: int = Field(description="Completions of a question.")


class DryRun(BaseModel):
    """What a run would be."""

    plan: Plan
    first: FirstRound | None = Field(description="None: the recipe's data is not there (yet).")
    rows: int | None = None
    steps: int | None = None


def dry_run(recipe: GrpoRecipe, *, hub: bool = False) -> DryRun:
    """Build everything of a run but its weights.

    Args:
        recipe: what to look at. Where its start is yet to be made, `plan.model` stands for it.
        hub: ask the hub for the model's config even where one comes with the package.

    Raises:
        UsageError: arguments that TRL does not take. PolicyLoadError: no config of the model. DataError: questions that
            cannot be read.
    """
    args = check_arguments(recipe)
    shape = shape_of(recipe.plan.model or recipe.policy, hub=hub)
    if not isinstance(recipe.data, ScenesConfig) and not recipe.data.path.is_dir():
        return DryRun(plan=plan(workload(recipe, shape), shape), first=None)
    processor, profile, _ = processor_of(as_sft(recipe).model_copy(update={"model": _known(recipe)}), shape, hub=hub)
    rows = load_rows(recipe.data, profile, resized=args.use_vllm, seed=recipe.seed)
    order = order_of(len(rows), args, epochs=args.num_train_epochs)
    chosen = [rows[index] for index in order.first_round()]
    if processor is None:
        sizes = [_estimated(row, profile, shape) for row in chosen]
    else:
        sizes = [_encoded(row, processor) for row in chosen]
    first = FirstRound(
        how=ESTIMATED if processor is None else ENCODED,
        questions=[str(row["id"]) for row in chosen],
        group=order.group,
        longest=max(text + pictures for text, pictures in sizes),
        image_tokens=max(pictures for _, pictures in sizes),
        images=max(len(row["images"]) for row in chosen),
    )
    made = plan(workload(recipe, shape, _prompts(first, shape)), shape)
    steps = args.max_steps if args.max_steps > 0 else order.rounds * order.fetches // args.gradient_accumulation_steps
    return DryRun(plan=made, first=first, rows=len(rows), steps=steps)


def _known(recipe: GrpoRecipe) -> str:
    """The model whose processor and profile are looked at: the start, or what stands for it."""
    folder = EMBEDDED if recipe.policy == "embedded" else expanded(recipe.policy)
    there = folder.is_dir() and not is_adapter(folder)
    return recipe.policy if there else recipe.plan.model or recipe.policy


def _prompts(first: FirstRound, shape: ModelShape) -> Prompts:
    return Prompts(
        text_tokens=first.text_tokens(),
        images=first.images,
        image_tokens=first.image_tokens,
        image_pixels=max(1, first.image_pixels(shape)),
    )


def _encoded(row: Row, processor: Any) -> tuple[int, int]:
    """A prompt's tokens (text, images), as TRL makes them."""
    from trl.data_utils import prepare_multimodal_messages

    turns = prepare_multimodal_messages(row["prompt"], images=row["images"])
    made = processor.apply_chat_template([turns], add_generation_prompt=True, tokenize=True, return_dict=True)
    ids = list(made["input_ids"][0])
    pictures = ids.count(processor.image_token_id)
    return len(ids) - pictures, pictures


def _estimated(row: Row, profile: PolicyProfile, shape: ModelShape) -> tuple[int, int]:
    words = sum(estimated_tokens(part.get("text", "")) for turn in row["prompt"] for part in turn["content"])
    sizes = zip(row["images"], KINDS, strict=False)
    return words + 10, sum(image_tokens(image.size, kind, profile, shape) for image, kind in sizes)
