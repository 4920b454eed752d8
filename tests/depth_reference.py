"""transformers' Depth Anything V2 with random weights: what the one written here is held against."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

PROCESSING: dict[str, Any] = {
    "size": {"height": 518, "width": 518},
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
"""Of `DPTImageProcessor`, as the published checkpoints configure it."""

SHAPES = {  # the published Small is the third
    "tiny": {
        "grid": 9,
        "width": 32,
        "blocks": 4,
        "heads": 2,
        "taken": [1, 2, 3, 4],
        "channels": [8, 8, 16, 16],
        "features": 16,
    },
    "uneven": {
        "grid": 37,
        "width": 48,
        "blocks": 5,
        "heads": 4,
        "taken": [1, 3, 4, 5],
        "channels": [8, 16, 24, 32],
        "features": 8,
    },
    "small": {
        "grid": 37,
        "width": 384,
        "blocks": 12,
        "heads": 6,
        "taken": [3, 6, 9, 12],
        "channels": [48, 96, 192, 384],
        "features": 64,
    },
}


@lru_cache(maxsize=4)
def reference(shape: str = "tiny") -> DepthAnythingForDepthEstimation:
    """transformers' model with random weights large enough that every part of the network matters to the output."""
    of = SHAPES[shape]
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=of["width"],
        num_hidden_layers=of["blocks"],
        num_attention_heads=of["heads"],
        image_size=14 * of["grid"],
        patch_size=14,
        out_indices=of["taken"],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    model = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=of["width"],
            neck_hidden_sizes=of["channels"],
            fusion_hidden_size=of["features"],
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1 / math.sqrt(parameter[0].numel()))
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.head.conv3.bias.fill_(1.0)  # keeps the last ReLU open
    return model
