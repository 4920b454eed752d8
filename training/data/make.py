"""One sample made into a record, or into a reject with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.images import LoadedImage
from sifthinker.policy.boxes import Box
from sifthinker.policy.errors import DataError, DepthError, ImageError, TraceError
from sifthinker.policy.image_files import sniff
from sifthinker.policy.trace import Trace
from sifthinker.training.data.config import BuildConfig
from sifthinker.training.data.depths import DepthShelf
from sifthinker.training.data.expansion import Area, forward_areas, measured
from sifthinker.training.data.files import Gate, bring
from sifthinker.training.data.intake import Refusal, Unreadable, normalised, opened, refused
from sifthinker.training.data.records import Provenance, Record, Reject, conversation
from sifthinker.training.data.samples import BadRow, SourceSample, inside
from sifthinker.training.data.sources import Source
from sifthinker.training.data.teacher import Reply, Task, Teacher
from sifthinker.training.data.verify import Verdict, verify

_MAX_TEXT = 8_000


class Maker(Protocol):
    """Makes records or rejects of samples. Called from several threads.

    It raises a PolicyError where the teacher failed and an `Unreadable` where the system did (neither says anything
    about the sample), and an OSError where the folder cannot be written.
    """

    @property
    def gate(self) -> Gate:
        """Passed by every thread that writes to the folder."""
        ...

    def __call__(self, position: int, source: Source, sample: SourceSample | BadRow) -> Record | Reject: ...


@dataclass
class Effort:
    """What was written for a sample so far."""

    text: str = ""
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, reply: Reply) -> None:
        """Count a reply."""
        self.text = reply.text
        self.attempts += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens


@dataclass
class RecordMaker:
    """Makes records by expansion and a teacher; see `Maker`."""

    config: BuildConfig
    folder: Path
    teacher: Teacher
    shelf: DepthShelf | None
    """None: records go without depth."""
    gate: Gate
    _expansion: str = field(init=False)

    def __post_init__(self) -> None:
        self._expansion = "published" if self.config.expansion.published else "mended"

    def __call__(self, position: int, source: Source, sample: SourceSample | BadRow) -> Record | Reject:
        """The record of a sample, or why there is none."""
        return made_or_refused(position, source, sample, self._record)

    def _record(self, position: int, source: Source, sample: SourceSample, effort: Effort) -> Record:
        path, image = opened(source, sample.image)
        boxes = normalised(sample, image.size, self.config)
        depth, depth_name = depth_of(source, sample, image, self.shelf, exact=self.config.depth == "auto")
        rng = np.random.default_rng([self.config.seed, position])
        decimals = self.config.expansion.decimals
        areas = measured(forward_areas(boxes, image.size, rng, self.config.expansion), depth, decimals)
        trace = self._taught(position, sample, image, areas, effort)
        provenance = provenance_of(position, source, sample, self.teacher.name, effort).model_copy(
            update={"depth": depth_name, "expansion": self._expansion, "notes": list(image.warnings)}
        )
        return finished(
            self.folder, path, image, sample, areas[-1].xyxy, trace, self.shelf, decimals, provenance, self.gate
        )

    def _taught(
        self, position: int, sample: SourceSample, image: LoadedImage, areas: Sequence[Area], effort: Effort
    ) -> Trace:
        """The first trace that is accepted."""
        verdict = Verdict(None)
        for attempt in range(1, self.config.teacher.attempts + 1):
            task = Task(
                question=sample.question,
                answer=sample.answer,
                options=sample.options,
                areas=areas,
                image=image.image,
                labels=sample.labels,
                decimals=self.config.expansion.decimals,
                refused=verdict.message,
                attempt=attempt,
                seed=self.config.seed + position,
            )
            try:
                reply = self.teacher.write(task)
            except TraceError as error:  # the offline teacher renders what the sample says
                raise Refusal("answer", f"The answer cannot stand in a trace: {error}.") from error
            effort.add(reply)
            verdict = verify(reply.text, areas, sample.answer, options=sample.options, decimals=task.decimals)
            if verdict.trace is not None:
                return verdict.trace
        raise Refusal(verdict.reason, verdict.message)


def made_or_refused(
    position: int,
    source: Source,
    sample: SourceSample | BadRow,
    make: Callable[[int, Source, SourceSample, Effort], Record],
) -> Record | Reject:
    """What `make` makes of a sample, or the reject of a row that cannot be read or that it refuses."""
    effort = Effort()
    if isinstance(sample, BadRow):
        return reject_of(position, source, sample, effort, sample.reason, sample.message)
    try:
        return make(position, source, sample, effort)
    except Refusal as error:
        return reject_of(position, source, sample, effort, error.reason, str(error))


def depth_of(
    source: Source, sample: SourceSample, image: LoadedImage, shelf: DepthShelf | None, *, exact: bool
) -> tuple[DepthMap | None, str]:
    """The depth of a sample's image, and what told it.

    Args:
        source, sample, image: whose depth.
        shelf: where depths are kept; None: there are none.
        exact: take the depth that the sample brings, where it brings one.

    Raises:
        Refusal: "depth". Unreadable: the system cannot read it now.
    """
    if shelf is None:
        return None, ""
    given = None
    try:
        if sample.depth and exact:
            given = inside(source.images, sample.depth, links=source.config.links)
        return shelf.of(image, given), "exact" if given else shelf.estimator_name
    except (DepthError, ImageError, DataError) as error:
        raise refused("depth", error) from error


def provenance_of(position: int, source: Source, sample: SourceSample, teacher: str, effort: Effort) -> Provenance:
    """Where a record came from."""
    return Provenance(
        source=source.config.kind,
        dataset=sample.dataset,
        split=sample.split,
        row_id=sample.row_id,
        position=position,
        box_space=sample.space,
        teacher=teacher,
        attempts=effort.attempts,
        prompt_tokens=effort.prompt_tokens,
        completion_tokens=effort.completion_tokens,
    )


def finished(
    folder: Path,
    path: Path,
    image: LoadedImage,
    sample: SourceSample,
    boxes: Sequence[Box],
    trace: Trace,
    shelf: DepthShelf | None,
    decimals: int,
    provenance: Provenance,
    gate: Gate,
) -> Record:
    """The record, its image brought into the folder."""
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(64))
    except OSError as error:  # it was there before the teacher wrote
        raise Unreadable(f"{path.name} cannot be read any more ({error.strerror}).") from error
    rgb = f"images/{image.sha256[:2]}/{image.sha256}.{kind.lower()}"
    with gate:
        bring(path, folder / rgb)
    names = shelf.names(image.sha256) if shelf is not None else None
    try:
        written, prompt, messages = conversation(
            sample.question, list(sample.options), trace, depth_shown=names is not None, decimals=decimals
        )
    except TraceError as error:
        raise Refusal("answer", f"The trace cannot be written: {error}.") from error
    return Record(
        id=f"{provenance.source}-{provenance.position:07d}",
        question=sample.question,
        options=list(sample.options),
        answer=sample.answer,
        family=sample.family,
        rgb=rgb,
        rgb_sha256=image.sha256,
        rgb_size=image.size,
        depth_map=names[0] if names else None,
        images=[rgb, names[1]] if names else [rgb],
        boxes=list(boxes),
        labels=list(sample.labels),
        trace=written,
        prompt=prompt,
        messages=messages,
        provenance=provenance,
    )


def reject_of(
    position: int, source: Source, sample: SourceSample | BadRow, effort: Effort, reason: str, message: str
) -> Reject:
    """A reject, with what was there of the sample."""
    known = sample if isinstance(sample, SourceSample) else None
    return Reject(
        id=f"{source.config.kind}-{position:07d}",
        source=source.config.kind,
        dataset=known.dataset if known else "",
        row_id=sample.row_id,
        position=position,
        reason=reason,
        message=_storable(message.replace(f"{source.images}/", "")),  # a data set tells nothing of the machine
        rgb=known.image if known else "",
        question=known.question if known else "",
        answer=known.answer if known else "",
        text=_storable(effort.text),
        attempts=effort.attempts,
        prompt_tokens=effort.prompt_tokens,
        completion_tokens=effort.completion_tokens,
    )


def _storable(text: str) -> str:
    """A text of any origin that a file can hold: cut short, without half surrogate pairs."""
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
