"""TRL's SFTTrainer, with what a run here adds: rows in the order of the schedule and told to the log, task scores,
checkpoints that are whole, and an end when the scores rise no more.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTConfig, SFTTrainer

from sifthinker.training import checkpoints
from sifthinker.training.sft.resuming import restore

logger = logging.getLogger(__name__)

_SHOWN = ("loss", "learning_rate", "mean_token_accuracy", "eval_score", "eval_accuracy", "eval_hiou", "eval_valid")
Scorer = Callable[[Any], dict[str, float]]
"""Scores a model: `eval_score`, which the best checkpoint is chosen by, and whatever else is logged."""


class FocusTrainer(SFTTrainer):
    """See the module.

    Args:
        scorer: asks the held-out questions of the model; None: nothing is asked.
        on_saved: writes what else belongs into a checkpoint before it appears.
        keep: checkpoints kept besides the best.
        others: those of SFTTrainer.
    """

    control: Any
    _staging = False
    """Whether a checkpoint is being written aside."""

    def __init__(
        self,
        *others: Any,
        scorer: Scorer | None = None,
        on_saved: Callable[[Path], None] | None = None,
        keep: int = 2,
        **named: Any,
    ) -> None:
        super().__init__(*others, **named)
        self._scorer = scorer
        self._on_saved = on_saved
        self._keep = keep
        self.rows: list[int] = []
        """Rows of the step at hand, as they were trained on, of all processes."""
        self.left_out = 0
        """Sequences that were too long, of all processes."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def compute_loss(self, model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
        """As TRL's, the rows told to the log first."""
        rows, left_out = inputs.pop("rows"), inputs.pop("left_out")
        self.rows += self.accelerator.gather(rows).tolist()
        self.left_out += int(self.accelerator.gather(left_out).sum())
        return super().compute_loss(model, inputs, *others, **named)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Task scores of the model as it is now. What was random goes on as if nothing had been asked."""
        if self._scorer is None:
            return {}
        with torch.random.fork_rng(devices=[self.args.device] if self.args.device.type == "cuda" else []):
            self.model.eval()
            metrics = self._scorer(self)
            self.log(dict(metrics))
            self.model.train()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The card is written at the end, from the run's own records."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As transformers', but a model without an adapter gets all of its weights, or none."""
        if hasattr(self.model, "get_base_model"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            restore(self.model, Path(resume_from_checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        folder = str(super()._get_output_dir(trial))
        return os.path.join(folder, checkpoints.SAVING) if self._staging else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint aside, then put it in its place whole."""
        folder = Path(self.args.output_dir)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged, final = folder / checkpoints.SAVING / name, folder / name
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            best = best_step(self.state)
            if self._on_saved is not None:
                self._on_saved(staged)
            checkpoints.publish(staged, final)
            checkpoints.rotate(folder, self._keep, () if best is None else (best,))
        self.accelerator.wait_for_everyone()


class Journal(TrainerCallback):
    """Writes what happens as lines of JSON: `log.jsonl` (losses, scores) and `samples.jsonl` (what was trained on)."""

    def __init__(self, out: Path, name_of: Callable[[int], str]) -> None:
        self.out = out
        self.name_of = name_of
        self.trainer: FocusTrainer | None = None

    def follow(self, trainer: FocusTrainer) -> None:
        """Write of this trainer, which goes on from what the log says."""
        self.trainer = trainer
        known = [line["left_out"] for line in checkpoints.log_lines(self.out / "log.jsonl") if "left_out" in line]
        trainer.left_out = int(known[-1]) if known else 0

    def on_step_end(self, args: SFTConfig, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The rows of a step."""
        assert self.trainer is not None
        rows, self.trainer.rows = sorted(self.trainer.rows), []
        if state.is_world_process_zero:
            line = {"step": state.global_step, "rows": rows, "samples": [self.name_of(row) for row in rows]}
            _append(self.out / "samples.jsonl", line)

    def on_log(self, args: SFTConfig, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        """Losses and scores."""
        if state.is_world_process_zero and logs:
            numbers = {name: value for name, value in logs.items() if isinstance(value, (int, float, str))}
            extra = {"left_out": self.trainer.left_out} if self.trainer is not None and self.trainer.left_out else {}
            _append(self.out / "log.jsonl", {"step": state.global_step, **numbers, **extra})
            shown = {name: numbers[name] for name in _SHOWN if name in numbers}
            if shown:
                told = ", ".join(f"{name.removeprefix('eval_')} {float(value):.4g}" for name, value in shown.items())
                logger.info("step %s of %s: %s", state.global_step, state.max_steps, told)


class AskAndStop(TrainerCallback):
    """Asks the held-out questions every so many steps and at the end, keeps that checkpoint, and knows when to stop."""

    def __init__(self, every: int, patience: int) -> None:
        self.every = every
        self.patience = patience

    def on_step_end(self, args: SFTConfig, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Whether it is time to ask."""
        control.should_evaluate = state.global_step % self.every == 0 or state.global_step >= state.max_steps
        return control

    def on_evaluate(self, args: SFTConfig, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Every model that was scored is kept as a checkpoint, so that the best one is there."""
        control.should_save = True
        return control

    def on_save(self, args: SFTConfig, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """The end, when as many evaluations as there is patience for brought no new best."""
        control.should_training_stop = control.should_training_stop or is_over(state, self.patience)
        return control


def is_over(state: TrainerState, patience: int) -> bool:
    """Whether a run has come to its end: all steps made, or no new best for as long as there is patience."""
    asked = [entry["eval_score"] for entry in state.log_history if "eval_score" in entry]
    waited = len(asked) - 1 - asked.index(max(asked)) if asked else 0
    return state.global_step >= state.max_steps or bool(patience and waited >= patience)


def best_step(state: TrainerState) -> int | None:
    """The step with the best score, of equal ones the last; None where nothing was asked."""
    asked = [(entry["eval_score"], entry["step"]) for entry in state.log_history if "eval_score" in entry]
    return max(asked)[1] if asked else None


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
