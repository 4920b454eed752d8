"""What a training from scratch is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sifthinker.training.scratch.model import ModelSize
from sifthinker.training.scratch.samples import SampleConfig


class ScratchRecipe(BaseModel):
    """What is trained, on what, for how long.

    `start_from` is the folder of an exported policy of the same size to go on from; its seed should be another one, so
    that new scenes are seen. Three phases, each with a learning rate that falls from `…lr` to `…final_lr` of it:

    - `vision_…`: the vision tower alone, on the auxiliary head's dense targets. After this phase the tower's rate is
      `vision_share` of the others'.
    - `find_…`: the language model, too, on `find_ground` branches a scene that name things and give their boxes.
    - the last: everything, traces among it, as `samples` says.

    Minutes are of training alone; a phase of none is left out.

    `point_weight` is that of a loss that has some heads of the language model (`watched`: layer and head, from 0; by
    default the first ones of the layers at a third and at half of its depth) look at an object's place in the image
    while its box is said.

    `compiled`: let torch compile the model's layers, where there is something to compile with; the first step of each
    phase is no part of its minutes.
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
    vision_share: float = Field(default=0.3, gt=0, le=1)
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
    point_weight: float = 0.5
    watched: tuple[tuple[int, int], ...] | None = None
    number_sigma: float = 0.010
    buffer_scenes: int = 3000
    new_scenes: float = 0.35
    ema: float = 0.998
    log_every: int = 20
    save_every_minutes: float = 2.0
    compiled: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for layer, head in self.watched or ():
            if not (0 <= layer < self.model.layers and 0 <= head < self.model.heads):
                raise ValueError(f"watched: there is no layer {layer}, head {head}")
        return self

    @property
    def heads_to_watch(self) -> tuple[tuple[int, int], ...]:
        """`watched`, or else what stands for it."""
        layers = self.model.layers
        return ((layers // 3, 0), (layers // 2, 0)) if self.watched is None else self.watched

    def scenes_kept(self, processes: int) -> int:
        """How many scenes each of so many processes keeps: `buffer_scenes` in each of two; more have as many in all."""
        return max(1, 2 * self.buffer_scenes // max(processes, 2))
