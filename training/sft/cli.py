"""What `sifthinker train sft` does with a recipe of `trainer: trl`: plan it, launch it, run it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from sifthinker.policy.errors import SifthinkerError, UsageError
from sifthinker.training.launch import CONFIG, Machines, command_of, launch, launched, shown, write_config
from sifthinker.training.planner import GB, Plan
from sifthinker.training.sft.recipe import SftRecipe, recipe_of


def run_recipe(
    name: str,
    settings: dict[str, Any],
    out: Path | None,
    *,
    data: Path | None,
    processes: int | None,
    changes: Sequence[str],
    dry: bool,
    hub: bool,
) -> int:
    """Plan or train, in this process or in several; the exit code.

    Raises:
        UsageError: the recipe does not fit, or something is missing. SifthinkerError: no GPU where it wants one.
    """
    settings = changed(settings, changes)
    if data is not None:
        settings["data"] = str(data)
    if processes is not None:
        settings["machines"] = {**settings.get("machines", {}), "processes": processes}
    recipe = recipe_of(settings, name=Path(name).stem if name.endswith((".yaml", ".yml")) else name)
    arguments = ["train", "sft", name, *(["--data", str(data)] if data else [])]
    arguments += [word for change in changes for word in ("--set", change)]
    arguments += ["--processes", str(processes)] if processes is not None else []
    quieten()
    if dry:
        _show_dry_run(recipe, [*arguments, "--out", str(out or f"runs/{recipe.name}")], out, hub=hub)
        return 0
    if out is None:
        raise UsageError("Missing --out: the folder of the run.")
    if recipe.data is None:
        raise UsageError("The recipe names no data: give a folder of `sifthinker data build` with --data.")
    _require(recipe)
    machines = recipe.machines
    if not launched() and (machines.processes > 1 or machines.zero):
        config = write_config(machines, out, accumulate=recipe.accumulate, clip=recipe.clip)
        return launch(command_of([*arguments, "--out", str(out)], machines, config), machines)
    return _train(recipe, out)


def _train(recipe: SftRecipe, out: Path) -> int:
    import torch

    from sifthinker.training.sft.run import train

    try:
        with telling():
            train(recipe, out)
    except torch.OutOfMemoryError as error:
        raise SifthinkerError(
            f"A GPU has too little memory for this recipe ({str(error).splitlines()[0]}), see --dry-run: "
            "try a smaller batch with more accumulate, checkpointing: true, fewer max_pixels, or zero: 3."
        ) from error
    return 0


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """What a run says of itself goes to standard error, once: of several processes the first one says it."""
    own = logging.getLogger("sifthinker")
    own.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
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


def changed(settings: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A recipe's settings with some set anew: "lr=1e-5", "machines.processes=2", "lora=null".

    Raises:
        UsageError: a change without "=", or inside something that has no fields.
    """
    settings = dict(settings)
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not key:
            raise UsageError(f"Expected --set FIELD=VALUE, got {change!r}.")
        *path, last = key.strip().split(".")
        place = settings
        for step in path:
            inner = place.get(step)
            if inner is not None and not isinstance(inner, dict):
                raise UsageError(f"--set {change}: {step} has no fields.")
            place[step] = dict(inner or {})
            place = place[step]
        try:
            place[last] = _value(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {change}: the value is not YAML.") from error
    return settings


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML takes 1e-5 for a word
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _require(recipe: SftRecipe) -> None:
    """Fail before the work where a machine or package is missing."""
    for package in ("trl", "peft", "accelerate", "datasets", *(("deepspeed",) if recipe.machines.zero else ())):
        if importlib.util.find_spec(package) is None:
            extra = "deepspeed" if package == "deepspeed" else "'sifthinker[train]'"
            raise SifthinkerError(f"This recipe needs {package}, which is not installed: pip install {extra}.")
    if recipe.on_cpu:
        return
    import torch

    found = torch.cuda.device_count()
    if found < recipe.machines.per_node:
        raise SifthinkerError(
            f"This recipe is for {recipe.machines.per_node} GPU(s), and this machine has {found}: --dry-run shows its "
            "plan; --processes N takes fewer (accumulate more to keep the samples of a step)."
        )


def _show_dry_run(recipe: SftRecipe, arguments: Sequence[str], out: Path | None, *, hub: bool) -> None:
    from sifthinker.training.sft.dry_run import dry_run

    found = dry_run(recipe, hub=hub)
    console = Console(highlight=False)
    show_plan(found.plan, console, title=f"{recipe.name}: {recipe.model}")
    if found.batch is not None:
        batch = found.batch
        console.print(
            f"First batch, {batch.how}: {batch.sequences} sequences, the longest of {batch.longest:,} tokens "
            f"({batch.image_tokens:,} of {batch.images} images, {batch.answer_tokens:,} learnt)."
        )
        console.print(f"  {', '.join(batch.samples)}", soft_wrap=True)
        console.print(f"{found.records:,} records, {found.asked:,} held out; {found.steps:,} steps.")
    else:
        console.print("No data was given (--data): lengths of sequences are assumed.")
    made = found.plan
    console.print(f"A step: {made.samples_per_step} samples, about {made.tokens_per_step:,} tokens.")
    machines = recipe.machines
    if out is not None and (machines.processes > 1 or machines.zero):
        write_config(machines, out, accumulate=recipe.accumulate, clip=recipe.clip)
    show_command(console, arguments, machines, out or Path(f"runs/{recipe.name}"), written=out is not None)


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
