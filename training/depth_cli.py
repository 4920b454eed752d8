"""`sifthinker train depth`: the depth network of the block world."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The depth network of the block world.", no_args_is_help=True)


@app.command()
def fit(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the trained network.")] = Path("runs/depth"),
    steps: Annotated[int | None, typer.Option(min=1, help="Another number of steps.")] = None,
    scenes: Annotated[int | None, typer.Option(min=1, help="Another number of scenes.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train from scratch, or go on with what stands in the folder."""
    import numpy as np

    from sifthinker.training.depth import DepthTraining, train_depth

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = {"steps": steps, "scenes": scenes, "seed": seed}
    settings = DepthTraining.model_validate({name: value for name, value in given.items() if value is not None})
    losses: list[float] = []

    def report(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 50 == 0:
            recent = float(np.mean(losses[-50:]))
            logging.getLogger(__name__).info("step %d of %d, loss %.4f", step, settings.steps, recent)

    train_depth(out, settings=settings, on_step=report)


@app.command()
def measure(
    source: Annotated[str, typer.Argument(help="What `DepthAnythingV2.from_pretrained` takes.")] = "embedded",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    count: Annotated[int, typer.Option(min=1, help="Scenes.")] = 300,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Print the errors against exact depth, as JSON."""
    import json

    from sifthinker.nodes.depth_anything import DepthAnythingV2
    from sifthinker.training.depth_data import measure_depth

    if split not in ("train", "val", "test"):
        raise typer.BadParameter(f"expected train, val or test, got {split!r}")
    scores = measure_depth(DepthAnythingV2.from_pretrained(source), split=split, count=count, seed=seed)  # type: ignore[arg-type]
    typer.echo(json.dumps({name: round(value, 4) for name, value in scores.model_dump().items()}))
