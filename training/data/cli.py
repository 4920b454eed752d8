"""`sifthinker data`: build training data, check it, look at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sifthinker.policy.files import expanded

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from sifthinker.nodes.images import ImageSource
    from sifthinker.training.data.audit import Audit
    from sifthinker.training.data.build import Progress
    from sifthinker.training.data.check import Findings, Leaks
    from sifthinker.training.data.config import BuildConfig
    from sifthinker.training.data.stats import Stats

app = typer.Typer(
    add_completion=False,
    help="Training data: build records with focus traces from questions and boxes, check them, look at them.",
    no_args_is_help=True,
)

FolderArgument = Annotated[Path, typer.Argument(help="A folder made by `sifthinker data build`.", metavar="FOLDER")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
LinksOption = Annotated[bool, typer.Option("--links", help="Follow symbolic links out of the folder of images.")]
GiveUpOption = Annotated[
    bool,
    typer.Option("--give-up", help="Reject what fails twice, and images that are missing, instead of leaving it open."),
]
RetryOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Do the samples again that were rejected for this reason (`data stats` lists them). Once for each.",
        metavar="REASON",
    ),
]
_KINDS = "world, jsonl/SPACE, viscot, viscot-metadata, tallyqa, refcoco, sif50k"


@app.command()
def build(
    out: Annotated[Path, typer.Argument(help="Folder to write, or to go on with.", metavar="FOLDER")],
    source: Annotated[
        list[str] | None,
        typer.Option("--source", "-s", help=f"Once for each: KIND:PATH or KIND:PATH@IMAGES, KIND of {_KINDS}."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with the fields of BuildConfig; options here come on top.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Who writes: offline, or openai:MODEL@URL.")] = None,
    depth: Annotated[
        str | None,
        typer.Option(help="auto (exact where the source brings it, else small), none, embedded, small, base, large, …"),
    ] = None,
    published: Annotated[
        bool | None, typer.Option("--published", help="The published expansion, with its fault, for reproduction.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the wrong areas.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most samples of each source.")] = None,
    per_dataset: Annotated[int | None, typer.Option(help="Most samples of each data set in a source.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Samples under way at once.")] = None,
    links: LinksOption = False,
    give_up: GiveUpOption = False,
    retry: RetryOption = None,
) -> None:
    """Make records: boxes expanded to the way of a trace, texts by a teacher, each trace verified.

    The same command goes on where a run ended. Samples that were refused are kept with their reason. Ends with 1 where
    no record came of it.
    """
    from sifthinker.training.data.build import build as run
    from sifthinker.training.data.sources import load_config

    told = load_config(
        config,
        sources=source or (),
        whole={"depth": depth, "seed": seed, "concurrency": concurrency},
        teacher={"name": teacher},
        expansion={"published": published},
        each_source={"limit": limit, "per_dataset": per_dataset, "links": links or None},
    )
    with _progress("Samples") as (console, tick):
        done = run(told, out, give_up=give_up, retry=retry or (), on_progress=tick)
    console.print(_sentence(done, told, out))
    _expect_records(out)


@app.command()
def check(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder made by `sifthinker data build`.", metavar="[FOLDER]")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="What the records must not show: a folder of images, or a benchmark as NAME or NAME:SOURCE. Once for "
            "each.",
            metavar="WHAT",
        ),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", "-s", help="A source whose box space is audited: KIND:PATH@IMAGES.")
    ] = None,
    deep: Annotated[bool, typer.Option(help="Open every image and compare its hash.")] = False,
    limit: Annotated[int, typer.Option(help="Rows of a source that an audit looks at.", min=1)] = 500,
    links: LinksOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check records, look for pictures of a benchmark among theirs, audit the box space of a source.

    Ends with 1 if anything is wrong.
    """
    import json
    from itertools import chain

    from rich.console import Console

    from sifthinker.policy.errors import UsageError
    from sifthinker.training.data.audit import audit
    from sifthinker.training.data.check import Leaks, check_records, find_leaks
    from sifthinker.training.data.sources import open_source, parse_source

    if folder is None and not source:
        raise UsageError("Name a folder of records, or a source with --source KIND:PATH@IMAGES.")
    if against and folder is None:
        raise UsageError("Name the folder of records that --against is compared with.")
    sources = [parse_source(spec).model_copy(update={"links": links}) for spec in source or []]
    others = [_pictures(other) for other in against or []]
    findings: Findings | None = None
    found = Leaks()
    audits: list[Audit] = []
    if folder is not None:
        with _counting("Records") as tick:
            findings = check_records(folder, deep=deep, tick=tick)
    if folder is not None and others:
        with _counting("Pictures") as tick:
            found = find_leaks(folder, chain.from_iterable(others), tick=tick)
    if against and not found.compared:
        raise UsageError(f"Nothing was compared: {', '.join(against)} holds no picture that can be opened.")
    for one in sources:
        with _counting(f"Rows of {one.path.name}") as tick:
            audits.append(audit(open_source(one), limit=limit, tick=tick))
    told = {
        "records": findings.model_dump() if findings else None,
        **found.model_dump(),
        "audits": [one.model_dump(mode="json") for one in audits],
    }
    if as_json:
        typer.echo(json.dumps(told))
    else:
        _print_check(Console(highlight=False, soft_wrap=True), findings, found if against else None, audits)
    if (findings and findings.wrong) or found.leaks or found.unread or any(one.problems for one in audits):
        raise typer.Exit(1)


def _pictures(what: str) -> Iterable[tuple[str, str, ImageSource]]:
    """The pictures that --against names: of a folder, else of a benchmark."""
    from sifthinker.policy.errors import UsageError
    from sifthinker.training import benchmarks
    from sifthinker.training.data.check import images_of

    name, _, where = what.partition(":")
    folder = expanded(what)
    if folder.is_dir():
        return images_of(folder)
    if name.casefold() not in benchmarks.names():
        known = ", ".join(benchmarks.names())
        raise UsageError(f"{what!r} is no folder of images and no benchmark (known are {known}).")
    return benchmarks.open_benchmark(name, where or None).pictures()


def _print_check(console: Console, findings: Findings | None, found: Leaks | None, audits: list[Audit]) -> None:
    from rich.markup import escape

    if findings is not None:
        console.print(f"{findings.records} records, {'all well' if not findings.wrong else 'of which:'}")
        for what, count in findings.wrong.items():
            console.print(f"  {count} {escape(what)}, for instance {escape(', '.join(findings.examples[what]))}")
    if found is not None:
        console.print(f"{len(found.leaks)} of {found.compared} pictures leak" + (":" if found.leaks else ""))
        for leak in found.leaks[:20]:
            how = "the same pixels" if leak.same else f"{leak.bits} of 256 bits differ"
            console.print(escape(f"  {leak.other}/{leak.name} is in record {leak.record} ({how})"))
        if found.unread:
            said = f"{len(found.unread)} could not be opened and were not compared, for instance {found.unread[0]}"
            console.print(escape(said))
    for one in audits:
        spaces = " and ".join(space.value for space in one.declared) or "none"
        console.print(escape(f"{one.file}: {one.samples} samples, boxes declared as {spaces}"))
        for space, share in one.plausible.items():
            agreement = f", IoU with the rows' own pixels {one.agreement[space]:.3f}" if one.agreement else ""
            console.print(f"  read as {space.value}: {share:.1%} in their image{agreement}")
        for reason, count in one.unread.items():
            console.print(escape(f"  {count} of the rows no sample ({reason}), for instance {one.examples[reason]}"))
        for problem in one.problems or ["the declared space is plausible"]:
            console.print(escape(f"  {problem}"))


@app.command()
def stats(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """What a folder holds, in numbers."""
    from rich.console import Console

    from sifthinker.training.data.stats import folder_stats

    found = folder_stats(folder)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    _print_stats(Console(highlight=False), found)


def _print_stats(console: Console, found: Stats) -> None:
    from rich.markup import escape

    state = "" if found.complete else f" (not complete: the same `sifthinker {found.command}` goes on)"
    console.print(f"{found.records} records on {found.images} images, {found.rejects} rejects{state}")
    tokens = f"{found.prompt_tokens:,} tokens in, {found.completion_tokens:,} out"
    console.print(f"{found.attempts} traces written, {tokens}, {found.mean_trace_characters:.0f} characters a trace")
    for name in ("sources", "families", "teachers", "depths", "expansions", "steps", "boxes", "reasons"):
        counts = getattr(found, name)
        if counts:
            console.print(f"[bold]{name}[/]  " + escape(", ".join(f"{key} {count}" for key, count in counts.items())))


@app.command()
def show(
    folder: FolderArgument,
    record: Annotated[str | None, typer.Argument(help="Its id, or its number from 1.", metavar="[RECORD]")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")] = Path("record.html"),
) -> None:
    """Write a record as one HTML page: image, depth, the boxes of each step, its texts, where it came from."""
    from rich.console import Console

    from sifthinker.training.data.show import find_record, record_page

    found = find_record(folder, record)
    out.write_text(record_page(folder, found), encoding="utf-8")
    Console(stderr=True, highlight=False).print(f"{found.id} is in {out}", markup=False)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="SIF-50K's JSON.", metavar="JSON")],
    out: Annotated[Path, typer.Argument(help="Folder to write, or to go on with.", metavar="FOLDER")],
    images: Annotated[Path | None, typer.Option(help="Folder of its images; by default the JSON's.")] = None,
    as_published: Annotated[
        bool, typer.Option("--as-published", help="Take padded-square boxes as shares of width and height, as it did.")
    ] = False,
    depth: Annotated[str, typer.Option(help="A depth source, for rows without a depth picture.")] = "none",
    links: LinksOption = False,
    give_up: GiveUpOption = False,
    retry: RetryOption = None,
) -> None:
    """Make a folder of records of the published SIF-50K JSON, with its own traces."""
    from sifthinker.nodes.depth import load_depth
    from sifthinker.training.data.sif50k import import_sif50k

    with _progress("Rows") as (console, tick):
        done = import_sif50k(
            path,
            out,
            images=images,
            links=links,
            as_published=as_published,
            depth=load_depth(depth),
            give_up=give_up,
            retry=retry or (),
            on_progress=tick,
        )
    console.print(_sentence(done, None, out))
    _expect_records(out)


@app.command()
def export(
    folder: FolderArgument,
    out: Annotated[Path, typer.Argument(help="JSON file to write.", metavar="JSON")],
) -> None:
    """Write the records of a folder in the schema of SIF-50K; file names stay relative to the folder."""
    from rich.console import Console

    from sifthinker.training.data.sif50k import write_sif50k

    with _counting("Records") as tick:
        count = write_sif50k(folder, out, on_record=tick)
    Console(stderr=True, highlight=False).print(f"{count} records are in {out}", markup=False)


def _expect_records(out: Path) -> None:
    """See that something came of a build.

    Raises:
        DataError: every sample was rejected.
    """
    from sifthinker.policy.errors import DataError
    from sifthinker.training.data.stats import folder_stats

    found = folder_stats(out)
    if found.records:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in found.reasons.items())
    raise DataError(
        f"No record came of it: all {found.rejects} samples were rejected ({reasons}), see {out / 'rejected'}."
    )


@contextmanager
def _counting(what: str) -> Iterator[Callable[[], None]]:
    """A line that counts what is looked at, where there is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    said = (TextColumn("{task.description}", markup=False), TextColumn("{task.completed:.0f}"))
    columns = (SpinnerColumn(), *said, TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda: bar.advance(task)


@contextmanager
def _progress(what: str) -> Iterator[tuple[Console, Callable[[Progress], None]]]:
    """A line that counts, where there is a terminal; and the console to say the end on."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (SpinnerColumn(), TextColumn(what), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, said="")

        def tick(done: Progress) -> None:
            bar.update(task, said=_counts(done))

        yield console, tick


def _counts(done: Progress) -> str:
    """A run's counts, as they stand."""
    parts = [f"{done.accepted} accepted", f"{done.rejected} rejected"]
    parts += [f"{done.earlier} from earlier runs"] if done.earlier else []
    parts += [f"{done.open} open"] if done.open else []
    if done.teacher.prompt_tokens:
        parts.append(f"{done.teacher.prompt_tokens:,} tokens in, {done.teacher.completion_tokens:,} out")
    return ", ".join(parts)


def _sentence(done: Progress, config: BuildConfig | None, out: Path) -> str:
    """How a run ended."""
    from rich.markup import escape

    cost = done.teacher.cost(config.teacher) if config else 0.0
    return escape(f"{out} is complete: {_counts(done)}" + (f", cost {cost:.2f}" if cost else "") + ".")
