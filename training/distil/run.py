"""A distillation: questions → runs of the agent → the good ones, as records in the form of `sifthinker data build`.

The folder is that of a build (`sifthinker.training.data.build`): shards of records and of rejects, each with its
reason, images, depths, a journal. The same command goes on where a run ended; nothing finished is asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from pydantic import BaseModel, Field

from sifthinker.nodes.depth import DepthEstimator, load_depth
from sifthinker.policy.base import Policy
from sifthinker.policy.errors import UsageError
from sifthinker.policy.load import load_policy
from sifthinker.training.compare.identity import identity
from sifthinker.training.data.build import fill, probe
from sifthinker.training.data.depths import DepthShelf
from sifthinker.training.data.files import Gate
from sifthinker.training.data.runner import Progress
from sifthinker.training.data.samples import SourceSample
from sifthinker.training.data.sources import Source, open_source
from sifthinker.training.data.tables import read_records, read_rejects
from sifthinker.training.distil.config import DistilConfig
from sifthinker.training.distil.make import DistilMaker, Repeated, RunCounts


class Share(BaseModel):
    """How many of some questions gave a record."""

    asked: int = 0
    kept: int = 0


class Distilled(BaseModel):
    """What a finished distillation came to."""

    records: int
    rejects: int
    families: dict[str, Share] = Field(description="By kind of question, where the source tells it.")
    reasons: dict[str, int] = Field(description="Rejects by reason.")
    areas: dict[int, int] = Field(description="Records by the areas of their trace.")
    progress: Progress = Field(description="Of this run of the command.")
    runs: RunCounts = Field(description="Likewise.")


def distil(
    config: DistilConfig,
    out: Path,
    *,
    policy: Policy | None = None,
    depth: DepthEstimator | None = None,
    give_up: bool = False,
    retry: Collection[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Distilled:
    """Distil into a folder, or go on with one.

    Args:
        config: what from, and how.
        out: the folder; new, empty, or one that the same configuration has begun.
        policy: who is asked; by default the configured one.
        depth: tells depths; by default the configured one.
        give_up: reject what the policy fails on twice, and images that are missing, instead of leaving it open.
        retry: reasons of rejects, see `sifthinker.training.data.build.build`.
        on_progress: told after each question.

    Returns:
        what came of it; the folder is complete.

    Raises:
        UsageError: a source or a name is wrong, the folder belongs to another distillation, or another process works in
            it. DataError: the folder cannot be written. PolicyError: the policy does not answer; what is finished is
            kept. DepthError: the depth source cannot be had.
    """
    sources: list[Source] = [Repeated(open_source(one), config.keep) for one in config.sources]
    for source in sources:
        probe(source)
    asked = policy or load_policy(config.policy)
    if asked.profile.dialect != "sif" and config.mode == "internal":
        raise UsageError(f"{asked.profile.name} does not speak traces by itself: distil it in mode tools.")
    gate = Gate()
    estimator = depth or _estimator(config, sources, asked)
    shelf = None if config.depth == "none" and depth is None else DepthShelf(out, estimator, gate)
    told = {
        **config.fingerprint(),
        "sources": [source.fingerprint() for source in sources],
        "weights": identity(config.policy, asked)["weights"] if policy is None else None,
        "depth_name": estimator.name if estimator is not None else config.depth,
    }
    maker = DistilMaker(config, out, asked, shelf, gate)
    progress = fill(
        out,
        sources,
        maker,
        told,
        config.build_config(),
        counts=maker.counts,
        give_up=give_up,
        retry=retry,
        on_progress=on_progress,
    )
    return summed(out, sources, progress, maker.runs)


def summed(out: Path, sources: list[Source], progress: Progress, runs: RunCounts) -> Distilled:
    """Count a finished folder."""
    families: dict[str, Share] = {}
    family_of: dict[int, str] = {}
    position = 0
    for source in sources:
        for sample in source:
            family = (sample.family if isinstance(sample, SourceSample) else "") or "–"
            family_of[position] = family
            families.setdefault(family, Share()).asked += 1
            position += 1
    areas: Counter[int] = Counter()
    records = 0
    for record in read_records(out):
        records += 1
        families[family_of[record.provenance.position]].kept += 1
        areas[record.trace.count("<area>")] += 1
    reasons = Counter(reject.reason for reject in read_rejects(out))
    return Distilled(
        records=records,
        rejects=reasons.total(),
        families=families,
        reasons=dict(reasons.most_common()),
        areas=dict(sorted(areas.items())),
        progress=progress,
        runs=runs,
    )


def _estimator(config: DistilConfig, sources: list[Source], policy: Policy) -> DepthEstimator | None:
    if config.depth != "auto":
        return load_depth(config.depth)
    if all(source.brings_depth for source in sources):
        return None
    return load_depth("embedded" if policy.profile.domain == "block world" else "small")
