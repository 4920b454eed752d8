"""What a run tells of itself: what was begun, with what, what came of it. Model cards are written from nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.errors import DataError, UsageError
from sifthinker.policy.files import beside, write_whole
from sifthinker.policy.profiles import write_profile
from sifthinker.training import checkpoints
from sifthinker.training.averaging import average_weights
from sifthinker.training.card import TRAINING_FILE, write_card
from sifthinker.training.data.tables import shards
from sifthinker.training.sft.recipe import SftRecipe

RUN_FILE = "run.json"
"""In a run's folder."""
PACKAGES = ("sifthinker", "torch", "transformers", "trl", "peft", "accelerate", "datasets")
_NO_WEIGHTS = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_args", "global_step",
               "zero_to_", "latest", checkpoints.MARKER)  # fmt: skip
_MAY_CHANGE = {"data", "log_every", "save_every", "keep", "report", "loader_workers", "name"}
"""Fields of a recipe that change nothing about what is trained."""


class RunRecord(BaseModel):
    """The record of a run."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(default="sft", description="What trained it: sft, grpo, …")
    recipe: dict[str, Any]
    model: str = Field(description="What it began with.")
    data: dict[str, Any] = Field(default_factory=dict, description="Where the records came from, see `data_record`.")
    processes: int = 1
    parameters: int = 0
    trainable: int = 0
    trained_on: int = Field(default=0, description="Records, the held-out ones left out.")
    asked: int = Field(default=0, description="Questions held out.")
    begun: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    finished: bool = False
    step: int | None = Field(default=None, description="Of the checkpoint that became the policy.")
    averaged: int = Field(default=1, description="Checkpoints up to that step of whose weights the policy is the mean.")
    steps: int | None = Field(default=None, description="Made in all.")
    seconds: float | None = Field(default=None, description="Of the last run of the command.")
    scores: list[dict[str, Any]] = Field(default_factory=list, description="Of the held-out questions, by step.")

    def write_beside(self, folder: Path, profile: PolicyProfile) -> None:
        """Write profile and record beside weights, so that they load as a policy and tell where they came from."""
        write_profile(folder, profile)
        told = _without_places(self.model_dump(mode="json"))
        (folder / TRAINING_FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        adapter = folder / "adapter_config.json"
        if self.model == "embedded" and adapter.is_file():  # not where the package lies on this machine
            config = {**json.loads(adapter.read_text(encoding="utf-8")), "base_model_name_or_path": "embedded"}
            adapter.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def begin(recipe: SftRecipe, out: Path, *, processes: int, write: bool) -> RunRecord:
    """The record of a run: that of the folder where it was begun before, else a new one.

    Other settings are taken as long as there is no checkpoint: what did not fit the memory, say, is corrected.

    Raises:
        UsageError: the folder was begun with other settings or other data.
    """
    settings = json.loads(recipe.model_dump_json())
    if recipe.data is None:
        raise UsageError("The recipe names no data: give a folder of `sifthinker data build` with --data.")
    data = data_record(recipe.data)
    path = out / RUN_FILE
    if path.is_file():
        known = read_record(path)
        changed = sorted(k for k in settings if k not in _MAY_CHANGE and known.recipe.get(k) != settings[k])
        changed += ["data"] if known.data.get("sha256") != data["sha256"] else []
        changed += ["processes"] if known.processes != processes else []
        if changed and trained(out):
            raise UsageError(
                f"{out} was begun with other settings ({', '.join(changed)}): name another folder with --out, or give "
                "the settings that run.json in it tells."
            )
        if not changed:
            return known
    record = RunRecord(
        recipe=settings, model=recipe.model, data=data, processes=processes,
        begun=datetime.now(UTC).isoformat(timespec="seconds"), versions=versions(),
    )  # fmt: skip
    if write:
        write_record(record, path)
    return record


def trained(out: Path) -> bool:
    """Whether a run's folder holds anything that was trained."""
    return (out / "policy").is_dir() or checkpoints.latest(out / "checkpoints") is not None


def finish(record: RunRecord, out: Path, profile: PolicyProfile, *, checkpoint: Path, seconds: float) -> None:
    """Make the policy's folder of a checkpoint, and note that the run is complete.

    Raises:
        DataError: the checkpoint is not there whole.
    """
    if not checkpoints.is_whole(checkpoint):
        raise DataError(f"{checkpoint} is not there whole: run the same command again.")
    lines = checkpoints.log_lines(out / "log.jsonl")
    record.scores = [line for line in lines if "eval_score" in line]
    record.step, record.seconds = checkpoints.step_of(checkpoint), round(seconds, 1)
    record.steps = max((int(line["step"]) for line in lines), default=record.step)
    ship(record, out, profile, checkpoint)


def ship(
    record: RunRecord,
    out: Path,
    profile: PolicyProfile,
    checkpoint: Path,
    *others: Path,
    without: tuple[str, ...] = (),
) -> None:
    """Make the policy's folder of a checkpoint, and note in the record and in the run's folder that it is complete.

    Args:
        record: of the run, with what came of it.
        out: the run's folder.
        profile: of the policy.
        checkpoint: a whole one.
        others: further ones; the policy is then the mean of the weights of all.
        without: how names of files begin that stay behind, besides those of every trainer's state.
    """
    record.finished, record.averaged = True, 1 + len(others)
    part = beside(out / "policy")
    part.mkdir()
    for path in checkpoint.iterdir():
        if path.is_file() and not path.name.startswith((*_NO_WEIGHTS, *without)):
            shutil.copyfile(path, part / path.name)
    if others:
        average_weights([checkpoint, *others], part)
    record.write_beside(part, profile)
    write_card(part, profile.name)
    put(part, out / "policy")
    write_record(record, out / RUN_FILE)


def put(part: Path, final: Path) -> None:
    """A written folder in the place of another, or of none."""
    if final.exists():
        checkpoints.remove(final)
    os.replace(part, final)


def write_record(record: RunRecord, path: Path) -> None:
    """Write a record, whole."""
    text = record.model_dump_json(indent=1) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_record(path: Path) -> RunRecord:
    """The record that a file holds.

    Raises:
        DataError: it holds none.
    """
    try:
        return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not the record of a run ({type(error).__name__}).") from error


def data_record(folder: Path) -> dict[str, Any]:
    """What is told of a data set: its hash, how many records of what source, teacher and depth.

    Raises:
        DataError: it holds no records.
    """
    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("dataset", "teacher", "depth", "expansion")}
    total = 0
    for path in shards(folder, "records"):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        for row in pq.read_table(path, columns=["provenance"])["provenance"].to_pylist():
            total += 1
            for name, counter in counts.items():
                counter[str(row.get(name) or "none")] += 1
    told = {name: dict(counter.most_common()) for name, counter in counts.items()}
    return {"folder": folder.resolve().name, "records": total, "sha256": digest.hexdigest(), **told}


def versions() -> dict[str, str]:
    """Of the packages that a run stands on, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _without_places(value: Any) -> Any:
    """What is shipped says nothing of the machine: a path from its root becomes its last part."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value
