"""`sifthinker train`: train a policy or the depth model."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False, help="Train a policy, and the depth model of the block world.", no_args_is_help=True
)


@app.callback()
def train() -> None:
    """Train a policy, score it, write it out."""


@app.command()
def sft(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (embedded, embedded-sft, …) or a YAML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run: checkpoints, log, at the end the policy.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of `sifthinker data build` (recipes with trainer: trl).")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Another budget (recipes with trainer: scratch).")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="GPUs, or processes on the CPU; trainer scratch: by default one a core.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Another value for a field of the recipe.", metavar="FIELD=VALUE")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show memory, tokens a step, first batch and command; train nothing.")
    ] = False,
    hub: Annotated[
        bool, typer.Option("--hub", help="With --dry-run: the model's config from the hub, not the one kept here.")
    ] = False,
) -> None:
    """Supervised training on focus traces. The same command again goes on from the last checkpoint."""
    from sifthinker.policy.errors import UsageError
    from sifthinker.training.launch import Machines, command_of, launch, launched
    from sifthinker.training.recipes import load_recipe

    settings = load_recipe(recipe)
    trainer = settings.pop("trainer", None)
    if trainer == "trl":
        from sifthinker.training.sft.cli import run_recipe

        if minutes is not None:
            raise UsageError("--minutes is for recipes with trainer: scratch; here say --set epochs=… or max_steps=….")
        raise typer.Exit(
            run_recipe(
                recipe, settings, out, data=data, processes=processes, changes=change or [], dry=dry_run, hub=hub
            )
        )
    if trainer != "scratch":
        raise UsageError(f"Recipe {recipe!r}: expected trainer: trl or trainer: scratch for sft, got {trainer!r}.")
    if data is not None:
        raise UsageError("--data is for recipes with trainer: trl; trainer: scratch makes its scenes as it goes.")
    if change:
        from sifthinker.training.changes import changed

        settings = changed(settings, change)
    if minutes is not None:
        settings["minutes"] = minutes
    count = processes or os.cpu_count() or 1
    arguments = ["train", "sft", recipe, "--out", str(out or f"runs/{Path(recipe).stem}")]
    for name, value in (("--minutes", minutes), ("--processes", processes)):
        arguments += [name, str(value)] if value is not None else []
    arguments += [word for one in change or [] for word in ("--set", one)]
    if dry_run:
        _show_scratch(settings, recipe, arguments, count)
        return
    if out is None:
        raise UsageError("Missing --out: the folder of the run.")
    if count > 1 and not launched():
        machines = Machines(processes=count)
        raise typer.Exit(launch(command_of(arguments, machines, Path()), machines))
    _run(settings, out)


def _show_scratch(settings: dict[str, Any], recipe: str, arguments: list[str], processes: int) -> None:
    from rich.console import Console

    from sifthinker.training.console import show_plan
    from sifthinker.training.launch import shown
    from sifthinker.training.scratch_plan import plan_scratch

    plan, step, command = plan_scratch(settings, arguments, processes)
    console = Console(highlight=False)
    show_plan(plan, console, title=f"{Path(recipe).stem}: from scratch")
    console.print(f"{step}\nCommand:\n  {shown(command)}", soft_wrap=True)


def _run(settings: dict[str, Any], out: Path) -> None:
    if importlib.util.find_spec("torch") is None:  # a broken installation, said before the work
        raise ModuleNotFoundError(name="torch")
    from sifthinker.training.launch import own_rank
    from sifthinker.training.recipes import fitted
    from sifthinker.training.scratch.export import export_policy
    from sifthinker.training.scratch.recipe import ScratchRecipe
    from sifthinker.training.scratch.train import launch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    launch(fitted(ScratchRecipe, settings), out)
    if own_rank() == 0:
        export_policy(out, out / "policy")


_OF_TRACES = ("hiou", "valid", "depth_error")
"""What there is no sense in asking of an answer without a trace."""


@app.command()
def score(
    policy: Annotated[str, typer.Argument(help="A policy's name: embedded, a folder, a hub id, openai:MODEL@URL.")],
    data: Annotated[Path, typer.Option(help="A folder made by `sifthinker world make`.")],
    modes: Annotated[str, typer.Option(help="Modes, with commas between.")] = "direct,internal,tools",
    depth: Annotated[str, typer.Option(help="A depth source, or exact: the renderer's.")] = "embedded",
    limit: Annotated[int | None, typer.Option(help="Only so many questions.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Shuffles the options, and draws what is sampled.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy; 1 samples as GRPO-SIF does.")] = 0.0,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write scores and every answer here, after each mode.")
    ] = None,
) -> None:
    """Accuracy, grounding and cost of a policy in each mode, by question family."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from sifthinker.agent.asking import without_bars
    from sifthinker.policy.load import load_policy
    from sifthinker.training.compare.cli import read_modes
    from sifthinker.training.evaluate import score as score_mode
    from sifthinker.training.evaluate import summary
    from sifthinker.training.world.dataset import read_world

    chosen = read_modes(modes, "--modes")
    records = read_world(data)[:limit]
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
    without_bars(policy)
    loaded = load_policy(policy)
    kept: dict[str, Any] = {}
    names = ["accuracy", "hiou", "valid", "depth_error", "seconds", "images", "tokens"]
    families = sorted({record.family for record in records})
    made_by = data / "made_by.txt"
    words = [f"sifthinker train score {policy} --data {data.name} --modes {modes} --depth {depth}"]
    words += [f"--limit {limit}"] if limit is not None else []
    words += [f"--seed {seed}"] if seed else []
    words += [f"--temperature {temperature:g}"] if temperature else []
    told = {
        "command": " ".join(words),
        "seed": seed,
        "temperature": temperature,
        "depth": depth,
        "made_by": made_by.read_text(encoding="utf-8").strip() if made_by.is_file() else None,
        "n": len(records),
        "modes": kept,
    }
    sampled = f", temperature {temperature:g}" if temperature else ""
    table = Table("", *chosen, title=f"{policy}, {len(records)} questions, depth {depth}, seed {seed}{sampled}")
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        for mode in chosen:
            task = progress.add_task(mode, total=len(records))
            scored = score_mode(
                loaded, records, data, mode=mode, depth=depth, seed=seed, temperature=temperature,
                on_done=lambda task=task: progress.advance(task),  # type: ignore[misc]
            )  # fmt: skip
            kept[mode] = {"scores": summary(scored).model_dump(), "answers": [s.model_dump() for s in scored]}
            if json_out is not None:
                _write_scores(json_out, told)
    for name in names:
        cells = [None if mode == "direct" and name in _OF_TRACES else kept[mode]["scores"][name] for mode in kept]
        table.add_row(name, *("–" if cell is None else f"{cell:.3f}" for cell in cells))
    for family in families:
        table.add_row(f"  {family}", *(f"{kept[mode]['scores']['families'][family]:.3f}" for mode in kept))
    Console().print(table)


def _write_scores(path: Path, told: dict[str, Any]) -> None:
    import json

    from sifthinker.policy.files import write_whole

    write_whole(path, lambda part: part.write_text(json.dumps(told, indent=1), encoding="utf-8"))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder to write: loads with load_policy and with transformers.")],
    scores: Annotated[Path | None, typer.Option(help="What `train score --json` wrote, for the model card.")] = None,
) -> None:
    """Write the policy of a run that has a checkpoint, finished or not, and its model card."""
    from sifthinker.training.scratch.export import export_policy

    export_policy(run, out, scores=scores)


def _mount() -> None:
    from sifthinker.training import depth_cli
    from sifthinker.training.gain_cli import ablation, gain
    from sifthinker.training.grpo.cli import grpo

    for command in (grpo, gain, ablation):
        app.command()(command)
    app.add_typer(depth_cli.app, name="depth")


_mount()
