"""What a GRPO run tells of itself: the record that its folder and its policy carry."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sifthinker.policy.errors import UsageError
from sifthinker.training.grpo.recipe import GrpoRecipe, RecordsConfig, ScenesConfig
from sifthinker.training.launch import CONFIG
from sifthinker.training.sft.records import (
    RUN_FILE,
    RunRecord,
    data_record,
    read_record,
    trained,
    versions,
    write_record,
)

_MAY_CHANGE = {"rollouts", "report", "keep", "plan", "data"}
"""Fields of a recipe that change nothing about what is trained; data is compared by its content."""


def begin(recipe: GrpoRecipe, out: Path, *, write: bool) -> RunRecord:
    """The record of a run: that of the folder where it was begun before, else a new one.

    Other settings are taken as long as there is no checkpoint: what did not fit the memory, say, is corrected.

    Raises:
        UsageError: the folder was begun with other settings, or holds something else. DataError: no questions.
    """
    settings = json.loads(recipe.model_dump_json())
    data = _data_record(recipe)
    path = out / RUN_FILE
    if path.is_file():
        known = read_record(path)
        changed = sorted(k for k in settings if k not in _MAY_CHANGE and known.recipe.get(k) != settings[k])
        before = (known.data.get("sha256"), (known.recipe.get("data") or {}).get("limit"))
        changed += ["data"] if before != (data["sha256"], settings["data"].get("limit")) else []
        if known.kind != "grpo" or (changed and trained(out)):
            raise UsageError(
                f"{out} was begun with other settings ({', '.join(changed) or known.kind}): name another folder with "
                "--out, or give the settings that run.json in it tells."
            )
        if not changed:
            return known
    ours = ("lock", CONFIG)
    others = [entry.name for entry in out.iterdir() if entry.name not in ours and not entry.name.startswith(".")]
    if write and others and not path.is_file():
        raise UsageError(f"{out} holds something that is no run of this program ({others[0]}): name a new folder.")
    record = RunRecord(
        kind="grpo",
        recipe=settings,
        model=recipe.policy,
        data=data,
        processes=recipe.machines.processes,
        trained_on=data["records"],
        begun=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
    )
    if write:
        write_record(record, path)
    return record


def _data_record(recipe: GrpoRecipe) -> dict[str, Any]:
    data = recipe.data
    if isinstance(data, RecordsConfig):
        told = data_record(data.path)
        return {**told, "records": min(told["records"], data.limit or told["records"])}
    if isinstance(data, ScenesConfig):
        digest = hashlib.sha256(data.model_dump_json().encode()).hexdigest()
        return {"folder": f"fresh scenes of the block world, seed {data.seed}", "records": data.count, "sha256": digest}
    path = data.path / "questions.jsonl"
    if not path.is_file():
        raise UsageError(f"No questions.jsonl in {str(data.path)!r}: make it with `sifthinker world make`.")
    content = path.read_bytes()
    return {
        "folder": data.path.resolve().name,
        "records": content.count(b"\n"),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
