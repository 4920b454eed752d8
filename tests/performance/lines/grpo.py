"""A GRPO step of ours against TRL's own trainer: the same start, prompts and arguments, by turns in one process.

TRL's gets trivial rewards and rows whose pictures are ready; ours renders its scenes and gives all four rewards. The
simple version is TRL as it comes; between the two, ours without the sharing of prompts shows what is not that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from performance.figures import Figure

STEPS = 4
QUESTIONS, GROUP = 4, 8
SEED = 11


def figures(repeat: int, *, steps: int = STEPS) -> Iterator[Figure]:
    """See `performance.command.LINES`."""
    from sifthinker.training.rewards import ProgressMemory

    ways = {"ours": True, "unshared": False, "trl": None}
    found: dict[str, list[Sequence[float]]] = {name: [] for name in ways}
    lengths: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        for turn in range(repeat):
            names = list(ways) if turn % 2 == 0 else list(reversed(ways))
            for name in names:
                shared = ways[name]
                out = Path(folder) / f"{name}-{turn}"
                timer = step_timer()
                if shared is None:
                    trainer = their_trainer(out, steps, timer)
                else:
                    trainer = our_trainer(out, steps, timer, shared, ProgressMemory())
                trainer.train()
                found[name].append(timer.seconds[1:])  # the first step warms up
                logged = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
                lengths[name] = sum(entry["completions/mean_length"] for entry in logged) / max(1, len(logged))
    seconds = {name: median(value for values in rows for value in values) for name, rows in found.items()}
    tokens = ", ".join(f"{name} {length:.0f}" for name, length in lengths.items())
    for name, way in (("ours", "prompts shared (the recipe)"), ("unshared", "prompts not shared")):
        yield Figure(
            f"GRPO step, {QUESTIONS} questions × {GROUP} completions, {way}",
            [median(a) / median(b) for a, b in zip(found[name], found["trl"], strict=True)],
            "TRL's GRPOTrainer, rewards that return 0, pictures ready",
            at_most=1.05,
            note=f"{seconds[name]:.2f} and {seconds['trl']:.2f} s; tokens of a completion: {tokens}",
        )


def _recipe(steps: int, share: bool) -> Any:
    from sifthinker.training.grpo.recipe import read_recipe
    from sifthinker.training.recipes import load_recipe

    settings = load_recipe("embedded-grpo")
    settings["data"] = {**settings["data"], "count": QUESTIONS * (steps + 1), "seed": SEED}
    settings["share_prompts"] = share
    settings["report"] = []
    settings["trl"] = {
        **settings["trl"],
        "max_steps": steps,
        "per_device_train_batch_size": QUESTIONS * GROUP,
        "num_generations": GROUP,
        "save_steps": 1000,
        "max_completion_length": 192,
    }
    return read_recipe(settings)


def our_trainer(out: Path, steps: int, timer: Any, share: bool, memory: Any) -> Any:
    """Our trainer as `training.grpo.run` sets it up, without tables and checkpoints."""
    from sifthinker.training.grpo.data import load_rows
    from sifthinker.training.grpo.rewards import build_rewards
    from sifthinker.training.grpo.start import arguments, load_start
    from sifthinker.training.grpo.trainer import FocusGRPOTrainer

    recipe = _recipe(steps, share)
    args = arguments(recipe, out)
    model, processor, profile = load_start(recipe, name=out.name)
    rewards, args.reward_weights = build_rewards(recipe.rewards, memory=memory)
    return quiet(
        FocusGRPOTrainer(
            memory=memory,
            share_prompts=share,
            model=model,
            reward_funcs=rewards,
            args=args,
            train_dataset=load_rows(recipe.data, profile),
            processing_class=processor,
            callbacks=[timer],
        )
    )


def their_trainer(out: Path, steps: int, timer: Any) -> Any:
    """TRL's trainer with the same arguments, on rows that are ready."""
    from trl import GRPOTrainer

    from sifthinker.training.grpo.data import load_rows
    from sifthinker.training.grpo.start import arguments, load_start

    recipe = _recipe(steps, share=False)
    model, processor, profile = load_start(recipe, name=out.name)
    rows = load_rows(recipe.data, profile)

    def nothing(completions: Sequence[Any], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    return quiet(
        GRPOTrainer(
            model=model,
            reward_funcs=[nothing],
            args=arguments(recipe, out),
            train_dataset=_ready([{key: row[key] for key in ("prompt", "images")} for row in rows]),
            processing_class=processor,
            callbacks=[timer],
        )
    )


def _ready(rows: list[dict[str, Any]]) -> Any:
    """Rows in memory, as a data set that a trainer samples from."""
    from datasets import Dataset

    def transform(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {name: [rows[index][name] for index in batch["index"]] for name in rows[0]}

    return Dataset.from_dict({"index": list(range(len(rows)))}).with_transform(transform)


def step_timer() -> Any:
    """A callback that notes how long each step took, fetching its batch included."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self._last = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self._last = self._last or time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            self.seconds.append(now - self._last)
            self._last = now

    return Timer()


def quiet(trainer: Any) -> Any:
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer
