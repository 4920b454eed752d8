"""Trains the depth network of the block world, and measures it.

    sifthinker train depth fit --out runs/depth
    sifthinker train depth measure runs/depth --split test --count 300

It is the class of Depth Anything V2 in a small shape. Unlike the real one it learns depth on a fixed scale, since every
scene of the world has the same, so its output needs no stretching. Simplified against the paper: one stage, no
pseudo-labels, exact depth as the target.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn

from sifthinker.nodes.depth_anything import DepthAnythingV2, DepthConfig
from sifthinker.policy.errors import DepthError
from sifthinker.policy.files import write_whole
from sifthinker.training.checkpoints import TORN
from sifthinker.training.depth_data import RELATIVE_FLOOR, draw_batch, render_scenes

log = logging.getLogger(__name__)

WORLD_NETWORK = DepthConfig(
    width=128,
    blocks=4,
    heads=4,
    taken=(0, 1, 2, 3),
    patch_px=12,
    grid=16,
    channels=(32, 32, 64, 64),
    features=32,
    head_channels=16,
    normalise="none",
)
"""1.2 million parameters, 192 × 192 pixels."""


class DepthTraining(BaseModel):
    """How to train. The defaults made the embedded weights."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(default=6000, ge=1)
    batch_size: int = Field(default=8, ge=1)
    scenes: int = Field(default=4000, ge=1, description="Rendered once, before the first step.")
    learning_rate: float = Field(default=2e-3, gt=0, description="At its highest; cosine to zero.")
    warmup_steps: int = Field(default=200, ge=0)
    weight_decay: float = Field(default=0.02, ge=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1, description="Of the averaged weights, which are the ones kept.")
    seed: int = Field(default=0, ge=0, lt=1_000_000)
    checkpoint_every: int = Field(default=200, ge=1)


def train_depth(
    out: str | Path,
    *,
    settings: DepthTraining | None = None,
    network: DepthConfig = WORLD_NETWORK,
    on_step: Callable[[int, float], None] | None = None,
) -> DepthAnythingV2:
    """Train on scenes of the train split; what stands in `out` already is gone on with.

    Args:
        out: folder for `checkpoint.pt` while training, and `config.json` and `model.safetensors` in the end.
        settings: how to train; a checkpoint made with others is refused.
        network: the network's shape.
        on_step: called with the step and its loss.

    Returns:
        the network with the averaged weights.
    """
    settings = settings or DepthTraining()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    model = DepthAnythingV2(network, name="embedded")
    initialise(model)
    for block in model.pretrained.blocks:
        block.attn.fused_attn = False  # on a CPU the fused attention's backward pass costs a third of the step
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=_ema(settings.ema_decay))
    optimizer = torch.optim.AdamW(_decayed_and_not(model, settings.weight_decay), lr=settings.learning_rate)
    first = _resume(out, settings, model, average, optimizer)
    rgb, depth = render_scenes(settings.scenes, network.image_px, settings.seed)
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings)
        rng = np.random.default_rng((settings.seed, step))  # of the step alone: a resumed run sees the same batches
        pixels, target = draw_batch(rgb, depth, rng, settings.batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            raw = model(pixels)
        loss = depth_loss(1 - raw.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        if on_step:
            on_step(step + 1, loss.item())
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            _save_checkpoint(out, step + 1, settings, model, average, optimizer)
    trained = cast(DepthAnythingV2, average.module)
    save_network(trained, out)
    return trained.eval()


def depth_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Absolute, relative and gradient error (at three scales, so that edges are sharp) of depth (B, H, W)."""
    difference = predicted - target
    loss = difference.abs().mean() + 0.25 * (difference.abs() / target.clamp_min(RELATIVE_FLOOR)).mean()
    for scale in (1, 2, 4):
        at_scale = difference[:, ::scale, ::scale]
        loss = loss + 0.5 * (at_scale.diff(dim=1).abs().mean() + at_scale.diff(dim=2).abs().mean())
    return loss


def initialise(model: DepthAnythingV2) -> None:
    """Weights at 1/√fan-in and positions as 2-D sines: timm's 0.02 is far too small for a narrow network."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            fan_in = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):  # each output pixel is reached by one tap of each channel
                fan_in = module.in_channels
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for block in model.pretrained.blocks:
        for scale in (block.ls1.gamma, block.ls2.gamma):
            nn.init.constant_(scale, 0.5)
    with torch.no_grad():
        model.pretrained.pos_embed[:, 1:] = _sines(model.config.grid, model.config.width)
    last = cast(nn.Conv2d, model.depth_head.scratch["output_conv2"].get_submodule("2"))
    nn.init.normal_(last.weight, std=0.1 * last.in_channels**-0.5)
    nn.init.constant_(cast(Tensor, last.bias), 0.5)  # the middle of the range: the final ReLU must not begin closed


def save_network(model: DepthAnythingV2, folder: str | Path) -> None:
    """Write config.json and model.safetensors (half precision), as `DepthAnythingV2.from_pretrained` reads them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(model.config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _sines(grid: int, width: int) -> Tensor:
    """(grid · grid, width): sines and cosines of the row in one half, of the column in the other, amplitude 0.7."""
    rate = torch.exp(torch.linspace(0, -math.log(4 * grid), width // 4))
    angle = torch.arange(grid)[:, None] * rate  # (grid, width / 4)
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = line[:, None].expand(grid, grid, -1), line[None].expand(grid, grid, -1)
    return 0.7 * torch.cat([rows, columns], dim=2).reshape(grid * grid, -1)


def _ema(decay: float) -> Callable[[Any, Any, Any], None]:
    """The averaging rule: young averages follow faster, so that the first weights do not linger."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        rate = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, rate)

    return update


def _decayed_and_not(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 and "pos_embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() <= 1 or "pos_embed" in name]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _schedule(step: int, settings: DepthTraining) -> float:
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


def _save_checkpoint(out: Path, step: int, settings: DepthTraining, *parts: Any) -> None:
    state = {"step": step, "settings": settings.model_dump(), "parts": [p.state_dict() for p in parts]}
    write_whole(out / "checkpoint.pt", lambda part: torch.save(state, part))


def _resume(out: Path, settings: DepthTraining, *parts: Any) -> int:
    """Bring the parts to the checkpoint in `out`, if there is one; the step to go on with."""
    path = out / "checkpoint.pt"
    if not path.exists():
        return 0
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved = {name: saved[name] for name in ("step", "settings", "parts")}
    except TORN as error:
        raise DepthError(
            f"{path} is no checkpoint of this training, or is damaged: remove it, or name another folder."
        ) from error
    if saved["settings"] != settings.model_dump():
        raise DepthError(f"The checkpoint in {str(out)!r} was made with other settings: give these, or another folder.")
    for part, state in zip(parts, saved["parts"], strict=True):
        part.load_state_dict(state)
    log.info("going on from step %d", saved["step"])
    return int(saved["step"])
