"""What a training from scratch is made of."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sifthinker.training.scratch.model import ModelSize
from sifthinker.training.scratch.samples import SampleConfig


class ScratchRecipe(BaseModel):
    """What is trained, on what, for how long.

    `start_from` is the folder of an exported policy of the same size to go on from; its seed should be another one, so
    that new scenes are seen. Three phases, each with a learning rate that falls from `…lr` to `…final_lr` of it:

    - `vision_…`: the vision tower alone, on the auxiliary head's dense targets.
    - `find_…`: the language model, too, on `find_ground` branches a scene that name things and give their boxes.
    - the last: everything, traces among it, as `samples` says.

    Minutes are of training alone; a phase of none is left out.
    """

    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    start_from: Path | None = None
    model: ModelSize = ModelSize()
    samples: SampleConfig = SampleConfig()
    vision_minutes: float = Field(default=20.0, ge=0)
    vision_scenes: int = Field(default=8, ge=1)
    vision_lr: float = 2e-3
    vision_final_lr: float = 0.25
    find_minutes: float = Field(default=30.0, ge=0)
    find_scenes: int = Field(default=4, ge=1)
    find_ground: int = Field(default=4, ge=1)
    find_lr: float = 2e-3
    find_final_lr: float = 0.4
    minutes: float = Field(default=90.0, ge=0)
    scenes: int = Field(default=8, ge=1)
    lr: float = 2e-3
    final_lr: float = 0.03
    warmup_steps: int = 80
    weight_decay: float = 0.02
    clip: float = 1.0
    aux_weight: float = 0.2
    number_sigma: float = 0.010
    buffer_scenes: int = 3000
    new_scenes: float = 0.35
    ema: float = 0.998
    log_every: int = 20
    save_every_minutes: float = 2.0
