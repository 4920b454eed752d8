"""What a supervised fine-tuning is made of: the fields of a recipe with `trainer: trl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sifthinker.training.launch import Machines
from sifthinker.training.planner import LoraSize, Workload
from sifthinker.training.recipes import fitted

TrainMode = Literal["internal", "tools", "direct"]
_INTERNAL: dict[TrainMode, float] = {"internal": 1.0}


class Lora(BaseModel):
    """A LoRA on every linear layer, the head left out."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    vision: bool = Field(default=False, description="On the vision tower's layers too.")


class Evaluation(BaseModel):
    """Questions that are asked of the policy while it is trained, through the agent that a user runs."""

    model_config = ConfigDict(extra="forbid")

    questions: int = Field(default=100, ge=0, description="Held out of the data, with all of their images; 0: none.")
    data: Path | None = Field(default=None, description="Another folder of records, instead of holding some out.")
    every: int = Field(default=200, ge=1, description="Steps; besides, after the last one.")
    modes: tuple[TrainMode, ...] = ("internal",)
    patience: int = Field(default=0, ge=0, description="Evaluations without a new best that end the run; 0: never.")
    max_new_tokens: int = Field(default=1024, ge=1)
    workers: int = Field(default=16, ge=1, description="Questions under way at once in a process.")


class SftRecipe(BaseModel):
    """What is trained, on what, for how long."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    model: str = Field(default="embedded", description="What to begin with: embedded, a folder or a hub id.")
    revision: str | None = Field(default=None, description="Of a hub id.")
    data: Path | None = Field(default=None, description="A folder of `sifthinker data build`; or give --data.")
    seed: int = 0
    lora: Lora | None = Field(default=None, description="Missing: every weight of the language model is trained.")
    train_vision: bool = Field(default=False, description="Without LoRA: whether the vision tower is trained too.")
    modes: dict[TrainMode, float] = Field(
        default_factory=lambda: _INTERNAL.copy(), description="Shares of the modes that samples are told in."
    )
    depth_dropout: float = Field(default=0.1, ge=0, le=1, description="Share of samples without the depth picture.")
    shuffle_options: bool = Field(default=True, description="Whether options come in another order at each visit.")
    max_pixels: int | None = Field(default=None, ge=1, description="Of an image; None: the processor's own limit.")
    rgb_px: int | None = Field(default=None, ge=1, description="Longest edge of the image; None: the policy's own.")
    depth_px: int | None = Field(default=None, ge=1, description="Longest edge of the depth picture, likewise.")
    crop_px: int | None = Field(default=None, ge=1, description="Longest edge of a crop, likewise.")
    max_tokens: int | None = Field(default=None, ge=16, description="Longer samples are left out, never cut.")
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1, description="Ends the run earlier; the schedule counts to it.")
    batch: int = Field(default=1, ge=1, description="Samples on a GPU in one pass.")
    accumulate: int = Field(default=1, ge=1, description="Passes of a step.")
    lr: float = Field(default=1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps.")
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    optimizer: str = Field(default="adamw_torch", description="transformers' name of it.")
    checkpointing: bool = Field(default=True, description="Activations computed again in the backward pass.")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    loader_workers: int = Field(default=0, ge=0, description="Processes that prepare samples, for each GPU.")
    log_every: int = Field(default=10, ge=1, description="Steps.")
    save_every: int = Field(default=200, ge=1, description="Steps; besides, at every evaluation.")
    keep: int = Field(default=2, ge=1, description="Checkpoints kept, besides the best one.")
    report: tuple[str, ...] | None = Field(
        default=None, description="Trackers: tensorboard, trackio, …; None: what of these two is installed."
    )
    evaluation: Evaluation = Evaluation()
    machines: Machines = Machines()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.modes or min(self.modes.values()) < 0 or sum(self.modes.values()) <= 0:
            raise ValueError(f"expected shares of modes, at least one of them above zero, got {self.modes}")
        if self.lora is not None and self.train_vision:
            raise ValueError("train_vision is for training without LoRA; with it say lora: {vision: true}")
        return self

    @property
    def on_cpu(self) -> bool:
        """Whether the recipe is for the CPU."""
        return self.machines.gpu_gb is None

    def workload(self, **known: Any) -> Workload:
        """What the planner needs of it; `known` are figures of real samples (`text_tokens`, …)."""
        lora = None if self.lora is None else LoraSize(rank=self.lora.rank, vision=self.lora.vision)
        pixels = self.max_pixels or (self.rgb_px**2 if self.rgb_px else None)
        fields: dict[str, Any] = {
            "model": self.model,
            "lora": lora,
            "train_vision": self.train_vision,
            "dtype": "float32" if self.on_cpu or self.machines.precision == "no" else "bfloat16",
            "answers": self.evaluation.questions > 0,
            "gpus": self.machines.processes,
            "gpu_gb": self.machines.gpu_gb,
            "zero": self.machines.zero,
            "batch": self.batch,
            "accumulate": self.accumulate,
            "checkpointing": self.checkpointing,
            "attention": self.attention,
            **({"image_pixels": pixels} if pixels else {}),
        }
        return Workload.model_validate({**fields, **known})


def recipe_of(settings: dict[str, Any], *, name: str = "") -> SftRecipe:
    """A recipe from what its file says, the field `trainer` left out.

    Raises:
        UsageError: a field that does not exist or a value that cannot be, named.
    """
    return fitted(SftRecipe, {"name": name, **settings})
