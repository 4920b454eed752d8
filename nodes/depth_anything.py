"""Depth Anything V2 (arXiv 2406.09414): a DINOv2 vision transformer of timm's with the DPT head of arXiv 2103.13413.

    image -> patch tokens -> blocks, four of whose outputs go on
          -> reassemble: each to a feature map, at 4, 2, 1 and 1/2 times the token grid
          -> fuse, from the coarsest to the finest
          -> head: one number a pixel, the larger the nearer

Modules carry the names of the published checkpoints, so that those load as they are; `depth_weights.py` reads
transformers' layout into the same names. The small network shipped for the block world is the same class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sifthinker.nodes.depth import DepthMap

_MEAN = np.array((0.485, 0.456, 0.406))
_STD = np.array((0.229, 0.224, 0.225))
_SCALE, _SHIFT = (1 / (255 * _STD)).astype(np.float32), (_MEAN / _STD).astype(np.float32)  # (x / 255 - mean) / std
# An image twenty times as wide as high would make twenty times as many tokens of the published resize.
_MAX_AREA = 4
MAP_PX = 1536
"""Longest edge of a map. The network sees 518 pixels; a photograph's millions would only hold memory."""


class DepthConfig(BaseModel):
    """The shape of a network. Defaults: the published Small."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["sifthinker_depth"] = "sifthinker_depth"
    width: int = Field(default=384, description="Channels of a token.")
    blocks: int = Field(default=12, description="Transformer blocks.")
    heads: int = Field(default=6, description="Attention heads.")
    taken: tuple[int, int, int, int] = Field(default=(2, 5, 8, 11), description="Blocks whose outputs go to the head.")
    patch_px: int = Field(default=14, description="Edge of a patch.")
    grid: int = Field(default=37, description="Patches along an edge of the trained position embedding.")
    channels: tuple[int, int, int, int] = Field(default=(48, 96, 192, 384), description="Of the reassembled maps.")
    features: int = Field(default=64, description="Channels while fusing.")
    head_channels: int = Field(default=32, description="Channels of the last hidden layer.")
    normalise: Literal["minmax", "none"] = Field(
        default="minmax",
        description="minmax: the raw output has no scale, and is stretched over each image. none: depth is 1 - raw.",
    )

    @property
    def image_px(self) -> int:
        """Edge to which an image is resized (518 in the published models)."""
        return self.patch_px * self.grid


class DepthAnythingV2(nn.Module):
    """Monocular relative depth. `predict` is what users need; it may be called from several threads."""

    def __init__(self, config: DepthConfig | None = None, *, name: str = "depth-anything-v2") -> None:
        super().__init__()
        self.config = config or DepthConfig()
        self.name = name
        self.pretrained = VisionTransformer(
            img_size=self.config.image_px,
            patch_size=self.config.patch_px,
            embed_dim=self.config.width,
            depth=self.config.blocks,
            num_heads=self.config.heads,
            init_values=1.0,
            num_classes=0,
            dynamic_img_size=True,
            act_layer=_Gelu,
        )
        self.depth_head = DPTHead(self.config)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Load weights.

        Args:
            source: "embedded", a hub id, a folder, or a .safetensors or .pth file, in the layout of the original
                checkpoints or of transformers. A .pth file is read as plain tensors only.
            device: where it is to run; "auto": on the GPU, where there is one.

        Raises:
            UsageError: the source has none of these forms. DepthError: nothing usable is there.
        """
        from sifthinker.nodes.depth_weights import read_weights

        config, state, name = read_weights(source)
        with torch.device("meta"):
            model = cls(config, name=name)
        model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(device).eval()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Raw prediction, the larger the nearer.

        Args:
            pixel_values: (B, 3, H, W), normalised, H and W multiples of the patch.

        Returns:
            (B, H, W), not negative.
        """
        height, width = pixel_values.shape[-2:]
        if height % self.config.patch_px or width % self.config.patch_px:
            raise ValueError(f"Expected edges that are multiples of {self.config.patch_px}, got {height} × {width}.")
        raw: Tensor = self.depth_head(self._tokens(pixel_values), (height, width))
        return raw

    def predict(self, image: Image.Image) -> DepthMap:
        """Depth of an image, in its own size or, where that is more than `MAP_PX`, as large as that."""
        return self.predict_batch([image])[0]

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[Image.Image], *, batch_size: int = 8) -> list[DepthMap]:
        """`predict` of each image; those of like shape go through the network together."""
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[self.input_size(image.size)].append(index)
        maps: dict[int, DepthMap] = {}
        for size, members in groups.items():
            for start in range(0, len(members), batch_size):
                batch = members[start : start + batch_size]
                pixels = torch.stack([self.preprocess(images[index], size) for index in batch])
                weight = self.pretrained.cls_token
                raw = self(pixels.to(weight.device, weight.dtype)).float()
                for index, prediction in zip(batch, raw, strict=True):
                    maps[index] = self._depth_map(prediction, images[index].size)
        return [maps[index] for index in range(len(images))]

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) to which an image is resized: the published rule, with a bound for extreme aspects.

        The edge whose scale is nearer to 1 becomes `image_px`, the other follows, each rounded to whole patches.
        """
        width, height = image_size
        target, patch = self.config.image_px, self.config.patch_px
        scale = min(target / width, target / height, key=lambda value: abs(1 - value))
        scale = min(scale, (_MAX_AREA * target**2 / (width * height)) ** 0.5)
        return max(patch, round(width * scale / patch) * patch), max(patch, round(height * scale / patch) * patch)

    def preprocess(self, image: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
        """(3, H, W) float32: resized to `size` (by default `input_size`) and normalised as ImageNet is."""
        plain = image if image.mode == "RGB" else image.convert("RGB")
        array = np.array(plain.resize(size or self.input_size(image.size), Image.Resampling.BICUBIC), dtype=np.float32)
        array *= _SCALE
        array -= _SHIFT
        return torch.from_numpy(array).permute(2, 0, 1)

    def _tokens(self, pixel_values: Tensor) -> list[Tensor]:
        """Normalised outputs (B, C, h, w) of the taken blocks, without the class token."""
        vit = self.pretrained
        x = vit.patch_embed(pixel_values)  # (B, h, w, C)
        batch, h, w, channels = x.shape
        x = torch.cat([vit.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1) + self._positions(h, w)
        outputs = []
        for index, block in enumerate(vit.blocks):
            x = block(x)
            if index in self.config.taken:
                outputs.append(vit.norm(x)[:, 1:].transpose(1, 2).reshape(batch, channels, h, w))
        return outputs

    def _positions(self, h: int, w: int) -> Tensor:
        """Position embedding (1, 1 + h·w, C) of a token grid.

        Interpolated as transformers does, bicubic without antialiasing; timm's own way differs off the trained grid.
        (The original code adds 0.1 patches to the new grid's edge before it takes the scale; transformers does not.)
        """
        embedding: Tensor = self.pretrained.pos_embed
        grid = self.config.grid
        if (h, w) == (grid, grid):
            return embedding
        patches = embedding[:, 1:].transpose(1, 2).reshape(1, -1, grid, grid)
        resized = F.interpolate(patches.float(), (h, w), mode="bicubic", align_corners=False).to(embedding.dtype)
        return torch.cat([embedding[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)

    def _depth_map(self, raw: Tensor, image_size: tuple[int, int]) -> DepthMap:
        """A raw prediction (H, W) as depth of an image's shape, 0 near."""
        scale = min(1.0, MAP_PX / max(image_size))
        width, height = (max(1, round(edge * scale)) for edge in image_size)
        raw = F.interpolate(raw[None, None], (height, width), mode="bicubic", align_corners=False)[0, 0]
        if self.config.normalise == "minmax":
            low, high = raw.min(), raw.max()
            raw = raw.sub_(low).div_((high - low).clamp_min(1e-12))
        return DepthMap(raw.neg_().add_(1).clamp_(0, 1).cpu().numpy(), source=self.name)


class _Gelu(nn.Module):
    """GELU. Where nothing is learnt it overwrites its input, the largest tensor of a block."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


class DPTHead(nn.Module):
    """From four token maps to one number a pixel (arXiv 2103.13413, section 3)."""

    def __init__(self, config: DepthConfig) -> None:
        super().__init__()
        features, half = config.features, config.features // 2
        c1, c2, c3, c4 = config.channels
        self.projects = nn.ModuleList(nn.Conv2d(config.width, channels, 1) for channels in config.channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(c1, c1, 4, stride=4),
                nn.ConvTranspose2d(c2, c2, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c4, c4, 3, stride=2, padding=1),
            ]
        )
        self.scratch = nn.ModuleDict(
            {
                "layer1_rn": nn.Conv2d(c1, features, 3, padding=1, bias=False),
                "layer2_rn": nn.Conv2d(c2, features, 3, padding=1, bias=False),
                "layer3_rn": nn.Conv2d(c3, features, 3, padding=1, bias=False),
                "layer4_rn": nn.Conv2d(c4, features, 3, padding=1, bias=False),
                "refinenet1": FeatureFusionBlock(features),
                "refinenet2": FeatureFusionBlock(features),
                "refinenet3": FeatureFusionBlock(features),
                "refinenet4": FeatureFusionBlock(features),
                "output_conv1": nn.Conv2d(features, half, 3, padding=1),
                "output_conv2": nn.Sequential(
                    nn.Conv2d(half, config.head_channels, 3, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(config.head_channels, 1, 1),
                    nn.ReLU(),
                ),
            }
        )

    def forward(self, token_maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Four maps (B, C, h, w) to (B, H, W), where `size` = (H, W)."""
        scratch = self.scratch
        maps = []
        for level, tokens in enumerate(token_maps):
            reassembled = self.resize_layers[level](self.projects[level](tokens))
            maps.append(scratch[f"layer{level + 1}_rn"](reassembled))
        one, two, three, four = maps
        path = scratch["refinenet4"](four, size=three.shape[-2:])
        path = scratch["refinenet3"](path, three, size=two.shape[-2:])
        path = scratch["refinenet2"](path, two, size=one.shape[-2:])
        path = scratch["refinenet1"](path, one, size=(2 * one.shape[-2], 2 * one.shape[-1]))
        path = F.interpolate(scratch["output_conv1"](path), size, mode="bilinear", align_corners=True)
        raw: Tensor = scratch["output_conv2"](path)
        return raw[:, 0]


class FeatureFusionBlock(nn.Module):
    """Adds a finer map to the fused coarser ones and grows the sum."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, path: Tensor, finer: Tensor | None = None, *, size: tuple[int, int]) -> Tensor:
        """(B, features, h, w), and a finer map of the same shape, to (B, features, *size)."""
        if finer is not None:
            path = path + self.resConfUnit1(finer)
        # The published order is to grow, then to convolve. A convolution of single pixels mixes channels, and growing
        # mixes neighbours with weights that add up to 1: either first gives the same, a quarter of the pixels is less.
        return F.interpolate(self.out_conv(self.resConfUnit2(path)), size, mode="bilinear", align_corners=True)


class ResidualConvUnit(nn.Module):
    """Two convolutions, each after its activation, around which the input is added."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, h, w) to the same."""
        return self.conv2(F.relu_(self.conv1(F.relu(x)))) + x
