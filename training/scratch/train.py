"""Trains the embedded policy from nothing: to see first, then to find what is named, then everything on traces too.

    sifthinker train sft embedded --out runs/embedded

What it simplifies against training a real policy: scenes are rendered as they are needed, all the questions about a
scene share its images and its prefix (see `packing`), and the gradient of several single-threaded processes is averaged
by one all-reduce, since on a CPU that beats one process with several threads.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from sifthinker.policy.errors import DataError
from sifthinker.policy.files import write_whole
from sifthinker.training.checkpoints import TORN
from sifthinker.training.folders import locked, unwritable
from sifthinker.training.launch import launched, own_rank, settle_on_cpu
from sifthinker.training.scratch.batches import Images, collate, encode, learnt, pointing
from sifthinker.training.scratch.compiled import compiled_blocks
from sifthinker.training.scratch.losses import Losses
from sifthinker.training.scratch.model import build_model
from sifthinker.training.scratch.packing import PLAIN, forward
from sifthinker.training.scratch.recipe import ScratchRecipe
from sifthinker.training.scratch.samples import SampleMaker, SceneSample
from sifthinker.training.scratch.stream import SceneStream, corpus
from sifthinker.training.scratch.targets import CellHead
from sifthinker.training.scratch.tokenizer import build_tokenizer

log = logging.getLogger(__name__)
Step = Callable[[], tuple[Tensor, dict[str, float]]]
"""Draws a batch; its loss, and numbers for the log."""


@dataclass
class Cursor:
    """How far a run is: what a checkpoint carries besides weights."""

    phase: str = "vision"
    step: int = 0
    seconds: float = 0.0
    scenes: int = 0
    branches: int = 0


class Trainer:
    """One process of a run."""

    def __init__(self, recipe: ScratchRecipe, out: Path, rank: int = 0, world: int = 1) -> None:
        self.recipe, self.out, self.rank, self.world = recipe, out, rank, world
        torch.manual_seed(recipe.seed)
        self.tokenizer = build_tokenizer(corpus())
        self.model: Qwen3VLForConditionalGeneration = build_model(self.tokenizer, recipe.model)
        if recipe.start_from is not None:
            weights = load_file(recipe.start_from / "model.safetensors")
            self.model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
        self.model.train()
        self.head = CellHead(recipe.model.hidden)
        self.maker = SampleMaker(self.tokenizer, recipe.samples)
        alone = {"ground": 0, "verdict": 0, "direct": 0, "internal": 0, "tools": 0}
        self.seer = SampleMaker(self.tokenizer, recipe.samples.model_copy(update=alone))
        finding = {**alone, "ground": recipe.find_ground}
        self.finder = SampleMaker(self.tokenizer, recipe.samples.model_copy(update=finding))
        self.blocks = compiled_blocks() if recipe.compiled else PLAIN
        self.losses = Losses(self.tokenizer, recipe.number_sigma)
        self.cursor = Cursor()
        self.params = [*self.model.parameters(), *self.head.parameters()]
        self.optimizers = self._optimizers()
        self.ema = [p.detach().clone() for p in self.params]
        self.resume()
        self.scenes = iter(SceneStream(recipe, rank, self.cursor.scenes // max(world, 1), world=world))
        self.rng = np.random.default_rng([recipe.seed, rank, self.cursor.step])

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the layers, AdamW for tables, gains, biases and the thrown-away head.

        In each the vision tower has groups of its own, whose rate is `vision_share` of the others' once it can see.
        """
        inner = {
            id(p)
            for name, p in self.model.named_parameters()
            if p.dim() == 2 and ("layers." in name or "blocks." in name or "merger." in name)
        }
        seeing = {id(p) for p in self.model.model.visual.parameters()}
        slower = 1.0 if self.cursor.phase == "vision" else self.recipe.vision_share
        muon: list[dict[str, Any]] = []
        adam: list[dict[str, Any]] = []
        for share, chosen in (
            (slower, [p for p in self.params if id(p) in seeing]),
            (1.0, [p for p in self.params if id(p) not in seeing]),
        ):
            wide = [p for p in chosen if p.dim() >= 2]
            muon.append({"params": [p for p in wide if id(p) in inner], "share": share})
            adam.append({"params": [p for p in wide if id(p) not in inner], "share": share})
            adam.append({"params": [p for p in chosen if p.dim() < 2], "share": share, "weight_decay": 0.0})
        lr, weight_decay = self.recipe.lr, self.recipe.weight_decay
        return [
            torch.optim.AdamW(adam, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True),
            torch.optim.Muon(muon, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        ]

    def run(self) -> None:
        """All phases, from wherever the last checkpoint left them."""
        r = self.recipe
        phases: dict[str, tuple[float, float, float, Step]] = {
            "vision": (r.vision_minutes, r.vision_lr, r.vision_final_lr, self._vision_step),
            "find": (r.find_minutes, r.find_lr, r.find_final_lr, self._find_step),
            "traces": (r.minutes, r.lr, r.final_lr, self._trace_step),
        }
        names = [*phases, "done"]
        while (phase := self.cursor.phase) != "done":
            self._phase(*phases[phase])
            following = names[names.index(phase) + 1]
            self.cursor = Cursor(phase=following, scenes=self.cursor.scenes, branches=self.cursor.branches)
            self.optimizers = self._optimizers()
            self.save()

    def _phase(self, minutes: float, lr: float, final: float, step: Step) -> None:
        recipe, cursor = self.recipe, self.cursor
        self.model.model.language_model.requires_grad_(cursor.phase != "vision")
        last_save = last = time.monotonic()
        told: dict[str, list[float]] = {}
        compiling = self.blocks is not PLAIN
        while True:
            progress = self._agree(cursor.seconds / (minutes * 60) if minutes else 1.0)
            if progress >= 1.0:
                return
            rate = lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
            rate *= min(1.0, (cursor.step + 1) / recipe.warmup_steps)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["share"]
            loss, numbers = step()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._average_gradients()
            norm = torch.nn.utils.clip_grad_norm_(self.params, recipe.clip)
            if bool(torch.isfinite(norm)):
                for optimizer in self.optimizers:
                    optimizer.step()
            else:
                log.warning("step %d: the gradient is not finite, the step is left out", cursor.step)
            if cursor.step % 100 == 0:
                self._share_weights()
            decay = min(recipe.ema, (1 + cursor.step) / (10 + cursor.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - decay)
            now = time.monotonic()
            if compiling:
                last, compiling = now, False
            cursor.step, cursor.seconds, last = cursor.step + 1, cursor.seconds + now - last, now
            for key, value in {**numbers, "loss": float(loss.detach()), "norm": float(norm)}.items():
                told.setdefault(key, []).append(value)
            if cursor.step % recipe.log_every == 0:
                self._tell(told, rate)
                told = {}
            if now - last_save > recipe.save_every_minutes * 60:
                self.save()
                last_save = now

    def _vision_step(self) -> tuple[Tensor, dict[str, float]]:
        samples = self._samples(self.seer, self.recipe.vision_scenes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self._dense_loss(encode(self.model.model.visual, samples, self.blocks))

    def _dense_loss(self, images: Images) -> tuple[Tensor, dict[str, float]]:
        """What the auxiliary head says of images."""
        table = self.model.model.language_model.embed_tokens.weight[self.losses.ids]
        return self.head.loss(images.in_order(), images.targets, table, self.losses.soft)

    def _find_step(self) -> tuple[Tensor, dict[str, float]]:
        return self._step(self._samples(self.finder, self.recipe.find_scenes), aux_weight=1.0)

    def _trace_step(self) -> tuple[Tensor, dict[str, float]]:
        return self._step(self._samples(self.maker, self.recipe.scenes), self.recipe.aux_weight)

    def _step(self, samples: list[SceneSample], aux_weight: float) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            images = encode(self.model.model.visual, samples, self.blocks)
            aux, told = self._dense_loss(images)
            prefix, groups, members = collate(self.maker, samples, images.order)
            hidden, looks = forward(self.model, prefix, groups, images.tokens, self.recipe.heads_to_watch, self.blocks)
            points = pointing(self.maker, looks, groups, members, images.objects)
            places = learnt(hidden, members)
            logits = self.model.lm_head(places.states)
        loss, per_token = self.losses(logits, places.targets, places.weights)
        for at in {pair for pair in zip(places.kinds, places.parts, strict=True) if pair[1]}:
            chosen = torch.tensor([pair == at for pair in zip(places.kinds, places.parts, strict=True)])
            told["_".join(at)] = float(per_token[chosen].mean())
        told |= {"traces": float(loss.detach()), "pointing": float(points.detach())}
        self.cursor.branches += sum(len(s.branches) for s in samples) * self.world
        return loss + aux_weight * aux + self.recipe.point_weight * points, told

    def _samples(self, maker: SampleMaker, count: int) -> list[SceneSample]:
        self.cursor.scenes += count * self.world
        return [maker.sample(next(self.scenes), self.rng) for _ in range(count)]

    def _average_gradients(self) -> None:
        if self.world == 1:
            return
        moved = [p for p in self.params if p.requires_grad]
        for p in moved:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in moved if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self.world
        at = 0
        for p in moved:
            assert p.grad is not None
            p.grad.copy_(flat[at : at + p.numel()].view_as(p))
            at += p.numel()

    def _share_weights(self) -> None:
        """The first process's weights to all: equal steps keep them equal, this makes sure of it."""
        if self.world > 1:
            for p in self.params:
                dist.broadcast(p.data, 0)

    def _agree(self, value: float) -> float:
        if self.world == 1:
            return value
        shared = torch.tensor([value])
        dist.broadcast(shared, 0)
        return float(shared)

    def _tell(self, told: dict[str, list[float]], rate: float) -> None:
        if self.rank:
            return
        line = {key: round(float(np.mean(values)), 4) for key, values in told.items()}
        line |= {"phase": self.cursor.phase, "step": self.cursor.step, "minutes": round(self.cursor.seconds / 60, 2)}  # type: ignore[dict-item]
        line |= {"scenes": self.cursor.scenes, "branches": self.cursor.branches, "lr": round(rate, 6)}
        try:
            with (self.out / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise unwritable(error, self.out, "The last checkpoint is kept. ") from error
        log.info("%s", line)

    def save(self) -> None:
        """Write the checkpoint atomically."""
        if self.rank:
            return
        state = {
            "params": [p.detach() for p in self.params],
            "ema": self.ema,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "cursor": vars(self.cursor),
        }
        path = self.out / "checkpoint.pt"
        packed = io.BytesIO()  # torch, writing to a file, would say of a full disk only that a position is wrong
        torch.save(state, packed)
        try:
            write_whole(path, lambda part: part.write_bytes(packed.getbuffer()))
        except OSError as error:
            raise unwritable(error, self.out, "The checkpoint before it is kept. ") from error

    def resume(self) -> None:
        """Go on from the checkpoint in the run's folder, if there is one.

        Raises:
            DataError: it cannot be read, is damaged, or of another recipe.
        """
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        try:
            packed = io.BytesIO(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from error
        try:
            state = torch.load(packed, weights_only=True)
            with torch.no_grad():
                for parameter, saved in zip(self.params, state["params"], strict=True):
                    parameter.copy_(saved)
            self.ema = [saved.to(p.dtype) for p, saved in zip(self.params, state["ema"], strict=True)]
            self.cursor = Cursor(**state["cursor"])
            for optimizer, saved in zip(self.optimizers, state.get("optimizers", []), strict=False):
                optimizer.load_state_dict(saved)
        except TORN as error:
            raise DataError(
                f"{path} cannot be gone on from ({first_line(error)}): it is damaged or of another "
                "recipe. Name another folder, or remove it to begin anew."
            ) from error


def first_line(error: Exception) -> str:
    """The first line of a message, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def launch(recipe: ScratchRecipe, out: Path) -> None:
    """Run in this process; `torchrun` sets the environment of several.

    Raises:
        UsageError: another run trains in the folder. DataError: it cannot be written, or holds a damaged checkpoint.
    """
    rank, world = own_rank(), int(os.environ["WORLD_SIZE"]) if launched() else 1
    with ExitStack() as stack:
        if rank == 0:
            try:
                stack.enter_context(locked(out, doing="training"))
                told = recipe.model_dump_json(indent=2)
                write_whole(out / "recipe.json", lambda part: part.write_text(told, encoding="utf-8"))
            except OSError as error:
                raise unwritable(error, out) from error
        settle_on_cpu()
        if world > 1:
            dist.init_process_group("gloo")
        Trainer(recipe, out, rank, world).run()
        if world > 1:
            dist.destroy_process_group()
