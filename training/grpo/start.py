"""What a GRPO run begins with: TRL's arguments, the model, its processor, the profile of what it is to become."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.errors import PolicyLoadError, UsageError
from sifthinker.policy.files import expanded
from sifthinker.training.grpo.recipe import GrpoRecipe
from sifthinker.training.grpo.sharing import can_share
from sifthinker.training.launch import launched, take_one_gpu
from sifthinker.training.sft import start as sft_start
from sifthinker.training.sft.recipe import SftRecipe
from sifthinker.training.tracking import tracking


def arguments(recipe: GrpoRecipe, out: Path) -> GRPOConfig:
    """TRL's arguments of a run.

    Raises:
        UsageError: one that does not exist, or values that do not go together.
    """
    given: dict[str, Any] = {"logging_steps": 1, "save_steps": 50, **tracking(recipe.report, out), **recipe.trl}
    if recipe.revision is not None and recipe.lora is None and recipe.trl.get("beta"):
        given["model_init_kwargs"] = {"revision": recipe.revision}  # TRL loads the reference of the KL term itself
    if recipe.on_cpu:
        given = {"use_cpu": True, "dataloader_pin_memory": False, "bf16": False, **given}
        given.setdefault("ddp_backend", "gloo" if launched() else None)
    if recipe.lora is not None and recipe.machines.zero == 3:
        given.setdefault("gradient_checkpointing_kwargs", {"use_reentrant": True})
    settings = _config(
        output_dir=str(out / "checkpoints"),
        seed=recipe.seed,
        remove_unused_columns=False,
        save_strategy="steps",
        disable_tqdm=True,
        log_multimodal=False,  # TRL would gather every image of every step
        **given,
    )
    take_one_gpu(settings)
    return settings


def check_arguments(recipe: GrpoRecipe) -> GRPOConfig:
    """TRL's arguments of all processes together, to see that it takes them, on a machine that need not have its GPUs.

    Raises:
        UsageError: one that does not exist, or values that do not go together.
    """
    here = {"use_cpu": True, "bf16": False, "report_to": []}
    batch = int(recipe.trl.get("per_device_train_batch_size", 8)) * recipe.machines.processes  # as if one had them all
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of names; the run will say it
        return _config(
            output_dir="unused", seed=recipe.seed, **{**recipe.trl, **here, "per_device_train_batch_size": batch}
        )


def bar_images(settings: GRPOConfig, processor: Any) -> None:
    """Have vLLM never say a token that stands for an image or a video: it would have no features, and end the run.

    Where transformers samples, TRL sees to it itself.
    """
    barred = {getattr(processor, name, None): -100.0 for name in ("image_token_id", "video_token_id")}
    given = dict(settings.generation_kwargs or {})
    bias = {token: value for token, value in barred.items() if token is not None}
    settings.generation_kwargs = {**given, "logit_bias": {**(given.get("logit_bias") or {}), **bias}}


def _config(**given: Any) -> GRPOConfig:
    try:
        return GRPOConfig(**given)
    except TypeError as error:
        raise UsageError(f"The recipe's trl: {str(error).rpartition('__init__() ')[2]}.") from error
    except (ValueError, ImportError) as error:
        raise UsageError(f"The recipe's trl: {str(error).rstrip('.')}.") from error


def load_start(recipe: GrpoRecipe, *, name: str) -> tuple[Any, Any, PolicyProfile]:
    """The model that is trained, on the CPU; its processor; the profile of the trained policy.

    Raises:
        PolicyLoadError: nothing usable at the recipe's `policy`. UsageError: it cannot be trained as the recipe says.
    """
    check_start(recipe)
    adapter = sft_start.is_adapter(expanded(recipe.policy))
    if adapter and recipe.lora is None and float(recipe.trl.get("beta", 0.0)):
        other = "" if recipe.machines.zero == 3 else ", or train with beta: 0"  # ZeRO-3 cannot begin with an adapter
        raise UsageError(
            f"{recipe.policy} is an adapter, and the KL term of a full training would be against its base model: "
            f"`sifthinker merge` it first{other}."
        )
    model, processor, profile = sft_start.load_start(as_sft(recipe), name=name)
    if recipe.share_prompts and not can_share(model):
        raise UsageError(
            f"{recipe.policy} is a {model.config.model_type}, whose prompts cannot be shared: say share_prompts: false."
        )
    processor.tokenizer.padding_side = "left"
    return model, processor, profile


def check_start(recipe: GrpoRecipe) -> None:
    """See that a folder named as the start is there, before anything is launched.

    Raises:
        PolicyLoadError: it is not.
    """
    name = recipe.policy
    is_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if name != "embedded" and is_path and not expanded(name).is_dir():
        raise PolicyLoadError(f"There is no folder {name}: name one that holds a policy, or a hub id OWNER/NAME.")


def as_sft(recipe: GrpoRecipe) -> SftRecipe:
    """What loading a start asks of a recipe, in the form that both stages share."""
    return SftRecipe(
        model=recipe.policy,
        revision=recipe.revision,
        lora=recipe.lora,
        train_vision=recipe.train_vision,
        attention=recipe.attention,
        max_pixels=recipe.max_pixels,
        machines=recipe.machines,
    )


def available_gpus() -> int:
    """How many GPUs there are."""
    return int(torch.cuda.device_count())
