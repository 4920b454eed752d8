"""Where questions come from: a reader for each published schema, which declares the space that its boxes are in.

| kind | file | boxes |
|---|---|---|
| `viscot` | Visual-CoT's `viscot_363k.json`, or a JSON of its benchmark | 0–1 of the padded square (three decimals) |
| `viscot-metadata` | the JSON lines that Visual-CoT was made from | pixels, one box an object |
| `tallyqa` | TallyQA with boxes: JSON lines or an array of question, answer, image, bboxs | pixels |
| `refcoco` | RefCOCO/+/g as JSON lines of img_path, expression, bbox | pixels |
| `sif50k` | SIF-50K's JSON, its questions and boxes only: traces are made anew | as its data set has them |
| `jsonl` | JSON lines of image, question, answer, boxes and, if you like, options, family, id | as you declare |
| `world` | a folder made by `sifthinker world make` | 0–1 of width and height |

Visual-CoT's boxes are normalised in the square to which the image is padded, although they look like shares of width
and height: read as those they lie wrong on every image that is not square. A space is therefore part of a kind;
`sifthinker data check` compares it with what the file says elsewhere.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import UsageError
from sifthinker.policy.files import expanded
from sifthinker.training.data.config import BuildConfig, SourceConfig
from sifthinker.training.data.readers import KINDS, Kind
from sifthinker.training.data.rows import Row, RowError, read_rows
from sifthinker.training.data.samples import BadRow, SourceSample


@dataclass
class Source:
    """The samples of one source, in the file's order. Iterating twice gives the same."""

    config: SourceConfig
    kind: Kind
    annotations: Path
    images: Path
    skipped: Counter[str] = field(default_factory=Counter)
    """Rows left out by the last iteration, by data set: excluded, or beyond a limit."""

    def __iter__(self) -> Iterator[SourceSample | BadRow]:
        config, kind = self.config, self.kind
        excluded = set(kind.exclude if config.exclude is None else config.exclude)
        per_dataset = kind.per_dataset if config.per_dataset is None else config.per_dataset
        limit = kind.limit if config.limit is None else config.limit
        taken: Counter[str] = Counter()
        self.skipped.clear()
        for position, row in enumerate(read_rows(self.annotations)):
            sample = self._sample(row, position)
            dataset = sample.dataset if isinstance(sample, SourceSample) else ""
            if dataset in excluded or (per_dataset and dataset and taken[dataset] >= per_dataset):
                self.skipped[dataset] += 1
                continue
            taken[dataset] += 1
            yield sample
            if limit and taken.total() >= limit:
                return

    @property
    def brings_depth(self) -> bool:
        """Whether its samples come with exact depth."""
        return self.config.kind == "world"

    def fingerprint(self) -> dict[str, Any]:
        """What decides its samples: two sources with the same fingerprint yield the same. No paths."""
        told = self.config.model_dump(mode="json", exclude={"path", "images", "links"})
        with self.annotations.open("rb") as file:
            return {**told, "file": self.annotations.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def _sample(self, row: Row | RowError, position: int) -> SourceSample | BadRow:
        try:
            if isinstance(row, RowError):
                raise row
            return self.kind.reader(row, position, self.config)
        except RowError as error:
            return BadRow(row_id=str(position), reason=error.reason, message=str(error))


def open_source(config: SourceConfig) -> Source:
    """The source of a configuration.

    Raises:
        UsageError: no such kind (the message lists them), no such file or folder, or a space that the kind has not.
    """
    kind = KINDS.get(config.kind)
    if kind is None:
        raise UsageError(f"Expected a kind of source, one of {', '.join(KINDS)}, got {config.kind!r}.")
    if config.space is not None and config.space not in kind.spaces:
        spaces = ", ".join(space.value for space in kind.spaces)
        raise UsageError(f"The boxes of {config.kind} are in the space {spaces}, not {config.space.value}.")
    annotations = config.path / "questions.jsonl" if config.kind == "world" else config.path
    images = config.images or annotations.parent
    if not annotations.is_file():
        raise UsageError(f"No file {annotations} for the source {config.kind}.")
    if not images.is_dir():
        raise UsageError(f"No folder {images} with the images of {annotations.name}: name it after an @.")
    return Source(config, kind, annotations, images)


def parse_source(spec: str) -> SourceConfig:
    """A source from `KIND:PATH`, `KIND:PATH@IMAGES`, and for jsonl `jsonl/SPACE:PATH@IMAGES`.

    Raises:
        UsageError: it has not this form.
    """
    head, colon, rest = spec.partition(":")
    kind, _, space = head.partition("/")
    path, images = _path_and_images(rest)
    if not colon or not path or kind not in KINDS:
        raise UsageError(
            f"Expected a source as KIND:PATH or KIND:PATH@IMAGES, KIND of {', '.join(KINDS)}; got {spec!r}."
        )
    if space and space not in set(BoxSpace):
        raise UsageError(f"Expected a box space, one of {', '.join(BoxSpace)}, got {space!r} in {spec!r}.")
    return SourceConfig(
        kind=kind,
        path=expanded(path),
        images=expanded(images) if images else None,
        space=BoxSpace(space) if space else None,
    )


def _path_and_images(rest: str) -> tuple[str, str]:
    """PATH and IMAGES of PATH@IMAGES; a path that is there may have an @ in its own name."""
    places = [place for place, character in enumerate(rest) if character == "@"]
    for place in (len(rest), *reversed(places)):
        if place and expanded(rest[:place]).exists():
            return rest[:place], rest[place + 1 :]
    path, _, images = rest.partition("@")
    return path, images


def load_config(
    path: Path | None,
    *,
    sources: Sequence[str] = (),
    whole: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    expansion: Mapping[str, Any] | None = None,
    each_source: Mapping[str, Any] | None = None,
) -> BuildConfig:
    """The configuration of a YAML file with the options of a command line on top.

    Args:
        path: the file; None: everything comes from the options.
        sources: in the form of `parse_source`; they take the place of the file's.
        whole, teacher, expansion, each_source: fields of `BuildConfig` and its parts; None leaves what the file says.

    Raises:
        UsageError: the file cannot be read, no source is named, or a field does not fit.
    """
    fields = _yaml(path) if path else {}
    if sources:
        fields["sources"] = [parse_source(spec).model_dump() for spec in sources]
    if not fields.get("sources"):
        raise UsageError("No source is named: give --source KIND:PATH, for instance --source world:world/train.")
    try:
        fields |= _given(whole)
        for name, part in {"teacher": teacher, "expansion": expansion}.items():
            if given := _given(part):
                fields[name] = {**fields.get(name, {}), **given}
        fields["sources"] = [{**one, **_given(each_source)} for one in fields["sources"]]
        return BuildConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"The configuration does not fit at {place!r}: {first['msg']}.") from error
    except TypeError as error:
        raise UsageError(f"The configuration does not fit: {error}.") from error


def _given(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (options or {}).items() if value is not None}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} should be a mapping with the fields of a build's configuration.")
    return found
