"""The files that a comparison leaves: `results.json`, `results.parquet`, `report.html`; each whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from sifthinker.policy.files import write_whole
from sifthinker.training.compare.adaptive import AdaptiveRule
from sifthinker.training.compare.faithfulness import Faithfulness
from sifthinker.training.compare.journal import Rows
from sifthinker.training.compare.records import Answered
from sifthinker.training.compare.statistics import DRAWS, LEVEL
from sifthinker.training.compare.summary import ModeScore, PolicyScores

RESULTS, TABLE, REPORT = "results.json", "results.parquet", "report.html"
_ROWS_AT_ONCE = 1000  # of the table: some megabytes while they are written


class About(BaseModel):
    """What was compared, and how it was asked."""

    data: str
    licence: str = ""
    made_by: str = ""
    n: int = Field(description="Questions asked; each in every mode, with every seed.")
    seeds: list[int]
    data_sha256: str = Field(description="Of the questions asked and their pictures, in order.")
    decoding: dict[str, Any] = Field(description="The same in all modes.")
    adaptive: dict[str, AdaptiveRule] = Field(
        default_factory=dict, description="By policy: the rule of mode adaptive, where that was compared."
    )
    depth: str
    prompts: dict[str, dict[str, str]] = Field(description="By policy and mode: the words that open a question.")
    policies: dict[str, Any] = Field(description="By name: weights, options of loading, profile.")
    versions: dict[str, str]
    command: str = ""
    limit: int | None = None
    notes: list[str] = Field(default_factory=list, description="What is to be kept in mind of the scores.")


class Results(BaseModel):
    """`results.json`. The first policy's scores stand at the top; with several, all stand in `policies`."""

    n: int
    seeds: list[int]
    policy: str
    modes: dict[str, ModeScore]
    controls: dict[str, ModeScore]
    faithfulness: dict[str, dict[str, Faithfulness]]
    policies: list[PolicyScores] = Field(default_factory=list)
    versions: dict[str, str]
    data_sha256: str
    about: About
    statistics: str = (
        "Means over questions asked, of costs over those that did not fail. "
        f"{LEVEL:.0%} percentile intervals of a paired bootstrap over questions "
        f"({DRAWS:,} draws, seed 0); p of McNemar's exact test, with several seeds in its exact form for clusters."
    )

    def all_policies(self) -> list[PolicyScores]:
        """The scores of every policy, one or several."""
        parts = {"modes": self.modes, "controls": self.controls, "faithfulness": self.faithfulness}
        return self.policies or [PolicyScores.model_validate({"policy": self.policy, **parts})]


def results_of(about: About, scores: Sequence[PolicyScores]) -> Results:
    """The whole of `results.json`."""
    first = scores[0]
    return Results(
        n=about.n,
        seeds=about.seeds,
        policy=first.policy,
        modes=first.modes,
        controls=first.controls,
        faithfulness=first.faithfulness,
        policies=list(scores) if len(scores) > 1 else [],
        versions=about.versions,
        data_sha256=about.data_sha256,
        about=about,
    )


def data_sha256(digests: Sequence[str]) -> str:
    """One hash of all questions asked."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def write_results(folder: Path, results: Results) -> Path:
    """Write `results.json`, and return its path."""
    path = folder / RESULTS
    text = json.dumps(results.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path


def write_rows(folder: Path, rows: Rows) -> Path:
    """Write `results.parquet`: every row of the journal in this order, with its trace."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = pa.list_(pa.float64(), 4)
    boxes = pa.list_(pa.struct([("bbox_2d", numbers), ("depth", pa.float64()), ("measured", pa.float64())]))
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    kinds = {
        "seed": whole, "tokens_in": whole, "tokens_out": whole, "images": whole, "calls": whole,
        "hiou": real, "confidence": real, "depth_error": real, "seconds": real,
        "right": pa.bool_(), "valid": pa.bool_(), "decides": pa.bool_(), "went_on": pa.bool_(),
        "out_of_time": pa.bool_(),
        "options": pa.list_(text), "warnings": pa.list_(text), "answer_boxes": pa.list_(numbers),
        "steps": pa.list_(pa.struct([("boxes", boxes), ("text", text), ("cropped", pa.bool_())])),
    }  # fmt: skip
    schema = pa.schema([(name, kinds.get(name, text)) for name in Answered.model_fields])

    def write(part: Path) -> None:
        with pq.ParquetWriter(part, schema) as file:
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                plain = [row.model_dump(mode="json") for row in rows[start : start + _ROWS_AT_ONCE]]
                file.write_table(pa.Table.from_pylist(plain, schema=schema))

    path = folder / TABLE
    write_whole(path, write)
    return path
