"""The pipeline: sources → image, boxes, depth → reverse expansion → teacher → verified records in a folder.

What a build writes:

    build.json     what was built, from what (fingerprints, no paths), and whether it is complete
    records/       shards of records          rejected/   shards of rejects, each with its reason
    images/        the images, by the hash of their pixels
    depth/         their depth, 16-bit and in colours
    journal/       samples that are finished but not yet in a shard; empty once the build is complete

The same command goes on where a run ended, however it ended; see `shards.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sifthinker.nodes.depth import DepthEstimator, load_depth
from sifthinker.policy.errors import DataError, UsageError
from sifthinker.policy.files import write_whole
from sifthinker.training.data.config import BuildConfig
from sifthinker.training.data.depths import DepthShelf
from sifthinker.training.data.files import Gate
from sifthinker.training.data.make import Maker, RecordMaker
from sifthinker.training.data.records import FORMAT
from sifthinker.training.data.runner import Progress, Runner
from sifthinker.training.data.samples import SourceSample, fault_of, inside
from sifthinker.training.data.shards import ShardStore
from sifthinker.training.data.sources import Source, open_source
from sifthinker.training.data.teacher import Teacher, TeacherCounts, load_teacher
from sifthinker.training.folders import locked, unwritable

PROBED = 50
"""Samples of a source whose images are looked for before anything else is done."""
REFUSED_AT_FIRST = 50
"""So many replies of a teacher at the beginning, none of which was accepted, end a build."""


def build(
    config: BuildConfig,
    out: Path,
    *,
    teacher: Teacher | None = None,
    depth: DepthEstimator | None = None,
    give_up: bool = False,
    retry: Collection[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Build a data set in a folder, or go on with one.

    Args:
        config: what from, and how.
        out: the folder; new, empty, or one that the same configuration has begun.
        teacher: writes the texts; by default the configured one.
        depth: tells depths; by default the configured one.
        give_up: reject what fails twice, and images that are missing, instead of leaving them open.
        retry: reasons of rejects whose samples are to be done again.
        on_progress: told after each sample.

    Returns:
        what this run did; the folder is complete.

    Raises:
        UsageError: a source or a name is wrong, the folder belongs to another build, another process works in it, or
            nothing was rejected for a reason that is to be tried again.
        DataError: the folder cannot be written (a full disk, say), or images cannot be read (a disk that is not
            mounted, say); what is finished is kept.
        DepthError: the depth source cannot be had.
        PolicyError: the teacher does not answer; what is finished is kept.
    """
    sources = [open_source(one) for one in config.sources]
    for source in sources:
        probe(source)
    writer = teacher or load_teacher(config.teacher, concurrency=config.concurrency)
    try:
        estimator = depth or _estimator(config, sources)
        gate = Gate()
        shelf = None if config.depth == "none" and depth is None else DepthShelf(out, estimator, gate)
        told = {
            **config.fingerprint(),
            "sources": [source.fingerprint() for source in sources],
            "teacher_name": writer.name,
            "depth_name": estimator.name if estimator is not None else config.depth,
        }
        maker = RecordMaker(config, out, writer, shelf, gate)
        counts = writer.counts
        return fill(
            out,
            sources,
            maker,
            told,
            config,
            counts=counts,
            give_up=give_up,
            retry=retry,
            most_refused=REFUSED_AT_FIRST,
            on_progress=on_progress,
        )
    finally:
        writer.close()


def fill(
    out: Path,
    sources: Sequence[Source],
    maker: Maker,
    told: dict[str, Any],
    config: BuildConfig,
    *,
    counts: TeacherCounts,
    give_up: bool = False,
    retry: Collection[str] = (),
    most_refused: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Fill a folder with what a maker makes of the samples of some sources.

    Args:
        out: the folder, see `build`.
        told: what decides its content; a folder that was begun with something else is refused.
        config: for the sizes of shards and windows.
        give_up, most_refused: see `Runner`.
        retry: see `build`.
    """
    progress = Progress()
    try:
        with locked(out):
            made_of = {"format": FORMAT, **told}
            begin(out, made_of)
            store = ShardStore(out, config.shard_size)
            if retry:
                reopen(out, store, retry, made_of)
            runner = Runner(
                sources,
                maker,
                store,
                concurrency=config.concurrency,
                failures_in_a_row=config.failures_in_a_row,
                counts=counts,
                on_progress=on_progress,
                progress=progress,
                give_up=give_up,
                most_refused=most_refused,
            )
            runner.run()
            _write_json(out / "build.json", {"complete": True, "made_of": made_of})
    except OSError as error:
        raise unwritable(error, out, progress.kept) from error
    return progress


def begin(out: Path, made_of: dict[str, Any]) -> None:
    """Make a folder ready, or see that it is one that was begun with the same.

    Raises:
        UsageError: it was begun with something else, or holds something else. DataError: it cannot be written.
    """
    path = out / "build.json"
    made_of = json.loads(json.dumps(made_of))  # as it will be read back
    if path.exists():
        before = read_json(path).get("made_of", {})
        if before != made_of:
            changed = sorted(key for key in {*before, *made_of} if before.get(key) != made_of.get(key))
            raise UsageError(f"{out} was begun with another {', '.join(changed)}: name another folder, or remove it.")
        return
    if any(entry.name != "lock" for entry in out.iterdir()):
        raise UsageError(f"{out} holds something that is no data set of this program: name a new folder.")
    _write_json(path, {"complete": False, "made_of": made_of})


def reopen(out: Path, store: ShardStore, reasons: Collection[str], made_of: dict[str, Any]) -> None:
    """Make the rejects of some reasons samples that are still to be done; the folder is not complete until they are.

    It remembers the reasons until then: what is rejected once more for one of them is not done again by a run that goes
    on with a retry that was broken off.

    Raises:
        UsageError: nothing in the folder was rejected for one of these.
    """
    path, found = out / "build.json", store.reasons()
    under_way = set(read_json(path).get("retrying", ()))
    if not all(found[reason] or reason in under_way for reason in reasons):
        known = ", ".join(f"{reason} {count}" for reason, count in found.most_common()) or "none"
        raise UsageError(f"Expected reasons of rejects in {out} ({known}), got {', '.join(reasons)}.")
    if anew := set(reasons) - under_way:
        told = {"complete": False, "made_of": made_of}
        _write_json(path, {**told, "retrying": sorted(under_way)})
        store.reopen(anew)
        _write_json(path, {**told, "retrying": sorted(under_way | anew)})


def is_complete(folder: Path) -> bool:
    """Whether the build of a folder came to its end."""
    path = folder / "build.json"
    return path.exists() and bool(read_json(path).get("complete"))


def maker_of(folder: Path) -> str:
    """The command that fills a folder."""
    path = folder / "build.json"
    made_of = read_json(path).get("made_of", {}) if path.exists() else {}
    return "data import" if "import" in made_of else "distil" if "distilled" in made_of else "data build"


def expect_complete(folder: Path) -> None:
    """See that the build of a folder, if it is one, came to its end.

    Raises:
        DataError: it did not; the message names the command that goes on.
    """
    path = folder / "build.json"
    if not path.exists() or is_complete(folder):
        return
    raise DataError(
        f"{folder} is not complete: `sifthinker {maker_of(folder)}` ended too early. Run the same command again, which "
        "goes on where it ended; `training_set(…, allow_partial=True)` takes what there is."
    )


def probe(source: Source) -> None:
    """See that the images of a source are where it says, before thousands of samples are refused for it.

    Raises:
        UsageError: none of the first images is there, or all that are lie behind links that are not to be followed.
        DataError: the system cannot look there.
    """
    named = [sample.image for sample in islice(source, PROBED) if isinstance(sample, SourceSample)]
    missing, refused = [], None
    for name in named:
        try:
            if not inside(source.images, name, links=True).exists():
                missing.append(name)
                continue
        except DataError as error:  # the name leads upwards
            if fault_of(error):
                raise
            missing.append(name)
            continue
        try:
            inside(source.images, name, links=source.config.links)
            return
        except DataError as error:
            refused = error
    if refused is not None:
        raise UsageError(
            f"{refused} Or have links followed: --links, or links: true for a source in a YAML file."
        ) from refused
    if missing:
        raise UsageError(
            f"None of the first {len(missing)} images of {source.annotations.name} is in {source.images}, for instance "
            f"{missing[0]!r}: name their folder after an @ (KIND:PATH@IMAGES)."
        )


def _estimator(config: BuildConfig, sources: Sequence[Source]) -> DepthEstimator | None:
    if config.depth != "auto":
        return load_depth(config.depth)
    return None if all(source.brings_depth for source in sources) else load_depth("small")


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove the folder and build it again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no description of a build: remove the folder and build it again.")
    return found


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
