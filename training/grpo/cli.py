"""`sifthinker train grpo`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sifthinker.policy.errors import SifthinkerError, UsageError

if TYPE_CHECKING:
    from sifthinker.training.grpo.recipe import GrpoRecipe

SHOWN_QUESTIONS = 8
"""Of the first round, named by a dry run."""
NEEDED = ("trl", "peft", "accelerate", "datasets")
VLLM = "'vllm>=0.22,<=0.31'"
"""The versions that TRL (1.16) takes, for pip."""


def grpo(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (embedded-grpo, …) or a YAML file.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; the same command goes on with it.")] = None,
    policy: Annotated[str | None, typer.Option(help="Another start than the recipe's.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Another folder of questions: of `data build`, `distil` or `world make`.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Another number of steps.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed.", min=0)] = None,
    rewards: Annotated[
        str | None, typer.Option(help="Another form of the rewards: robust, published, or random (a control).")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave a reward out: format, answer, grounding or depth. Once for each.", metavar="REWARD"),
    ] = None,
    processes: Annotated[int | None, typer.Option(help="GPUs, or processes on the CPU.", min=1)] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Another value for a field of the recipe (trl.learning_rate=2e-5).", metavar="FIELD=VALUE"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show memory, tokens a step and the command; train nothing.")
    ] = False,
    hub: Annotated[
        bool, typer.Option("--hub", help="With --dry-run: the model's config from the hub, not the one kept here.")
    ] = False,
) -> None:
    """GRPO-SIF: learn from the rewards of one's own traces. The same command again goes on from the last checkpoint."""
    from sifthinker.training.grpo.recipe import REWARDS

    changes = []
    for name in without or []:
        if name not in REWARDS:
            raise UsageError(f"There is no reward {name!r} to leave out: they are {', '.join(REWARDS)}.")
        changes.append(f"rewards.{name}=0")
    named: dict[str, Any] = {
        "policy": policy,
        "trl.max_steps": steps,
        "seed": seed,
        "rewards.form": rewards,
        "machines.processes": processes,
    }
    changes += [f"{path}={value}" for path, value in named.items() if value is not None]
    changes = [*(change or []), *changes]
    raise typer.Exit(run_recipe(recipe, out, data=data, changes=changes, dry=dry_run, hub=hub))


def _source(folder: Path, settings: dict[str, Any]) -> str:
    """The change that names another folder of questions; what the recipe says of such folders otherwise stays."""
    kind = "world" if (folder / "questions.jsonl").is_file() else "records"
    told = settings.get("data")
    if isinstance(told, dict) and told.get("kind") == kind:
        return f"data.path={str(folder)!r}"
    return f"data={{kind: {kind}, path: {str(folder)!r}}}"


def run_recipe(
    name: str, out: Path | None, *, data: Path | None, changes: list[str], dry: bool = False, hub: bool = False
) -> int:
    """Plan or train, in this process or in several; the exit code. Changes go before what `data` says.

    Raises:
        UsageError: the recipe does not fit, or something is missing. SifthinkerError: no GPU where it wants one.
    """
    from sifthinker.training.changes import changed
    from sifthinker.training.grpo.recipe import read_recipe
    from sifthinker.training.launch import command_of, launch, launched, write_config
    from sifthinker.training.recipes import load_recipe

    settings = load_recipe(name)
    if settings.get("trainer") != "grpo":
        raise UsageError(f"Recipe {name!r} is not for GRPO (trainer: {settings.get('trainer')}).")
    changes = [*([] if data is None else [_source(data, settings)]), *changes]
    recipe = read_recipe(changed(settings, changes))
    arguments = ["train", "grpo", name, *(word for change in changes for word in ("--set", change))]
    _require(recipe, dry=dry)
    if dry:
        _show_plan(recipe, name, arguments, out, hub=hub)
        return 0
    if out is None:
        raise UsageError("Missing --out: the folder of the run.")
    machines = recipe.machines
    if not launched() and (machines.processes > 1 or machines.zero):
        if _is_complete(recipe, out):
            return 0
        accumulate, clip = _optimising(recipe)
        config = write_config(machines, out, accumulate=accumulate, clip=clip)
        return launch(command_of([*arguments, "--out", str(out)], machines, config), machines)
    return _train(recipe, out)


def _is_complete(recipe: GrpoRecipe, out: Path) -> bool:
    """Whether a run has come to its end; what can be wrong with it is said before several processes say it at once."""
    from rich.console import Console

    from sifthinker.training.folders import locked
    from sifthinker.training.grpo.record import begin
    from sifthinker.training.grpo.start import check_start
    from sifthinker.training.launch import NODE

    check_start(recipe)
    out.mkdir(parents=True, exist_ok=True)
    if recipe.machines.nodes > 1 and os.environ.get(NODE[0], "0") != "0":  # the first machine holds the folder
        record = begin(recipe, out, write=False)
    else:
        with locked(out, doing="training"):
            record = begin(recipe, out, write=True)
    if record.finished and (out / "policy").is_dir():
        Console(stderr=True, highlight=False).print(f"{out} is complete: {out / 'policy'}", soft_wrap=True)
        return True
    return False


def _train(recipe: GrpoRecipe, out: Path) -> int:
    import torch

    from sifthinker.training.console import quieten, telling
    from sifthinker.training.grpo.run import train

    quieten()
    try:
        with telling():
            train(recipe, out)
    except torch.OutOfMemoryError as error:
        raise SifthinkerError(
            f"A GPU has too little memory for this recipe ({str(error).splitlines()[0]}), see --dry-run: try a smaller "
            "per_device_train_batch_size with more gradient_accumulation_steps (and, where it ran out while sampling, "
            "fewer steps_per_generation than those), fewer max_pixels, or zero: 3. A folder without a checkpoint "
            "takes other settings."
        ) from error
    return 0


def _require(recipe: GrpoRecipe, *, dry: bool) -> None:
    """Fail before the work where a machine or package is missing."""
    extra = [] if dry else ["deepspeed"] if recipe.machines.zero else []
    extra += ["vllm"] if recipe.trl.get("use_vllm") and not dry else []
    for package in (*NEEDED, *extra):
        if importlib.util.find_spec(package) is None:
            source = VLLM if package == "vllm" else package if package in extra else "'sifthinker[train]'"
            raise SifthinkerError(f"This recipe needs {package}, which is not installed: pip install {source}.")
    if recipe.on_cpu or dry:
        return
    from sifthinker.training.grpo.start import available_gpus

    if (found := available_gpus()) < recipe.machines.per_node:
        raise SifthinkerError(
            f"This recipe is for {recipe.machines.per_node} GPU(s), and this machine has {found}: --dry-run shows its "
            "plan; --processes N takes fewer."
        )


def _optimising(recipe: GrpoRecipe) -> tuple[int, float]:
    """Passes of a step and the gradient's longest norm, which accelerate's config repeats."""
    trl = recipe.trl
    return int(trl.get("gradient_accumulation_steps", 1)), float(trl.get("max_grad_norm", 1.0))


def _show_plan(recipe: GrpoRecipe, name: str, arguments: list[str], out: Path | None, *, hub: bool) -> None:
    from rich.console import Console

    from sifthinker.training.console import quieten, show_command, show_plan
    from sifthinker.training.grpo.dry_run import dry_run
    from sifthinker.training.launch import write_config

    quieten()
    title = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    folder = out or Path(f"runs/{title}")
    console, machines = Console(highlight=False), recipe.machines
    found = dry_run(recipe, hub=hub)
    show_plan(found.plan, console, title=f"{title}: {recipe.policy}")
    if found.first is None:
        where = getattr(recipe.data, "path", "")
        console.print(f"There is no data at {where}: the lengths of prompts are assumed.", soft_wrap=True)
    else:
        first = found.first
        console.print(
            f"First round, {first.how}: {len(first.questions)} questions × {first.group} completions, "
            f"the longest prompt of {first.longest:,} tokens ({first.image_tokens:,} of {first.images} images).",
            soft_wrap=True,
        )
        told = ", ".join(first.questions[:SHOWN_QUESTIONS])
        more = len(first.questions) - SHOWN_QUESTIONS
        console.print(f"  {told}{f' and {more} more' if more > 0 else ''}", soft_wrap=True)
        console.print(f"{found.rows:,} questions; {found.steps:,} steps.")
    made = found.plan
    console.print(f"A step: {made.samples_per_step} completions, about {made.tokens_per_step:,} tokens.")
    if out is not None and (machines.processes > 1 or machines.zero):
        accumulate, clip = _optimising(recipe)
        write_config(machines, out, accumulate=accumulate, clip=clip)
    show_command(console, [*arguments, "--out", str(folder)], machines, folder, written=out is not None)
