"""A supervised fine-tuning from its recipe to the policy's folder.

RUN/run.json           what was begun: recipe, data, processes
RUN/log.jsonl          losses and scores        RUN/samples.jsonl   what each step was trained on
RUN/checkpoints/       whole checkpoints, see `sifthinker.training.checkpoints`
RUN/policy/            at the end: the best checkpoint as a policy that `load_policy` loads
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.errors import UsageError
from sifthinker.training import checkpoints
from sifthinker.training.data.records import Record
from sifthinker.training.folders import locked, saving
from sifthinker.training.launch import check_processes, launched, own_rank, take_one_gpu
from sifthinker.training.sft.recipe import SftRecipe
from sifthinker.training.sft.records import RunRecord, begin, finish
from sifthinker.training.sft.schedule import Schedule
from sifthinker.training.tracking import tracking

logger = logging.getLogger(__name__)


@dataclass
class Material:
    """The data of a run: what it is trained on, and what it is asked."""

    rows: Any
    """`training_set` of the folder."""
    train: list[int]
    """Rows that are trained on."""
    ids: list[str]
    """Of every row."""
    asked: list[Record]
    asked_folder: Path


def train(recipe: SftRecipe, out: Path) -> Path:
    """Train, or go on from the last whole checkpoint, and write the policy's folder.

    Args:
        recipe: with its data folder set.
        out: the run's folder.

    Returns:
        the policy's folder.

    Raises:
        UsageError: no data, or the folder was begun with other settings. DataError: records that cannot be read.
        PolicyLoadError: no model to begin with.
    """
    first = own_rank() == 0
    out.mkdir(parents=True, exist_ok=True)
    with saving(out, "The last whole checkpoint is kept. "), locked(out) if first else contextlib.nullcontext():
        return _train(recipe, out, first=first)


def _train(recipe: SftRecipe, out: Path, *, first: bool) -> Path:
    processes = recipe.machines.processes
    record = begin(recipe, out, processes=processes, write=first)
    if record.finished and (out / "policy").is_dir():
        logger.info("%s is complete: %s", out, out / "policy")
        return out / "policy"
    folder = out / "checkpoints"
    if first:
        checkpoints.sweep(folder)
    last = checkpoints.latest(folder)
    if first:
        step = -1 if last is None else checkpoints.step_of(last)
        for name in ("log.jsonl", "samples.jsonl"):
            checkpoints.keep_lines(out / name, step)
    from transformers import TrainerState

    from sifthinker.training.sft.trainer import best_step, is_over

    started = time.monotonic()
    trainer, profile = build(recipe, out, record)
    logger.info(
        "%s: %s of %s parameters trained, %s samples a step, %s steps%s",
        out, f"{record.trainable:,}", f"{record.parameters:,}",
        recipe.batch * recipe.accumulate * processes, trainer.args.max_steps, f", from {last.name}" if last else "",
    )  # fmt: skip
    state = None if last is None else TrainerState.load_from_json(str(last / "trainer_state.json"))
    if state is None or not is_over(state, recipe.evaluation.patience):
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        state = trainer.state
    best = best_step(state) or state.global_step
    if first:
        finish(record, out, profile, checkpoint=folder / f"checkpoint-{best}", seconds=time.monotonic() - started)
    trainer.accelerator.wait_for_everyone()
    return out / "policy"


def build(recipe: SftRecipe, out: Path, record: RunRecord) -> tuple[Any, PolicyProfile]:
    """The trainer of a run, ready to train, and the profile of what it makes."""
    from datasets import Dataset

    from sifthinker.policy.local import LocalPolicy
    from sifthinker.training.sft.encoding import Collator, TurnEncoder
    from sifthinker.training.sft.samples import told
    from sifthinker.training.sft.start import count_parameters, load_start, lora_config
    from sifthinker.training.sft.trainer import AskAndStop, FocusTrainer, Journal

    material = material_of(recipe)
    schedule = Schedule(len(material.train), recipe)
    steps = -(-len(schedule) // (recipe.batch * recipe.accumulate * recipe.machines.processes))
    settings = _arguments(recipe, out, min(steps, recipe.max_steps or steps))  # ZeRO-3 shards what is loaded after it
    check_processes(recipe.machines, settings.world_size)
    model, processor, profile = load_start(recipe, name=recipe.name or out.name)
    record.parameters = count_parameters(model)
    record.trained_on, record.asked = len(material.train), len(material.asked)

    def opened(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        visits = [schedule.visit(row) for row in batch["row"]]
        rows = [material.rows[material.train[visit.index]] for visit in visits]
        pairs = zip(rows, visits, strict=True)
        turns = [told(row, visit, profile, shuffle=recipe.shuffle_options) for row, visit in pairs]
        images = [[image for turn in conversation for image in turn.images] for conversation in turns]
        return {"row": batch["row"], "conversation": turns, "images": images}

    def name_of(row: int) -> str:
        visit = schedule.visit(row)
        return f"{material.ids[material.train[visit.index]]}:{visit.mode}{'' if visit.depth_shown else ':no-depth'}"

    data = Dataset.from_dict({"row": list(range(len(schedule)))}).with_transform(opened)
    encoder = TurnEncoder(LocalPolicy(model, processor, profile, cache_bytes=0).encoder)
    model.train()
    journal = Journal(out, name_of)
    callbacks: list[Any] = [journal]
    scorer = None
    if material.asked:
        callbacks.append(AskAndStop(recipe.evaluation.every, recipe.evaluation.patience))
        scorer = _scorer(recipe, material, processor, profile)
    trainer = FocusTrainer(
        model=model,
        args=settings,
        data_collator=Collator(encoder, max_tokens=recipe.max_tokens),
        train_dataset=data,
        processing_class=processor,
        peft_config=lora_config(recipe.lora) if recipe.lora else None,
        callbacks=callbacks,
        scorer=scorer,
        on_saved=lambda staged: record.write_beside(staged, profile),
        keep=recipe.keep,
    )
    journal.follow(trainer)
    _quieten(trainer)
    record.trainable = count_parameters(trainer.model, trained=True)
    return trainer, profile


def material_of(recipe: SftRecipe) -> Material:
    """The data of a recipe, its held-out questions set aside.

    Raises:
        UsageError: no data is named. DataError: no records in the folder.
    """
    from sifthinker.training.data.load import training_set
    from sifthinker.training.data.tables import read_records
    from sifthinker.training.sft.evaluation import held_out
    from sifthinker.training.sft.samples import COLUMNS

    if recipe.data is None:
        raise UsageError("The recipe names no data: give a folder of `sifthinker data build` with --data.")
    keys = training_set(recipe.data, columns=("id", "rgb_sha256"))[:]
    ids = [str(one) for one in keys["id"]]
    settings = recipe.evaluation
    train, asked_folder = list(range(len(ids))), recipe.data
    asked: list[Record] = []
    if settings.questions and settings.data is not None:
        asked_folder = settings.data
        everything = list(read_records(settings.data))
        _, chosen = held_out([one.rgb_sha256 for one in everything], settings.questions, recipe.seed)
        asked = [everything[index] for index in chosen] or everything
    elif settings.questions:
        most = min(settings.questions, len(ids) // 2)
        if most < settings.questions:
            logger.warning("%s records are few: %s of them are held out, not %s.", len(ids), most, settings.questions)
        train, chosen = held_out([str(one) for one in keys["rgb_sha256"]], most, recipe.seed)
        wanted = {ids[index] for index in chosen}
        asked = [one for one in read_records(recipe.data) if one.id in wanted]
    measured = recipe.modes.get("tools", 0) > 0
    return Material(training_set(recipe.data, columns=COLUMNS, depth=measured), train, ids, asked, asked_folder)


def _scorer(
    recipe: SftRecipe, material: Material, processor: Any, profile: PolicyProfile
) -> Callable[[Any], dict[str, float]]:
    from accelerate.utils import gather_object
    from trl.models import unwrap_model_for_generation

    from sifthinker.policy.local import LocalPolicy
    from sifthinker.training.sft.evaluation import ask_all, scores_of

    settings = recipe.evaluation

    def score(trainer: Any) -> dict[str, float]:
        """Each process asks its share of the questions."""
        rank, count = trainer.accelerator.process_index, trainer.accelerator.num_processes
        mine = material.asked[rank::count]
        found: dict[str, float] = {}
        scores = []
        kept = trainer.args.gradient_checkpointing_kwargs  # or it would be taken up again as another kind
        with unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gradient_checkpointing_kwargs=kept
        ) as unwrapped:
            model = unwrapped.get_base_model() if hasattr(unwrapped, "get_base_model") else unwrapped
            policy = LocalPolicy(model, processor, profile)
            for mode in settings.modes:
                told = ask_all(policy, mine, material.asked_folder, mode=mode, settings=settings, seed=recipe.seed)
                total = scores_of(gather_object(told))
                scores.append(total.score)
                lead = "eval" if len(settings.modes) == 1 else f"eval_{mode}"
                found |= {f"{lead}_{name}": float(value) for name, value in total.model_dump().items()}
        return {"eval_score": sum(scores) / len(scores), **found}

    return score


def _arguments(recipe: SftRecipe, out: Path, steps: int) -> Any:
    from trl import SFTConfig

    cpu = recipe.on_cpu
    if recipe.loader_workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # they are forked
    settings = SFTConfig(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=recipe.batch,
        gradient_accumulation_steps=recipe.accumulate,
        num_train_epochs=1,  # the schedule has the epochs
        max_steps=steps,
        learning_rate=recipe.lr,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        optim=recipe.optimizer,
        bf16=not cpu and recipe.machines.precision == "bf16",
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and launched() else None,
        gradient_checkpointing=recipe.checkpointing,
        # a LoRA under ZeRO-3 needs the reentrant kind
        gradient_checkpointing_kwargs={"use_reentrant": bool(recipe.lora and recipe.machines.zero == 3)},
        seed=recipe.seed,
        logging_steps=recipe.log_every,
        save_strategy="steps",
        save_steps=recipe.save_every,
        **tracking(recipe.report, out),
        remove_unused_columns=False,
        dataloader_num_workers=recipe.loader_workers,
        max_length=None,  # nothing is cut: see the recipe's max_tokens
        disable_tqdm=not sys.stderr.isatty(),
    )
    take_one_gpu(settings)
    return settings


def _quieten(trainer: Any) -> None:
    """Losses go to the log, not to standard output."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
