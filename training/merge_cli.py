"""`sifthinker merge`: an adapter into weights, or several runs into their mean, ready to be shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, help="Put an adapter into its weights, with processor, profile and model card.")


@app.command()
def merge(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="A run's folder, its policy folder, a checkpoint, or an adapter. Of several, the mean.",
            metavar="RUN...",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write: loads with load_policy and with plain transformers.")],
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32; by default the base model's own.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the policy; by default the folder's.")] = None,
    scores: Annotated[Path | None, typer.Option(help="What `train score --json` wrote, for the model card.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Where the base model lies now, if not where the adapter says.")
    ] = None,
) -> None:
    """Put an adapter into its weights: a folder that `load_policy` and plain transformers load.

    Runs that began alike and differ in their seeds can be averaged: in the mean of their weights the noise of each is
    less. `train score` and `train gain` say whether it is better.
    """
    from rich.console import Console
    from transformers.utils import logging as hf_logging

    from sifthinker.training.merge import merge as write_merged

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    written = write_merged(sources[0], out, others=sources[1:], dtype=dtype, name=name, scores=scores, base=base)
    size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    Console(highlight=False).print(
        f"{written}: {size / 1e6:,.1f} MB. Try it: sifthinker ask IMAGE QUESTION --policy {written}", soft_wrap=True
    )
