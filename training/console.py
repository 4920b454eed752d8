"""What a training on TRL says on the terminal: of itself, of its plan, of the command that starts it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from sifthinker.training.launch import CONFIG, Machines, command_of, own_rank, shown
from sifthinker.training.planner import GB, Plan


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """What a run says of itself goes to standard error, once: of several processes the first one says it."""
    own = logging.getLogger("sifthinker")
    own.setLevel(logging.INFO if own_rank() == 0 else logging.WARNING)
    handler = RichHandler(console=Console(stderr=True), show_level=False, show_path=False)
    own.addHandler(handler)
    try:
        yield
    finally:
        own.removeHandler(handler)


def quieten() -> None:
    """What libraries say of themselves is not said to whoever trains."""
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|peft")
    if importlib.util.find_spec("datasets") is not None:
        from datasets import disable_progress_bars

        disable_progress_bars()


def show_command(console: Console, arguments: Sequence[str], machines: Machines, out: Path, *, written: bool) -> None:
    """Print what starts a run: what a person types and, where it starts others, what it starts.

    Args:
        console: where to.
        arguments: of `sifthinker`.
        machines: what it runs on.
        out: the run's folder.
        written: whether accelerate's config is there already.
    """
    config = out / CONFIG
    command, typed = command_of(arguments, machines, config), command_of(arguments, Machines(), config)
    if command == typed or (written and str(config) in command):
        console.print(f"Command:\n  {shown(command)}", soft_wrap=True)
        return
    wrote = f"writes {config} and starts" if str(config) in command else "starts"
    if machines.nodes > 1:
        wrote += (
            f", on each of {machines.nodes} machines, with $NODE_RANK (0 on the first) and $MASTER_ADDR (the first's)"
        )
    console.print(f"Command:\n  {shown(typed)}\nIt {wrote}:\n  {shown(command)}", soft_wrap=True)


def show_plan(made: Plan, console: Console, *, title: str) -> None:
    """Print what each GPU needs, and whether it fits."""
    table = Table("", "GB", "why", title=title)
    for part in made.parts:
        table.add_row(part.name, f"{part.bytes / GB:.2f}", part.why)
    table.add_row("total", f"{made.total / GB:.2f}", "on each GPU" if made.workload.gpu_gb else "in each process")
    console.print(table)
    console.print(
        f"{made.parameters:,} parameters ({made.source}), {made.trainable:,} of them trained.", soft_wrap=True
    )
    if made.fits is not None:
        verdict = "fits" if made.fits else "does NOT fit"
        console.print(f"It {verdict} into {made.workload.gpu_gb:g} GB, by this estimate.")
