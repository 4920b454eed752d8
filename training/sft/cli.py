"""What `sifthinker train sft` does with a recipe of `trainer: trl`: plan it, launch it, run it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sifthinker.policy.errors import SifthinkerError, UsageError
from sifthinker.training.changes import changed
from sifthinker.training.console import quieten, show_command, show_plan, telling
from sifthinker.training.launch import command_of, launch, launched, write_config
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
            "try a smaller batch with more accumulate, checkpointing: true, fewer max_pixels, or zero: 3. "
            "A folder without a checkpoint takes other settings."
        ) from error
    return 0


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
