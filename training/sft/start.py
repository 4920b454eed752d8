"""What a run begins with: the model in the right type, its processor, and the profile of what it is to become."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import PolicyLoadError, UsageError
from sifthinker.policy.load import EMBEDDED
from sifthinker.policy.profiles import profile_of_family, profile_of_folder
from sifthinker.policy.weights import load_weights
from sifthinker.training.sft.recipe import Lora, SftRecipe
from sifthinker.training.sizes import VISION


def load_start(recipe: SftRecipe, *, name: str) -> tuple[Any, Any, PolicyProfile]:
    """The model that is trained, on the CPU; its processor; the profile of the trained policy.

    Where bfloat16 is asked for, the weights have it under an adapter, and under DeepSpeed, which keeps a master copy of
    what is trained. Otherwise all of them, a frozen vision tower's too, are in float32.

    Raises:
        PolicyLoadError: nothing usable at the recipe's `model`. UsageError: an adapter, where another is to be trained.
    """
    source = str(EMBEDDED) if recipe.model == "embedded" else os.path.expanduser(recipe.model)
    if recipe.lora is not None and is_adapter(Path(source)):
        raise UsageError(
            f"{recipe.model} is an adapter, and a new adapter of what it was merged into would be one of weights that "
            f"are nowhere on disk: `sifthinker merge {recipe.model} --out MERGED` first, and begin with that."
        )
    half = not recipe.on_cpu and recipe.machines.precision == "bf16"
    elsewhere = recipe.lora is not None or recipe.machines.zero > 0  # steps are made on an adapter, or DeepSpeed's copy
    dtype = torch.bfloat16 if half and elsewhere else torch.float32
    load = _load_sharded if recipe.machines.zero == 3 else _load_whole
    model, processor, profile = load(source, recipe, dtype)
    if recipe.max_pixels is not None:
        limit_pixels(processor, recipe.max_pixels)
    if recipe.lora is None:
        for parameter_name, parameter in model.named_parameters():
            sees = any(part in VISION for part in parameter_name.split("."))
            parameter.requires_grad_(recipe.train_vision or not sees)
    return model, processor, trained_profile(profile, processor, recipe, name=name)


def _load_whole(source: str, recipe: SftRecipe, dtype: torch.dtype) -> tuple[Any, Any, PolicyProfile]:
    return load_weights(
        source,
        name=None,
        adapter=None,
        device="cpu",
        dtype=dtype,
        attn=recipe.attention,
        quantization=None,
        revision=recipe.revision,
        trust_remote_code=False,
        declared={},
    )


def _load_sharded(source: str, recipe: SftRecipe, dtype: torch.dtype) -> tuple[Any, Any, PolicyProfile]:
    """As `_load_whole`; ZeRO-3 shards the weights as they are read, and they must not be moved afterwards.

    Raises:
        UsageError: the source is an adapter.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, revision = Path(source), recipe.revision or "main"
    if (folder / "adapter_config.json").is_file():  # transformers would load it, whatever else is there
        raise UsageError(f"{source} is an adapter, which ZeRO-3 cannot begin with: `sifthinker merge` it first.")
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, attn_implementation=recipe.attention, revision=revision, use_safetensors=True
        )
        processor = AutoProcessor.from_pretrained(source, revision=revision)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise PolicyLoadError(f"{source} could not be loaded: {str(error).splitlines()[0]}") from error
    # transformers (5.23) keeps renamings under DeepSpeed that no weight had needed, and would apply them when it saves:
    # model.language_model.model.layers, which no model has
    renamings = getattr(model, "_weight_conversions", None) or ()
    model._weight_conversions = [one for one in renamings if one.was_used()]
    profile = profile_of_folder(folder) if folder.is_dir() else None
    return model, processor, profile or profile_of_family(source, model.config.model_type)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not a model."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def lora_config(lora: Lora) -> Any:
    """peft's configuration of an adapter on every linear layer of the language model.

    Raises:
        UsageError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise UsageError("LoRA needs peft: pip install 'sifthinker[train]'.") from error
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        exclude_modules=None if lora.vision else rf".*\b({'|'.join(VISION)})\b.*",
        task_type="CAUSAL_LM",
    )


def limit_pixels(processor: Any, most: int) -> None:
    """Have the processor shrink images to at most so many pixels, now and when it is loaded again."""
    images = processor.image_processor
    least = min(int(dict(images.size).get("shortest_edge") or 1), most)
    images.size = type(images.size)(shortest_edge=least, longest_edge=most)


def count_parameters(model: Any, *, trained: bool = False) -> int:
    """How many parameters a model has, or trains; ZeRO-3 shows them empty and tells their size elsewhere."""
    chosen = (p for p in model.parameters() if p.requires_grad or not trained)
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in chosen)


def trained_profile(start: PolicyProfile, processor: Any, recipe: SftRecipe, *, name: str) -> PolicyProfile:
    """The profile of a policy that was trained on traces: it speaks the grammar, its boxes are shares of the image.

    What the start declares beside that (sizes, domain) stays; a recipe's sizes go before it.
    """
    images = processor.image_processor
    size = dict(getattr(images, "size", None) or {})
    patch = int(getattr(images, "patch_size", 0) or 0) * int(getattr(images, "merge_size", 0) or 0)
    resize = {
        "vision_patch_px": patch or None,
        "min_image_pixels": size.get("shortest_edge") if patch else None,
        "max_image_pixels": size.get("longest_edge") if patch else None,
    }
    sizes = {"rgb_px": recipe.rgb_px, "depth_px": recipe.depth_px, "crop_px": recipe.crop_px}
    trained: dict[str, Any] = {
        "name": name,
        "dialect": "sif",
        "box_space": BoxSpace.UNIT,
        "box_decimals": start.box_decimals if start.dialect == "sif" else 3,
        "notes": (),
        "follows_conversations": False,  # trained on single questions
        **{field: value for field, value in {**resize, **sizes}.items() if value is not None},
    }
    return start.model_copy(update=trained)
