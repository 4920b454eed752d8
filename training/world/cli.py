"""`sifthinker world`: scenes and questions of the block world."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

app = typer.Typer(
    add_completion=False,
    help="Scenes and questions of the block world: rendered, exact, no download.",
    no_args_is_help=True,
)


@app.callback()
def world() -> None:
    """Keeps `make` a command of its own while it is the only one."""


@app.command()
def make(
    out: Annotated[Path, typer.Option(help="Folder to write: images/, depth/ and questions.jsonl.")],
    split: Annotated[str, typer.Option(help="train, val or test: their scenes never meet.")] = "train",
    count: Annotated[int, typer.Option(help="How many questions, one a scene, the ten families in turn.")] = 100,
    seed: Annotated[int, typer.Option(help="Which run of scenes in the split (0 to 999,999).")] = 0,
    size: Annotated[int, typer.Option(help="Edge of the square pictures in pixels.")] = 384,
    workers: Annotated[int | None, typer.Option(help="Processes; by default one a core.")] = None,
) -> None:
    """Write scenes with exact depth, and a question about each with its answer and the boxes that decide it."""
    from sifthinker.policy.errors import UsageError
    from sifthinker.training.world.dataset import make_world

    if split not in ("train", "val", "test"):
        raise UsageError(f"Expected --split train, val or test, got {split!r}.")
    making = make_world(out, split=split, count=count, seed=seed, size=size, workers=workers)  # type: ignore[arg-type]
    families: Counter[str] = Counter()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Scenes", total=count)
        for record in making:
            families[record.family] += 1
            progress.advance(task)
    console.print(f"{count} questions in {out}: " + ", ".join(f"{name} {n}" for name, n in families.items()))
