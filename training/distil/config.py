"""What a distillation is told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sifthinker.training.data.config import BuildConfig, SourceConfig


class DistilConfig(BaseModel):
    """Questions, how they are asked, and which runs are good enough to learn from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    policy: str = Field(default="embedded", description="Who is asked: embedded, a folder, a hub id, openai:MODEL@URL.")
    mode: Literal["tools", "internal"] = Field(default="tools", description="How it is asked.")
    samples: int = Field(default=4, ge=1, le=64, description="Runs of a question for each record it may give.")
    keep: int = Field(
        default=1, ge=1, le=16, description="Records that a question may give, each from runs of its own."
    )
    temperature: float = Field(default=1.0, ge=0)
    greedy_first: bool = Field(default=True, description="Whether a question's first run is greedy.")
    seed: int = Field(default=0, ge=0)
    min_answer: float = Field(default=1.0, ge=0, le=1, description="What an answer must be worth (`rewards.matching`).")
    min_hiou: float = Field(default=0.5, ge=0, le=1, description="Of the last area with the boxes that decide.")
    min_areas: int = Field(default=2, ge=1, description="Areas that a run must have looked at.")
    max_steps: int = Field(default=8, ge=1, le=64, description="Areas that a run may look at.")
    max_new_tokens: int = Field(default=4096, ge=1, description="Tokens of a run.")
    depth: str = Field(default="auto", description="As in `sifthinker data build`: what is shown and put in.")
    shard_size: int = Field(default=1000, ge=1)
    concurrency: int = Field(default=16, ge=1, description="Questions under way at once; they share forward passes.")
    failures_in_a_row: int = Field(default=8, ge=1, description="So many failed calls end the run.")

    def build_config(self) -> BuildConfig:
        """The part of it that concerns reading sources and writing shards."""
        return BuildConfig(
            sources=self.sources,
            depth=self.depth,
            seed=self.seed,
            shard_size=self.shard_size,
            concurrency=self.concurrency,
            failures_in_a_row=self.failures_in_a_row,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What decides the records, besides the sources' own fingerprints and the policy's weights."""
        told = self.model_dump(mode="json", exclude={"sources", "concurrency", "failures_in_a_row", "policy"})
        return {"distilled": True, **told, "policy": self.policy.partition("@")[0].rstrip("/").rpartition("/")[2]}
