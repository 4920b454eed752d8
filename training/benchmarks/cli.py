"""`sifthinker benchmarks`: what can be compared on, where it is from, how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sifthinker.training.benchmarks.base import Benchmark

app = typer.Typer(
    add_completion=False,
    help="Benchmarks that can be compared on: what they are, how to get them.",
    no_args_is_help=True,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """All benchmarks, a line each."""
    from rich.console import Console
    from rich.table import Table

    from sifthinker.training.benchmarks import card, names

    cards = [card(name) for name in names()]
    if as_json:
        import json

        typer.echo(json.dumps({"benchmarks": [one.model_dump() for one in cards]}))
        return
    table = Table("name", "benchmark", "size", "licence", box=None, pad_edge=False)
    for one in cards:
        table.add_row(one.name, one.title, one.size, one.licence)
    console = Console(highlight=False)
    console.print(table)
    console.print("\n`sifthinker benchmarks show NAME` tells how to get one; `--data NAME:PATH` uses it.")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A benchmark's name.")],
    where: Annotated[
        str | None,
        typer.Argument(help="A local copy or hub id to look into: is it as published?", metavar="[SOURCE]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a benchmark asks, its licence and files, its published metric and this project's, and how to get it.

    With a source, it is opened, checked against the published schema, and its first question shown.
    """
    from rich.console import Console

    from sifthinker.training.benchmarks import card, open_benchmark

    told = card(name)
    opened = open_benchmark(name, where) if where is not None else None
    if as_json:
        import json

        typer.echo(json.dumps({**told.model_dump(), "opened": None if opened is None else _opened(opened)}))
        return
    console = Console(highlight=False, soft_wrap=True)
    for field, value in told.model_dump().items():
        lines = [value] if isinstance(value, str) else list(value or ["–"])
        for index, line in enumerate(lines):
            console.print(f"{field if index == 0 else '':<10} {line}", markup=False)
    if opened is not None:
        for field, line in _opened(opened).items():
            console.print(f"{field:<10} {line}", markup=False)


def _opened(benchmark: Benchmark) -> dict[str, object]:
    """What a source holds."""
    questions = benchmark.questions()
    families: dict[str, int] = {}
    for one in questions:
        families[one.family] = families.get(one.family, 0) + 1
    first = questions[0]
    return {
        "source": str(benchmark.root),
        "questions": len(questions),
        "families": families,
        "first": {"id": first.id, "question": first.text, "options": list(first.options), "answer": first.answer},
    }
