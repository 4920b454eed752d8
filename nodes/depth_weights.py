"""Weights of Depth Anything V2, found and brought into the names of the original checkpoints.

Two layouts are published: the original one (`pretrained.*`, `depth_head.*`, a .pth file) and that of transformers
(`backbone.*`, `neck.*`, `head.*`, safetensors with a config.json). The shape of the network is read from the weights;
what they do not tell (heads, which blocks are taken) comes from config.json, or is that of the published sizes.
"""

from __future__ import annotations

import json
import pickle
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from sifthinker.nodes.depth import SPEC_FORMS
from sifthinker.nodes.depth_anything import DepthAnythingV2, DepthConfig
from sifthinker.policy.errors import DepthError, UsageError
from sifthinker.policy.files import expanded

State = dict[str, Tensor]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["config.json", "model.safetensors", "depth_anything_v2_*.safetensors", "depth_anything_v2_*.pth"]
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_TAKEN = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23)}

# transformers' names to the original ones; the first pattern that matches is used, the whole name is replaced.
_RENAME: tuple[tuple[str, str], ...] = (
    (r"backbone\.embeddings\.cls_token", "pretrained.cls_token"),
    (r"backbone\.embeddings\.position_embeddings", "pretrained.pos_embed"),
    (r"backbone\.embeddings\.patch_embeddings\.projection\.(\w+)", r"pretrained.patch_embed.proj.\1"),
    (r"backbone\.layernorm\.(\w+)", r"pretrained.norm.\1"),
    (r"backbone\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", r"\1.\2.\3"),
    (r"backbone\.encoder\.layer\.(\d+)\.attention\.q_proj\.(\w+)", r"\1.query.\2"),
    (r"backbone\.encoder\.layer\.(\d+)\.attention\.k_proj\.(\w+)", r"\1.key.\2"),
    (r"backbone\.encoder\.layer\.(\d+)\.attention\.v_proj\.(\w+)", r"\1.value.\2"),
    (
        r"backbone\.encoder\.layer\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(\w+)",
        r"pretrained.blocks.\1.attn.proj.\2",
    ),
    (r"backbone\.encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"pretrained.blocks.\1.ls\2.gamma"),
    (r"backbone\.encoder\.layer\.(\d+)\.((?:norm[12]|mlp\.fc[12])\.\w+)", r"pretrained.blocks.\1.\2"),
    (r"neck\.reassemble_stage\.layers\.(\d)\.projection\.(\w+)", r"depth_head.projects.\1.\2"),
    (r"neck\.reassemble_stage\.layers\.(\d)\.resize\.(\w+)", r"depth_head.resize_layers.\1.\2"),
    (r"head\.conv1\.(\w+)", r"depth_head.scratch.output_conv1.\1"),
    (r"head\.conv2\.(\w+)", r"depth_head.scratch.output_conv2.0.\1"),
    (r"head\.conv3\.(\w+)", r"depth_head.scratch.output_conv2.2.\1"),
)
_FUSION = re.compile(r"neck\.fusion_stage\.layers\.(\d)\.(.+)")
_FUSION_PARTS = {
    "projection": "out_conv",
    "residual_layer1": "resConfUnit1",
    "residual_layer2": "resConfUnit2",
    "convolution1": "conv1",
    "convolution2": "conv2",
}


def read_weights(source: str | Path) -> tuple[DepthConfig, State, str]:
    """The network's shape, its weights under the original names, and what to call it. See `from_pretrained`."""
    path, name = _locate(source)
    if path.is_dir():
        weights = next((file for suffix in _SUFFIXES for file in sorted(path.glob(f"*{suffix}"))), None)
        if weights is None:
            raise DepthError(f"Expected depth weights ({', '.join(_SUFFIXES)}) in {str(source)!r}, found none.")
    else:
        weights = path
    told = _read_config(weights.parent / "config.json")
    state = original_layout(_read_state(weights))
    config = _shape_of(state, told, weights)
    _check(config, state, weights)
    return config, state, name


def original_layout(state: State) -> State:
    """Weights under the original names, from either published layout (and from transformers' in memory).

    Raises:
        DepthError: they follow neither.
    """
    state = {name: tensor for name, tensor in state.items() if not name.endswith("mask_token")}
    if "pretrained.pos_embed" in state:
        return state
    if "backbone.embeddings.position_embeddings" not in state:
        some = ", ".join(sorted(state)[:3]) or "nothing"
        raise DepthError(f"Expected the weights of Depth Anything V2, in either published layout, found {some}.")
    renamed: State = {}
    split: dict[tuple[str, str], dict[str, Tensor]] = {}  # (block, weight or bias) to query, key and value
    for name, tensor in state.items():
        new = _rename(name)
        block, part, kind = new.split(".", 2) if new[0].isdigit() else ("", "", "")
        if part:
            split.setdefault((block, kind), {})[part] = tensor
        else:
            renamed[new] = tensor
    for (block, kind), parts in split.items():
        if set(parts) != {"query", "key", "value"}:
            raise DepthError(f"Expected query, key and value of block {block}, found {', '.join(sorted(parts))}.")
        joined = torch.cat([parts["query"], parts["key"], parts["value"]])
        renamed[f"pretrained.blocks.{block}.attn.qkv.{kind}"] = joined
    return renamed


def _rename(name: str) -> str:
    for pattern, replacement in _RENAME:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    if match := re.fullmatch(r"neck\.convs\.(\d)\.weight", name):
        return f"depth_head.scratch.layer{int(match[1]) + 1}_rn.weight"
    if match := _FUSION.fullmatch(name):  # transformers counts from the coarsest, the original from the finest
        rest = ".".join(_FUSION_PARTS.get(part, part) for part in match[2].split("."))
        return f"depth_head.scratch.refinenet{4 - int(match[1])}.{rest}"
    return name


def _locate(source: str | Path) -> tuple[Path, str]:
    """A file or folder on this machine, and a name for results."""
    if str(source) == "embedded":
        path = Path(str(files("sifthinker.policy.embedded") / "depth"))
        if not (path / "model.safetensors").is_file():
            raise DepthError(
                "The embedded depth network is not in this installation: train it with "
                '`sifthinker train depth fit`, or choose depth="none".'
            )
        return path, "embedded"
    path = expanded(source)
    if path.exists():
        if path.is_file() and path.suffix not in _SUFFIXES:
            raise DepthError(f"Expected depth weights ({', '.join(_SUFFIXES)}), got {str(source)!r}.")
        return path, path.name
    if isinstance(source, str) and _HUB_ID.fullmatch(source):
        return _download(source), source
    raise UsageError(f"No depth source is known as {str(source)!r}: give {SPEC_FORMS}.")


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except (OSError, ValueError, RuntimeError) as error:  # not found, gated, no network, offline mode
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DepthError(
            f"The depth model {hub_id!r} could not be obtained ({reason}): check the network, give a folder or file "
            'with the weights, or choose depth="none".'
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DepthError(f"The file {str(path)!r} is not readable as JSON ({error}).") from error
    if not isinstance(told, dict):
        raise DepthError(f"Expected a JSON object in {str(path)!r}, got {type(told).__name__}.")
    return told


def _read_state(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DepthError(
            f"The file {path.name!r} holds more than plain tensors and is not opened, as it could run code: convert it "
            "to safetensors."
        ) from error
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError) as error:
        raise DepthError(f"The weights in {str(path)!r} cannot be read ({error}): fetch them again.") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise DepthError(f"Expected a table of tensors in {str(path)!r}, got {type(state).__name__}.")
    return state


def _shape_of(state: State, told: dict[str, Any], weights: Path) -> DepthConfig:
    """The network's shape: an own config.json as it stands, else what the weights and transformers' config tell."""
    try:
        if told.get("model_type") == "sifthinker_depth":
            return DepthConfig.model_validate(told)
        if told.get("depth_estimation_type", "relative") != "relative":
            raise DepthError("Expected a model of relative depth, got a metric one: use a relative Depth Anything V2.")
        width = state["pretrained.pos_embed"].shape[-1]
        blocks = sum(name.endswith(".attn.qkv.weight") for name in state)
        backbone = told.get("backbone_config") or {}
        taken = [index - 1 for index in backbone.get("out_indices") or []] or _TAKEN.get(blocks)
        if taken is None:
            raise DepthError(f"No published network has {blocks} blocks: put its config.json beside the weights.")
        return DepthConfig(
            width=width,
            blocks=blocks,
            heads=backbone.get("num_attention_heads") or max(width // 64, 1),
            taken=taken,
            patch_px=state["pretrained.patch_embed.proj.weight"].shape[-1],
            grid=round((state["pretrained.pos_embed"].shape[1] - 1) ** 0.5),
            channels=[state[f"depth_head.projects.{level}.weight"].shape[0] for level in range(4)],
            features=state["depth_head.scratch.layer1_rn.weight"].shape[0],
            head_channels=state["depth_head.scratch.output_conv2.0.weight"].shape[0],
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValidationError) as error:
        raise DepthError(f"The weights in {weights.name!r} are not those of a Depth Anything V2 ({error}).") from error


def _check(config: DepthConfig, state: State, weights: Path) -> None:
    """Refuse weights that do not fit the network exactly (DepthError)."""
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in DepthAnythingV2(config).state_dict().items()}
    missing = sorted(expected.keys() - state.keys())
    strange = sorted(state.keys() - expected.keys())
    unfit = sorted(name for name in expected.keys() & state.keys() if expected[name] != state[name].shape)
    for what, names in (("lack", missing), ("have besides", strange), ("have in another shape", unfit)):
        if names:
            raise DepthError(f"The weights in {weights.name!r} {what} {names[0]!r} (and {len(names) - 1} more).")
