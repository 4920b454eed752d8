"""`sifthinker train gain` and `sifthinker train ablation`: what a training gained, and what each reward is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sifthinker.training.gain import Change, Gain


def gain(
    before: Annotated[Path, typer.Argument(help="What `train score --json` wrote before the training.")],
    after: Annotated[Path, typer.Argument(help="And after it, on the same questions.")],
    also: Annotated[
        list[str] | None, typer.Option(help="A further pair, of another seed. Once for each.", metavar="BEFORE,AFTER")
    ] = None,
    modes: Annotated[str | None, typer.Option(help="Modes, with commas between; by default all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    check: Annotated[bool, typer.Option("--check", help="End with 1 unless it is a gain in every mode.")] = False,
) -> None:
    """What a training gained, question by question: paired differences with 95 % intervals, by family."""
    import json

    from rich.console import Console

    from sifthinker.policy.errors import UsageError
    from sifthinker.training.gain import gains

    pairs = [(before, after)]
    for pair in also or []:
        first, comma, second = pair.partition(",")
        if not comma:
            raise UsageError(f"Expected BEFORE,AFTER after --also, got {pair!r}.")
        pairs.append((Path(first), Path(second)))
    found = gains(pairs, modes=modes.split(",") if modes else None)
    if as_json:
        typer.echo(json.dumps({one.mode: {**one.model_dump(), "gain": one.meets()[0]} for one in found}))
    else:
        console = Console(highlight=False)
        for one in found:
            _print(console, one)
    if check and not all(one.meets()[0] for one in found):
        raise typer.Exit(1)


def _print(console: Console, found: Gain) -> None:
    from rich.table import Table

    seeds = f", {found.answers} answers" if found.answers != found.questions else ""
    title = f"{found.mode}{_sampled(found)}: {found.questions} questions{seeds}"
    table = Table("", "before", "after", "difference", title=title)
    for name, change in found.measures.items():
        table.add_row(name, *_cells(change))
    for family, change in found.families.items():
        table.add_row(f"  {family}", *_cells(change))
    console.print(table)
    test = found.test
    console.print(f"{test.gained} answers became right, {test.lost} wrong: p = {test.p:.3g} (exact, paired).")
    is_gain, why = found.meets()
    console.print(f"{'A gain' if is_gain else 'No gain'}: {why}.", soft_wrap=True)


def _sampled(found: Gain) -> str:
    return f", sampled at temperature {found.temperature:g}" if found.temperature else ""


def _words(**options: float | None) -> list[str]:
    """Those options that were given, as words of a command line."""
    return [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]


def _cells(change: Change) -> list[str]:
    difference = change.difference
    digits = 1 if max(abs(change.before), abs(change.after)) > 10 else 3
    return [
        f"{change.before:.{digits}f}",
        f"{change.after:.{digits}f}",
        f"{difference.value:+.{digits}f} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]",
    ]


def ablation(
    recipe: Annotated[str, typer.Argument(help="A GRPO recipe's name or YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder for all runs and scores; the same command goes on with it.")],
    data: Annotated[Path, typer.Option(help="Test questions made by `sifthinker world make`.")],
    policy: Annotated[str, typer.Option(help="The start of all runs.")] = "embedded",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these, once for each: robust, published, random, without-format, without-answer, ….",
            metavar="NAME",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Another number of steps than the recipe's.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed than the recipe's.", min=0)] = None,
    mode: Annotated[str, typer.Option(help="In which they are scored.")] = "internal",
    temperature: Annotated[float, typer.Option(help="At which they are scored; 0 is greedy.", min=0)] = 0.0,
    limit: Annotated[int | None, typer.Option(help="Only so many questions.", min=1)] = None,
    processes: Annotated[int | None, typer.Option(help="Of each run; by default the recipe's.", min=1)] = None,
    table_only: Annotated[
        bool, typer.Option("--table", help="Print the table of what is finished; run nothing.")
    ] = False,
) -> None:
    """What each reward is worth: the run with each left out in turn, and with the published rewards, as one table."""
    from rich.console import Console
    from rich.table import Table

    from sifthinker.training.grpo.ablation import VARIANTS, run_variants, table

    names = variant or list(VARIANTS)
    if table_only:
        rows = table(out, names, mode=mode)
    else:
        rows = run_variants(
            recipe,
            out,
            data,
            start=policy,
            variants=names,
            mode=mode,
            options=_words(steps=steps, seed=seed, processes=processes),
            scoring=_words(temperature=temperature or None, limit=limit),
        )
    gained = next((row.gain for row in rows if row.gain is not None), None)
    title = f"{mode}{_sampled(gained) if gained else ''}, change over the start"
    shown = Table(title=title)
    shown.add_column("rewards", no_wrap=True, min_width=max(map(len, names)))
    for heading in ("accuracy", "HIoU", "valid", "depth error"):
        shown.add_column(heading)
    for row in rows:
        if row.gain is None:
            shown.add_row(row.variant, *["not finished"] * 4)
            continue
        measures = row.gain.measures
        cells = [
            _after(measures[name]) if name in measures else "–" for name in ("accuracy", "hiou", "valid", "depth_error")
        ]
        shown.add_row(row.variant, *cells)
    Console(highlight=False).print(shown)


def _after(change: Change) -> str:
    difference = change.difference
    return f"{change.after:.3f} ({difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}])"
