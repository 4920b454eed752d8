"""`sifthinker distil`: runs of the agent with its tools, as training data for answering without them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sifthinker.training.data.cli import GiveUpOption, JsonOption, LinksOption, RetryOption

if TYPE_CHECKING:
    from sifthinker.training.distil.run import Distilled

app = typer.Typer(add_completion=False, help="Make training data of the agent's own good runs.")


@app.command()
def distil(
    out: Annotated[Path, typer.Argument(help="Folder to write, or to go on with.", metavar="FOLDER")],
    source: Annotated[
        list[str],
        typer.Option(
            "--source", "-s", help="Questions, once for each source: KIND:PATH or KIND:PATH@IMAGES, as in data build."
        ),
    ],
    policy: Annotated[
        str, typer.Option("--policy", "-p", help="Who is asked: embedded, a hub id, ./folder, openai:MODEL@URL.")
    ] = "embedded",
    mode: Annotated[str, typer.Option(help="How it is asked: tools, or internal.")] = "tools",
    samples: Annotated[int, typer.Option(help="Runs of a question for each record that it may give.", min=1)] = 4,
    keep: Annotated[int, typer.Option(help="Records that a question may give, each from runs of its own.", min=1)] = 1,
    temperature: Annotated[
        float, typer.Option(help="Of all runs but a question's first, which is greedy.", min=0)
    ] = 1.0,
    min_hiou: Annotated[float, typer.Option(help="Of the last area with the boxes that decide.", min=0, max=1)] = 0.5,
    min_answer: Annotated[float, typer.Option(help="What an answer must be worth.", min=0, max=1)] = 1.0,
    min_areas: Annotated[int, typer.Option(help="Areas that a run must have looked at.", min=1)] = 2,
    max_steps: Annotated[int, typer.Option(help="Areas that a run may look at.", min=1, max=64)] = 8,
    depth: Annotated[
        str, typer.Option(help="auto (exact where the source brings it), none, embedded, small, base, large, …")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the runs.", min=0)] = 0,
    limit: Annotated[int | None, typer.Option(help="Most questions of each source.", min=1)] = None,
    concurrency: Annotated[int, typer.Option(help="Questions under way at once.", min=1)] = 16,
    links: LinksOption = False,
    give_up: GiveUpOption = False,
    retry: RetryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask training questions with tools, several times each, and keep the runs that are right and grounded.

    Their crops are taken out and measured depths put in: records for `train sft` and `train grpo`, in the form of
    `data build`. The same command goes on where a run ended; what was refused is kept with its reason.
    """
    from pydantic import ValidationError
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from sifthinker.policy.errors import UsageError
    from sifthinker.training.data.sources import parse_source
    from sifthinker.training.distil.config import DistilConfig
    from sifthinker.training.distil.run import distil as run

    sources = [parse_source(spec).model_copy(update={"limit": limit, "links": links}) for spec in source]
    fields: dict[str, Any] = {
        "sources": sources, "policy": policy, "mode": mode, "samples": samples, "keep": keep,
        "temperature": temperature, "min_hiou": min_hiou, "min_answer": min_answer, "min_areas": min_areas,
        "max_steps": max_steps, "depth": depth, "seed": seed, "concurrency": concurrency,
    }  # fmt: skip
    try:
        config = DistilConfig(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}.") from None
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as shown:
        task = shown.add_task("Questions", total=None, said="")

        def tick(progress: Any) -> None:
            shown.update(task, said=f"{progress.accepted} kept, {progress.rejected} refused")

        found = run(config, out, give_up=give_up, retry=retry or (), on_progress=tick)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    _print(Console(highlight=False), found, out, keep)


def _print(console: Any, found: Distilled, out: Path, keep: int) -> None:
    from rich.table import Table

    asked = found.records + found.rejects
    gave = f"{found.records} of {asked} questions gave a record"
    if keep > 1:
        gave = f"{asked // keep} questions gave {found.records} of the {asked} records that they may give"
    console.print(f"{out} is complete: {gave}.", soft_wrap=True)
    if found.progress.earlier:
        console.print(f"{found.progress.earlier} of {asked} were finished by earlier runs of this command.")
    table = Table("family", "asked", "kept", "share")
    for family, share in found.families.items():
        table.add_row(family, str(share.asked), str(share.kept), f"{share.kept / max(share.asked, 1):.0%}")
    console.print(table)
    if found.runs.runs:
        told = ", ".join(
            f"{count} {reason}" for reason, count in sorted(found.runs.reasons.items(), key=lambda r: -r[1])
        )
        console.print(f"{found.runs.runs} runs: {told}.", soft_wrap=True)
    if found.areas:
        console.print("areas of a trace: " + ", ".join(f"{areas}: {count}" for areas, count in found.areas.items()))
    if found.reasons:
        console.print("refused: " + ", ".join(f"{reason} {count}" for reason, count in found.reasons.items()))
