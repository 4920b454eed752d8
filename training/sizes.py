"""How large a model is, without its weights: counted on the meta device from its config.

The configs of the public models that the recipes name stand in `recipes/published.json`, with where they were read, so
that a run can be planned with no network. A folder's own config, or one fetched from the hub, goes before them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from sifthinker.policy.errors import PolicyLoadError
from sifthinker.policy.files import expanded
from sifthinker.policy.load import EMBEDDED

VISION = ("visual", "vision_tower", "vision_model")
"""What the vision side of a model is called by the families that transformers has."""


@dataclass(frozen=True)
class ModelShape:
    """What memory follows from. Widths in elements; counts in parameters."""

    name: str
    source: str
    """Where the config came from, in words."""
    parameters: int
    vision_parameters: int
    largest_block: int
    """Parameters of the largest block that ZeRO-3 gathers at once: a layer, the embeddings or the head."""
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    normed_heads: bool
    """Whether queries and keys are normed, in float32."""
    vocabulary: int
    vision_layers: int
    vision_hidden: int
    vision_mlp: int
    patch_px: int
    merge: int
    linears: tuple[tuple[int, int], ...]
    """(in, out) of every linear layer of the language model, the head left out: what LoRA on all of them adapts."""
    vision_linears: tuple[tuple[int, int], ...]

    def lora_parameters(self, rank: int, *, vision: bool = False) -> int:
        """Parameters of a LoRA of that rank on every linear layer: rank × (in + out) each."""
        linears = (*self.linears, *self.vision_linears) if vision else self.linears
        return sum(rank * (inside + outside) for inside, outside in linears)

    def image_tokens(self, pixels: int) -> int:
        """Tokens that an image of so many pixels becomes in the language model."""
        return max(1, round(pixels / (self.patch_px * self.merge) ** 2))


def published() -> dict[str, Any]:
    """The public models whose configs come with the package, by hub id."""
    text = (resources.files("sifthinker.training.recipes") / "published.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def config_of(model: str, *, hub: bool = False) -> tuple[Any, str]:
    """The config of a model and where it came from.

    Args:
        model: "embedded", a folder or a hub id.
        hub: ask the hub even where a published config comes with the package.

    Raises:
        PolicyLoadError: a folder without a config, or a hub id that is neither published here nor to be had.
    """
    from transformers import AutoConfig

    folder = EMBEDDED if model == "embedded" else expanded(model)
    known = published()
    if folder.is_dir():
        name, said = str(folder), f"config.json of {model}"
    elif model in known and not hub:
        config = dict(known[model]["config"])
        said = f"a config kept here, from {known[model]['source']}"
        return AutoConfig.for_model(config.pop("model_type"), **config), said
    else:
        name, said = model, "config.json from the hub"
    try:
        return AutoConfig.from_pretrained(name), said
    except (OSError, ValueError, KeyError) as error:
        raise PolicyLoadError(
            f"No config of {model!r}: name a folder with a config.json, a model of the hub that can be reached, or one "
            f"whose config comes with the package ({', '.join(known)})."
        ) from error


def shape_of(model: str, *, hub: bool = False) -> ModelShape:
    """The shape of a model, built on the meta device: no weights, no memory. Arguments and errors: `config_of`."""
    import torch
    from transformers import AutoModelForImageTextToText

    config, source = config_of(model, hub=hub)
    try:
        with torch.device("meta"):
            built = AutoModelForImageTextToText.from_config(config)
    except ValueError as error:
        raise PolicyLoadError(f"{model} is no image-text-to-text model ({type(config).__name__}).") from error
    text, vision = config.get_text_config(), config.vision_config
    heads = int(text.num_attention_heads)
    linears: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    head = built.get_output_embeddings()
    for name, module in built.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            linears[_sees(name)].append((module.in_features, module.out_features))
    return ModelShape(
        name=model,
        source=source,
        parameters=sum(p.numel() for p in built.parameters()),
        vision_parameters=sum(p.numel() for name, p in built.named_parameters() if _sees(name)),
        largest_block=_largest_block(built),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        mlp=int(text.intermediate_size),
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        normed_heads=any(name.endswith(".q_norm") for name, _ in built.named_modules()),
        vocabulary=int(text.vocab_size),
        vision_layers=_first(vision, "depth", "num_hidden_layers"),
        vision_hidden=_first(vision, "hidden_size"),
        vision_mlp=_first(vision, "intermediate_size"),
        patch_px=_first(vision, "patch_size"),
        merge=_first(vision, "spatial_merge_size", default=1),
        linears=tuple(linears[False]),
        vision_linears=tuple(linears[True]),
    )


def _sees(name: str) -> bool:
    return any(part in name.split(".") for part in VISION)


def _first(config: Any, *names: str, default: int = 0) -> int:
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return int(value[0] if isinstance(value, (list, tuple)) else value)
    return default


def _largest_block(model: Any) -> int:
    """Parameters of the largest layer, embedding or head."""
    import torch

    sizes = [0]
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList):
            sizes += [sum(p.numel() for p in layer.parameters()) for layer in module]
        elif isinstance(module, (torch.nn.Embedding, torch.nn.Linear)):
            sizes.append(sum(p.numel() for p in module.parameters()))
    return max(sizes)
