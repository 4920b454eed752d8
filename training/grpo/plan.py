"""What a GRPO recipe needs before it is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sifthinker.training.grpo.recipe import GrpoRecipe
from sifthinker.training.planner import Generation, LoraSize, Plan, Workload, plan
from sifthinker.training.sizes import ModelShape, shape_of


@dataclass(frozen=True)
class Prompts:
    """How large prompts are.

    Attributes:
        text_tokens: of a prompt without its images.
        images: in a prompt.
        image_tokens: of all of them; None: about what `image_pixels` come to.
        image_pixels: of one image as the processor hands it on.
    """

    text_tokens: int
    images: int
    image_tokens: int | None
    image_pixels: int


def workload(recipe: GrpoRecipe, shape: ModelShape, seen: Prompts | None = None) -> Workload:
    """A recipe as the planner takes it, with its prompts as they were seen, or else as it assumes them."""
    trl, machines = recipe.trl, recipe.machines
    batch = int(trl.get("per_device_train_batch_size", 8))
    accumulate = int(trl.get("gradient_accumulation_steps", 1))
    completion = int(trl.get("max_completion_length") or 256)
    pixels = recipe.max_pixels or recipe.plan.image_pixels
    seen = seen or Prompts(text_tokens=recipe.plan.prompt_tokens, images=2, image_tokens=None, image_pixels=pixels)
    image_tokens = 2 * shape.image_tokens(pixels) if seen.image_tokens is None else seen.image_tokens
    shared = int(trl.get("num_generations", 8)) if recipe.share_prompts else 1  # of so many one carries the prompt
    engine: Literal["transformers", "vllm-colocate", "vllm-server"] = "transformers"
    if trl.get("use_vllm"):
        engine = "vllm-server" if trl.get("vllm_mode") == "server" else "vllm-colocate"
    half = bool(trl.get("bf16", not recipe.on_cpu))
    return Workload(
        model=recipe.plan.model or recipe.policy,
        lora=LoraSize(rank=recipe.lora.rank, vision=recipe.lora.vision) if recipe.lora else None,
        train_vision=recipe.train_vision,
        dtype="bfloat16" if half else "float32",
        gpus=machines.processes,
        gpu_gb=machines.gpu_gb,
        zero=machines.zero,
        batch=batch,
        accumulate=accumulate,
        text_tokens=seen.text_tokens // shared + completion,
        answer_tokens=completion,
        images=seen.images,
        image_pixels=max(1, seen.image_pixels // shared),
        checkpointing=bool(trl.get("gradient_checkpointing", True)),
        attention=recipe.attention,
        optimizer="sgd" if str(trl.get("optim", "")) == "sgd" else "adamw",
        reference=recipe.lora is None and float(trl.get("beta", 0.0)) > 0,
        generation=Generation(
            engine=engine,
            sequences=batch * int(trl.get("steps_per_generation") or accumulate),
            tokens=seen.text_tokens + image_tokens + completion,
            share=float(trl.get("vllm_gpu_memory_utilization", 0.3)),
        ),
    )


def plan_of(recipe: GrpoRecipe, *, hub: bool = False) -> Plan:
    """The plan of a recipe.

    Args:
        recipe: what is planned, with its prompts as it assumes them (`dry_run` looks at them).
        hub: ask the hub for the model's config even where one comes with the package.

    Raises:
        PolicyLoadError: no config of its model can be had.
    """
    shape = shape_of(recipe.plan.model or recipe.policy, hub=hub)
    return plan(workload(recipe, shape), shape)
