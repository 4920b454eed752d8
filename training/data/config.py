"""What a build is told: its sources, where depth comes from, how boxes are expanded, who writes the texts."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sifthinker.policy.boxes import BoxSpace
from sifthinker.training.data.expansion import ExpansionConfig


class SourceConfig(BaseModel):
    """A source: what kind, where, and how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = Field(description="One of the kinds above.")
    path: Path = Field(description="The annotation file; of a world the folder.")
    images: Path | None = Field(default=None, description="Folder that names are relative to; default: the file's.")
    space: BoxSpace | None = Field(default=None, description="For jsonl: what its boxes mean; others declare theirs.")
    exclude: tuple[str, ...] | None = Field(default=None, description="Data sets left out; default: the kind's.")
    per_dataset: int | None = Field(default=None, ge=0, description="Most samples of one data set; 0: all.")
    limit: int | None = Field(default=None, ge=0, description="Most samples of the source; 0: all.")
    links: bool = Field(default=False, description="Whether symbolic links may lead out of the folder of images.")
    xywh: bool = Field(default=False, description="For refcoco: bbox is left, top, width, height.")
    question: str = Field(default="Find {expression} in the image.", description="For refcoco.")


class TeacherConfig(BaseModel):
    """Who writes the texts, and what that costs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="offline", description="offline, or openai:MODEL@URL.")
    attempts: int = Field(default=3, ge=1, description="Traces asked for until one is accepted.")
    temperature: float = Field(default=0.0, ge=0, description="Of the first attempt.")
    retry_temperature: float = Field(default=0.7, ge=0, description="Of further ones, so that they say something else.")
    max_new_tokens: int = Field(default=2048, ge=64)
    longest_px: int = Field(default=768, ge=64, description="Longest edge of the pictures that the teacher is shown.")
    call_timeout: float = Field(default=120.0, gt=0, description="Seconds for one attempt with its retries.")
    retries: int = Field(default=3, ge=1, description="Calls of one attempt, where the server fails or is busy.")
    price_in: float = Field(default=0.0, ge=0, description="Per million tokens read, in whatever currency.")
    price_out: float = Field(default=0.0, ge=0, description="Per million tokens written.")


class BuildConfig(BaseModel):
    """Everything that a build is told. What changes the records is part of the fingerprint of its folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    depth: str = Field(
        default="auto",
        description="A depth source (see `nodes.depth`), none, or auto: exact depth where the source brings it, "
        "else Depth Anything V2 small.",
    )
    expansion: ExpansionConfig = ExpansionConfig()
    teacher: TeacherConfig = TeacherConfig()
    seed: int = Field(default=0, ge=0)
    min_box_px: float = Field(default=4.0, ge=0, description="A box with a shorter side is refused.")
    max_boxes: int = Field(default=16, ge=1, description="A sample with more boxes is refused.")
    min_witness_iou: float = Field(
        default=0.5, ge=0, le=1, description="A row whose second statement of its boxes agrees less is refused."
    )
    shard_size: int = Field(default=1000, ge=1, description="Samples of the sources that one shard is made of.")
    concurrency: int = Field(default=8, ge=1, description="Samples under way at once.")
    failures_in_a_row: int = Field(
        default=8, ge=1, description="So many calls without an answer stop the build, twice `concurrency` at least."
    )

    def fingerprint(self) -> dict[str, object]:
        """What decides the records, besides the sources' own fingerprints."""
        operational = {"sources", "concurrency", "failures_in_a_row"}
        told = self.model_dump(mode="json", exclude=operational)
        for name in ("call_timeout", "retries", "price_in", "price_out"):
            del told["teacher"][name]
        told["teacher"]["name"] = self.teacher.name.partition("@")[0]  # a server may move
        return told
