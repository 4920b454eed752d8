"""From a training run to a folder that `load_policy` and transformers load."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor, Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import DataError, UsageError
from sifthinker.policy.profiles import write_profile
from sifthinker.training.checkpoints import TORN
from sifthinker.training.folders import saving
from sifthinker.training.scratch.card import write_card
from sifthinker.training.scratch.model import CROP_PX, DEPTH_PX, MERGE, PATCH_PX, RGB_PX, TOKEN_PX, build_model
from sifthinker.training.scratch.recipe import ScratchRecipe
from sifthinker.training.scratch.samples import DECIMALS
from sifthinker.training.scratch.stream import corpus
from sifthinker.training.scratch.tokenizer import CHAT_TEMPLATE, build_tokenizer

PROFILE = PolicyProfile(
    name="embedded",
    family="qwen3_vl",
    dialect="sif",
    box_space=BoxSpace.UNIT,
    box_decimals=DECIMALS,
    rgb_px=RGB_PX,
    depth_px=DEPTH_PX,
    crop_px=CROP_PX,
    domain="block world",
    follows_conversations=False,  # trained on single questions
    vision_patch_px=TOKEN_PX,
    min_image_pixels=TOKEN_PX**2,
    max_image_pixels=RGB_PX**2,
)


def export_policy(run: Path, out: Path, *, ema: bool = True, scores: Path | None = None) -> None:
    """Write weights (bfloat16), tokenizer, processor and profile of a run's checkpoint.

    Args:
        run: the run's folder.
        out: where to write.
        ema: the moving average of the weights instead of the last ones.
        scores: what `sifthinker train score --json` wrote, for the model card.

    Raises:
        UsageError: the run has no checkpoint. DataError: it is damaged, or the folder cannot be written.
    """
    path = run / "checkpoint.pt"
    if not path.is_file() and (run / "run.json").is_file():
        raise UsageError(
            f"{run} is no training from scratch: its policy is {run / 'policy'}, or `sifthinker merge {run} --out "
            "FOLDER` puts its adapter into the weights."
        )
    if not path.is_file():
        raise UsageError(f"No checkpoint in {str(run)!r}: it is written a few minutes after training has begun.")
    try:
        state = torch.load(path, weights_only=True)
        saved = state["ema" if ema else "params"]
    except TORN as error:
        raise DataError(f"{path} is no checkpoint of a training from scratch, or is damaged.") from error
    tokenizer = build_tokenizer(corpus())
    recipe_path = run / "recipe.json"
    recipe = ScratchRecipe.model_validate_json(recipe_path.read_text()) if recipe_path.is_file() else ScratchRecipe()
    model = build_model(tokenizer, recipe.model)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), saved, strict=False):  # the auxiliary head comes after
            parameter.copy_(value)
    with saving(out, "The checkpoint is kept. "):
        out.mkdir(parents=True, exist_ok=True)
        model.to(torch.bfloat16).save_pretrained(out)
        _write_rest(tokenizer, run, out, scores=scores, parameters=sum(p.numel() for p in model.parameters()))


def _write_rest(
    tokenizer: PreTrainedTokenizerFast, run: Path, out: Path, *, scores: Path | None, parameters: int
) -> None:
    """Everything beside the weights."""
    tokenizer.chat_template = CHAT_TEMPLATE
    image = Qwen2VLImageProcessor(
        patch_size=PATCH_PX,
        merge_size=MERGE,
        temporal_patch_size=2,
        size={"shortest_edge": TOKEN_PX**2, "longest_edge": RGB_PX**2},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    video = Qwen3VLVideoProcessor(patch_size=PATCH_PX, merge_size=MERGE, temporal_patch_size=2)
    processor = Qwen3VLProcessor(image, tokenizer, video, chat_template=CHAT_TEMPLATE)
    processor.save_pretrained(out)
    write_profile(out, PROFILE)
    if (run / "log.jsonl").is_file():
        write_card(run, out, scores=scores, parameters=parameters)
