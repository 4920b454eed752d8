"""What a GRPO run is made of. A recipe is a YAML file with these fields; every constant of a run stands in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sifthinker.training.launch import Machines
from sifthinker.training.recipes import fitted
from sifthinker.training.sft.recipe import Lora
from sifthinker.training.world.questions import FAMILIES

REWARDS = ("format", "answer", "grounding", "depth")
"""The rewards of GRPO-SIF, in the order in which they are logged."""

OURS = {
    "output_dir",
    "seed",
    "data_seed",
    "reward_weights",
    "report_to",
    "save_total_limit",
    "remove_unused_columns",
    "model_init_kwargs",
    "log_completions",
    "save_strategy",
    "log_multimodal",
    "disable_tqdm",
}
"""Arguments of TRL's that a run sets itself."""
_COUNTS = (("save_steps", 50), ("gradient_accumulation_steps", 1), ("num_iterations", 1))
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ScenesConfig(_Part):
    """Questions of the block world, each about a scene that is made and rendered when its turn comes."""

    kind: Literal["scenes"] = "scenes"
    count: int = Field(default=8000, ge=1, description="Questions, one a scene.")
    seed: int = Field(default=7, ge=0, lt=1_000_000, description="Of the train split; not one that the start has seen.")
    size: int = Field(default=384, ge=32, le=4096, description="Pixels at which a scene is rendered.")
    families: tuple[str, ...] = FAMILIES
    depth: Literal["exact", "mixed", "embedded"] = Field(
        default="mixed",
        description="What is shown and measured in: the renderer's depth; half of the time that depth made as soft as "
        "an estimator's; or the embedded network's.",
    )


class WorldConfig(_Part):
    """Questions of a folder that `sifthinker world make` wrote."""

    kind: Literal["world"]
    path: Path


class RecordsConfig(_Part):
    """Questions of a folder that `sifthinker data build` or `sifthinker distil` wrote."""

    kind: Literal["records"]
    path: Path
    limit: int | None = Field(default=None, ge=1, description="Only so many, drawn by the run's seed.")


class JudgeConfig(_Part):
    """A model that judges free answers, behind an OpenAI-compatible server."""

    model: str
    url: str
    cache: Path | None = Field(default=None, description="Folder for verdicts; by default judge/ in the run's folder.")
    max_concurrent: int = Field(
        default=16,
        ge=1,
        description="Calls under way at once in all processes together; each has an equal share, one at the least.",
    )
    attempts: int = Field(default=4, ge=1)
    call_timeout: float = Field(default=30.0, gt=0)
    batch_timeout: float = Field(default=180.0, gt=0)


class RewardConfig(_Part):
    """What completions earn. A reward of weight 0 is left out."""

    form: Literal["robust", "published", "random"] = Field(
        default="robust", description="random: drawn for each completion, whatever it says; a control for the others."
    )
    format: float = Field(default=1.0, ge=0)
    answer: float = Field(default=1.0, ge=0)
    grounding: float = Field(default=1.0, ge=0)
    depth: float = Field(default=1.0, ge=0)
    progress: bool = Field(default=True, description="The answer's bonus over the sample's last visit.")
    judge: JudgeConfig | None = None

    @property
    def weights(self) -> dict[str, float]:
        """Of the rewards that count."""
        return {name: getattr(self, name) for name in REWARDS if getattr(self, name) > 0}


class LoraConfig(Lora):
    """An adapter on every linear layer of the language model; the paper's values."""

    rank: int = Field(default=64, ge=1)
    alpha: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)


class RolloutConfig(_Part):
    """The tables of completions that are written for reading."""

    every: int = Field(default=25, ge=0, description="Steps between two tables; 0: none.")
    most: int = Field(default=32, ge=1, description="Completions in a table, whole groups.")


class PlanConfig(_Part):
    """What a dry run counts with."""

    model: str | None = Field(
        default=None, description="Whose shapes are counted, where `policy` is a folder that a run has yet to write."
    )
    image_pixels: int = Field(default=262_144, ge=1, description="Of one image as the processor hands it on.")
    prompt_tokens: int = Field(default=300, ge=1, description="Of a prompt, without its images.")


class GrpoRecipe(_Part):
    """A GRPO run."""

    trainer: Literal["grpo"] = "grpo"
    policy: str = Field(default="embedded", description="The start: embedded, a folder, a hub id.")
    revision: str | None = Field(default=None, description="Of a hub id.")
    seed: int = Field(default=0, ge=0)
    data: ScenesConfig | WorldConfig | RecordsConfig = Field(default=ScenesConfig(), discriminator="kind")
    rewards: RewardConfig = RewardConfig()
    lora: LoraConfig | None = None
    train_vision: bool = Field(default=False, description="Without LoRA: whether the vision tower is trained too.")
    max_pixels: int | None = Field(default=None, ge=1, description="Of an image; None: the processor's own limit.")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    share_prompts: bool = Field(
        default=False,
        description="Compute a prompt once for its whole group, when sampling and when learning; not with gradient "
        "checkpointing or vLLM.",
    )
    rollouts: RolloutConfig = RolloutConfig()
    keep: int = Field(default=2, ge=1, description="Checkpoints kept.")
    average: int = Field(
        default=1,
        ge=1,
        description="The policy is the mean of the weights of so many last checkpoints, as far as there are so many: "
        "single steps of few rollouts leave noise in the weights, which shows in greedy answers.",
    )
    report: tuple[str, ...] | None = Field(
        default=None, description="Trackers: tensorboard, trackio, …; None: what of these two is installed."
    )
    trl: dict[str, Any] = Field(default_factory=dict, description="Arguments of trl.GRPOConfig, as they stand.")
    machines: Machines = Machines()
    plan: PlanConfig = PlanConfig()

    @field_validator("trl", mode="after")
    @classmethod
    def _numbers(cls, given: dict[str, Any]) -> dict[str, Any]:
        """With numbers such as 1e-5 read as numbers: YAML takes them for words."""
        return {
            name: float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
            for name, value in given.items()
        }

    @model_validator(mode="after")
    def _fits(self) -> Self:
        save, passes, iterations = (self._count(*of) for of in _COUNTS)
        block = self._count("steps_per_generation", passes) * iterations
        if self.trl.get("eval_strategy", "no") != "no":
            raise ValueError("trl: eval_strategy is for a data set to evaluate on, which a run has none of")
        if self.trl.get("sync_ref_model"):
            raise ValueError(
                "trl: sync_ref_model is not had, since checkpoints do not hold the reference that it moves"
            )
        if self.trl.get("generation_batch_size") is not None:
            raise ValueError("trl: say steps_per_generation instead of generation_batch_size")
        if taken := sorted(OURS & set(self.trl)):
            raise ValueError(f"trl: {', '.join(taken)} follow from other fields of the recipe")
        if not self.rewards.weights:
            raise ValueError("rewards: all weights are 0, so there is nothing to learn from")
        unknown = sorted(set(getattr(self.data, "families", ())) - set(FAMILIES))
        if unknown:
            raise ValueError(f"data: there is no family {unknown[0]!r} (there are {', '.join(FAMILIES)})")
        if self.share_prompts:
            if self.trl.get("gradient_checkpointing", True):
                raise ValueError("share_prompts needs trl: {gradient_checkpointing: false}")
            plain = {"use_vllm": False, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
            plain["mask_truncated_completions"] = False
            plain["generation_kwargs"] = plain["pad_to_multiple_of"] = plain["cache_implementation"] = None
            other = sorted(name for name, value in plain.items() if self.trl.get(name, value) != value)
            if other:
                raise ValueError(f"share_prompts cannot be had together with trl: {', '.join(other)}")
        every = save * passes
        if every % block:
            raise ValueError(
                "trl: save_steps × gradient_accumulation_steps must be a multiple of steps_per_generation × "
                f"num_iterations ({every} is none of {block}), or a run that goes on would sample something else"
            )
        if self.average > self.keep:
            raise ValueError(f"average: of {self.average} checkpoints only {self.keep} are kept (keep)")
        if self.lora is not None and self.train_vision:
            raise ValueError("train_vision is for training without LoRA; with it say lora: {vision: true}")
        return self

    def _count(self, name: str, default: int) -> int:
        """One of TRL's arguments that counts something.

        Raises:
            ValueError: it is no whole number from 1.
        """
        value = self.trl.get(name, default)
        if type(value) is not int or value < 1:
            raise ValueError(f"trl: {name} must be a whole number from 1, got {value!r}")
        return value

    @property
    def on_cpu(self) -> bool:
        """Whether the recipe is for the CPU."""
        return self.machines.gpu_gb is None


def read_recipe(settings: dict[str, Any]) -> GrpoRecipe:
    """A recipe from what its file says.

    Raises:
        UsageError: a field that does not exist or a value that cannot be, named.
    """
    return fitted(GrpoRecipe, settings)
