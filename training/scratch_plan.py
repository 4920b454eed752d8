"""What a training from scratch would be: the model built, its memory, what a step holds, the command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sifthinker.training.launch import Machines, command_of
from sifthinker.training.planner import SLACK, Part, Plan, Workload
from sifthinker.training.recipes import fitted


def plan_scratch(settings: dict[str, Any], arguments: Sequence[str], processes: int) -> tuple[Plan, str, list[str]]:
    """The plan of a recipe with `trainer: scratch`, what a step holds in words, and the command.

    Raises:
        UsageError: the recipe does not fit.
    """
    from sifthinker.training.scratch.model import CROP_PX, DEPTH_PX, RGB_PX, TOKEN_PX, build_model
    from sifthinker.training.scratch.pictures import view_scene
    from sifthinker.training.scratch.recipe import ScratchRecipe
    from sifthinker.training.scratch.stream import corpus
    from sifthinker.training.scratch.tokenizer import build_tokenizer

    recipe = fitted(ScratchRecipe, settings)
    parameters = sum(p.numel() for p in build_model(build_tokenizer(corpus()), recipe.model).parameters())
    samples = recipe.samples
    asked = samples.direct + samples.internal + samples.tools + samples.ground
    images = (RGB_PX // TOKEN_PX) ** 2 + (DEPTH_PX // TOKEN_PX) ** 2
    crops = samples.tools * 2 * (CROP_PX // TOKEN_PX) ** 2
    tokens = images + crops + asked * 120
    size, places = recipe.model, recipe.scenes * tokens
    layer = places * (6 * size.hidden + 4 * size.heads * size.head_dim + 4 * size.mlp) * 2
    seen = recipe.scenes * (images + crops) * 4
    vision = seen * (8 * size.vision_hidden + 12 * size.vision_hidden) * size.vision_layers * 2
    parts = [
        Part(name="weights", bytes=6.0 * parameters, why="float32, and the bfloat16 copy that is multiplied by"),
        Part(name="gradients", bytes=4.0 * parameters, why="float32"),
        Part(name="optimiser", bytes=12.0 * parameters, why="moments, and the moving average of the weights"),
        Part(
            name="activations", bytes=float(layer * size.layers + vision), why=f"{places:,} tokens, every tensor kept"
        ),
    ]
    kept, picture = recipe.scenes_kept(processes), view_scene(0).render
    one = sum(array.nbytes for array in (picture.rgb, picture.depth, picture.ids))
    total = sum(part.bytes for part in parts)
    parts.append(Part(name="scenes", bytes=float(kept * one), why=f"{kept:,} kept, to be asked again"))
    parts.append(Part(name="slack", bytes=SLACK * total, why=f"{SLACK:.0%} of the others"))
    plan = Plan(
        workload=Workload(model="scratch", dtype="float32", gpus=processes, batch=recipe.scenes),
        source="built from random weights",
        parameters=parameters,
        trainable=parameters,
        sequence_tokens=tokens,
        tokens_per_step=tokens * recipe.scenes * processes,
        samples_per_step=recipe.scenes * processes,
        parts=parts,
    )
    step = f"A step: {plan.samples_per_step} scenes of {asked} branches each, about {plan.tokens_per_step:,} tokens."
    budget = (
        f"{recipe.vision_minutes:g} minutes on the vision tower, {recipe.find_minutes:g} on finding what is named, "
        f"then {recipe.minutes:g} on everything."
    )
    return plan, f"{step} {budget}", command_of(arguments, Machines(processes=processes), Path())
