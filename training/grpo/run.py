"""A GRPO run from its recipe to the trained policy.

    RUN/run.json           what it was begun with; other settings are refused
    RUN/checkpoints/       whole checkpoints (`sifthinker.training.checkpoints`), with the memory of the progress bonus
    RUN/metrics.jsonl      a line for each logged step
    RUN/trajectory.jsonl   a line for each round of sampling: which samples were asked, and a digest of what was said
    RUN/rollouts/          completions for reading
    RUN/policy/            the trained policy (or its adapter), once the run is complete

The same command goes on from the last whole checkpoint, however the run ended.
"""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.errors import UsageError
from sifthinker.training import checkpoints
from sifthinker.training.folders import locked, saving
from sifthinker.training.grpo.data import load_rows
from sifthinker.training.grpo.recipe import GrpoRecipe
from sifthinker.training.grpo.record import begin
from sifthinker.training.grpo.rewards import build_rewards, load_judge
from sifthinker.training.grpo.start import arguments, bar_images, load_start
from sifthinker.training.grpo.tables import RolloutTables, append
from sifthinker.training.grpo.trainer import PROGRESS, FocusGRPOTrainer, everyone
from sifthinker.training.launch import check_processes, own_rank, settle_on_cpu
from sifthinker.training.rewards import ProgressMemory
from sifthinker.training.sft.records import RunRecord, ship
from sifthinker.training.sft.start import count_parameters, lora_config

logger = logging.getLogger(__name__)

LOGS = ("metrics.jsonl", "trajectory.jsonl", "rollouts/rollouts.jsonl")


def train(recipe: GrpoRecipe, out: Path) -> Path:
    """Run a recipe to its end, or go on with it; the folder of the trained policy.

    Args:
        recipe: what to run.
        out: the run's folder.

    Raises:
        UsageError: the folder belongs to another run, or something in the recipe cannot be. PolicyLoadError: no start.
        DataError: no questions, or a damaged checkpoint.
    """
    first = own_rank() == 0
    settle_on_cpu()
    out.mkdir(parents=True, exist_ok=True)
    with saving(out, "The last whole checkpoint is kept. "), locked(out) if first else contextlib.nullcontext():
        return _train(recipe, out, first=first)


def _train(recipe: GrpoRecipe, out: Path, *, first: bool) -> Path:
    started = time.monotonic()
    record = begin(recipe, out, write=first)
    if record.finished and (out / "policy").is_dir():
        logger.info("%s is complete: %s", out, out / "policy")
        return out / "policy"
    folder = out / "checkpoints"
    trainer, profile = build(recipe, out, record)
    trainer.accelerator.wait_for_everyone()
    if first:
        checkpoints.sweep(folder)
    last = checkpoints.latest(folder)
    if first:
        for name in LOGS:
            checkpoints.keep_lines(out / name, 0 if last is None else checkpoints.step_of(last))
    trainer.accelerator.wait_for_everyone()
    state = None if last is None else TrainerState.load_from_json(str(last / "trainer_state.json"))
    if state is None or state.global_step < state.max_steps:  # it may have been killed after its last step
        if last is not None:
            logger.info("Goes on from %s.", last.name)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        state = trainer.state
    trainer.accelerator.wait_for_everyone()
    if first:
        record.step = record.steps = state.global_step
        record.seconds = round(time.monotonic() - started, 1)
        _finish(record, out, profile, average=recipe.average)
    trainer.accelerator.wait_for_everyone()
    return out / "policy"


def build(recipe: GrpoRecipe, out: Path, record: RunRecord) -> tuple[FocusGRPOTrainer, PolicyProfile]:
    """The trainer of a run, ready to train, and the profile of what it makes."""
    args = arguments(recipe, out)  # ZeRO-3 shards what is loaded after it
    check_processes(recipe.machines, args.world_size)
    model, processor, profile = load_start(recipe, name=out.name)
    if args.use_vllm:
        bar_images(args, processor)
    record.parameters = count_parameters(model)
    memory = ProgressMemory()
    gather = everyone if args.world_size > 1 else list
    judge = load_judge(recipe.rewards.judge, out, processes=args.world_size)
    rewards, args.reward_weights = build_rewards(recipe.rewards, memory=memory, judge=judge, gather=gather)
    tables = RolloutTables(
        out,
        every=recipe.rollouts.every,
        most=recipe.rollouts.most,
        form=recipe.rewards.form,
        weights=recipe.rewards.weights,
        judged=recipe.rewards.judge is not None,
        gather=gather,
        writes=args.process_index == 0,
    )
    rows = load_rows(recipe.data, profile, resized=args.use_vllm, seed=recipe.seed)
    adapter = lora_config(recipe.lora) if recipe.lora else None
    try:
        trainer = FocusGRPOTrainer(
            memory=memory,
            share_prompts=recipe.share_prompts,
            on_rollouts=tables,
            on_saved=lambda staged: record.write_beside(staged, profile),
            keep=recipe.keep,
            model=model,
            reward_funcs=rewards,
            args=args,
            train_dataset=rows,
            processing_class=processor,
            peft_config=adapter,
            callbacks=[_Metrics(out)],
        )
    except ValueError as error:  # TRL checks some arguments only here
        raise UsageError(f"The recipe's trl: {str(error).rstrip('.')}.") from error
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    record.trainable = count_parameters(trainer.model, trained=True)
    return trainer, profile


def _finish(record: RunRecord, out: Path, profile: PolicyProfile, *, average: int) -> None:
    """Make the policy's folder of the last checkpoints, and note that the run is complete."""
    last = checkpoints.whole_checkpoints(out / "checkpoints")[-average:]
    assert last, "the trainer saves after its last step"
    ship(record, out, profile, *reversed(last), without=(PROGRESS,))


class _Metrics(TrainerCallback):
    """Writes what is logged, and says the essential of it."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Called by the trainer in every process."""
        if not state.is_world_process_zero or not logs:
            return
        append(self.run / "metrics.jsonl", [{"step": state.global_step, **logs}])
        if "reward" in logs:
            logger.info(
                "step %d of %d: reward %.3f ± %.3f, %.0f tokens each, %.2f s",
                state.global_step,
                state.max_steps,
                logs["reward"] or 0.0,
                logs.get("reward_std") or 0.0,
                logs.get("completions/mean_length") or 0.0,
                logs.get("step_time") or 0.0,
            )
