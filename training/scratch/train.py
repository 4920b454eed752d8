"""Trains the embedded policy from nothing: the vision tower on dense targets first, then everything on traces.

    sifthinker train sft embedded --out runs/embedded

What it simplifies against training a real policy: scenes are rendered as they are needed, all the questions about a
scene share its images and its prefix (see `packing`), and the gradient of several single-threaded processes is averaged
by one all-reduce, since on a CPU that beats one process with several threads.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from sifthinker.policy.boxes import WHOLE, Box
from sifthinker.training.scratch.model import TOKEN_PX, ModelSize, build_model
from sifthinker.training.scratch.packing import Branches, encode_batch, encode_images, forward
from sifthinker.training.scratch.samples import Branch, SampleConfig, SampleMaker, SceneSample, view_scene
from sifthinker.training.scratch.targets import CellHead, cell_targets
from sifthinker.training.scratch.tokenizer import NUMBERS, build_tokenizer
from sifthinker.training.world.questions import SceneView, make_questions
from sifthinker.training.world.scene import scene_seed
from sifthinker.training.world.traces import make_trace

log = logging.getLogger(__name__)


class ScratchRecipe(BaseModel):
    """What is trained, on what, for how long."""

    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    model: ModelSize = ModelSize()
    samples: SampleConfig = SampleConfig()
    vision_minutes: float = 8.0
    vision_scenes: int = 10
    vision_lr: float = 2e-3
    minutes: float = 90.0
    scenes: int = 8
    lr: float = 2e-3
    final_lr: float = 0.03
    warmup_steps: int = 80
    weight_decay: float = 0.02
    clip: float = 1.0
    aux_weight: float = 0.2
    number_sigma: float = 0.010
    buffer_scenes: int = 3000
    new_scenes: float = 0.35
    ema: float = 0.998
    log_every: int = 20
    save_every_minutes: float = 2.0


@dataclass
class Cursor:
    """How far a run is: what a checkpoint carries besides weights."""

    phase: str = "vision"
    step: int = 0
    seconds: float = 0.0
    scenes: int = 0
    branches: int = 0


class SceneStream:
    """Rendered scenes without end: new ones mixed with scenes seen before, which are asked other questions."""

    def __init__(self, recipe: ScratchRecipe, rank: int, first: int) -> None:
        self.recipe = recipe
        self.rng = np.random.default_rng([recipe.seed, rank, first])
        self.next = rank * 500_000 + first
        self.buffer: list[SceneView] = []

    def __iter__(self) -> Iterator[SceneView]:
        while True:
            if len(self.buffer) < 200 or self.rng.random() < self.recipe.new_scenes:
                view = view_scene(scene_seed("train", self.recipe.seed, self.next))
                self.next += 1
                if len(self.buffer) < self.recipe.buffer_scenes:
                    self.buffer.append(view)
                else:
                    self.buffer[int(self.rng.integers(len(self.buffer)))] = view
                yield view
            else:
                yield self.buffer[int(self.rng.integers(len(self.buffer)))]


def corpus(scenes: int = 300) -> list[str]:
    """Questions, options and texts from which the tokenizer learns its words."""
    rng = np.random.default_rng(0)
    lines: list[str] = []
    for index in range(scenes):
        view = view_scene(scene_seed("train", 999_999, index), size=96)
        for question in make_questions(view, 10, rng):
            lines += [question.text, *question.options, *(f" {option}" for option in question.options)]
            lines += [step.text for step in make_trace(view, question, rng).steps]
    return lines


def pixels(picture: np.ndarray) -> Tensor:
    """(h, w, 3) uint8 to (3, h, w) in [-1, 1], as the image processor does."""
    return torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1.0


def _crops(sample: SceneSample) -> list[tuple[np.ndarray, Box]]:
    """All crops of a scene with what they show: the branches' own in their order, then the further ones."""
    own = [pair for branch in sample.branches for pair in zip(branch.crops, branch.crop_boxes, strict=True)]
    return own + sample.sign_crops


class Losses:
    """Next-token loss with soft targets for numbers: being off by 0.01 is nearly right."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, sigma: float) -> None:
        self.ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(NUMBERS)))
        size = int(max(self.ids)) + 1
        self.place = torch.full((max(size, len(tokenizer) + 16),), -1)
        self.place[self.ids] = torch.arange(len(NUMBERS))
        gap = torch.arange(len(NUMBERS))[:, None] - torch.arange(len(NUMBERS))[None, :]
        self.soft = torch.softmax(-((gap / 100 / sigma) ** 2) / 2, dim=1)

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean loss of logits (T, V), and the loss of each token."""
        logits = logits.float()
        losses = F.cross_entropy(logits, targets, reduction="none")
        at = self.place[targets]
        number = (at >= 0).nonzero()[:, 0]
        if len(number):
            chosen = logits[number]
            logp = chosen[:, self.ids] - chosen.logsumexp(1, keepdim=True)
            soft = self.soft[at[number]]
            floor = (soft * soft.clamp_min(1e-9).log()).sum(1)  # so that a perfect prediction has loss 0
            losses = losses.index_put((number,), floor - (soft * logp).sum(1))
        return (losses * weights).sum() / weights.sum(), losses.detach()


class Trainer:
    """One process of a run."""

    def __init__(self, recipe: ScratchRecipe, out: Path, rank: int = 0, world: int = 1) -> None:
        self.recipe, self.out, self.rank, self.world = recipe, out, rank, world
        torch.manual_seed(recipe.seed)
        self.tokenizer = build_tokenizer(corpus())
        self.model: Qwen3VLForConditionalGeneration = build_model(self.tokenizer, recipe.model)
        self.model.train()
        self.head = CellHead(recipe.model.hidden)
        self.maker = SampleMaker(self.tokenizer, recipe.samples)
        self.seer = SampleMaker(self.tokenizer, recipe.samples.model_copy(update={"direct": 0, "internal": 0}))
        self.losses = Losses(self.tokenizer, recipe.number_sigma)
        self.cursor = Cursor()
        self.params = [*self.model.parameters(), *self.head.parameters()]
        self.optimizers = self._optimizers()
        self.ema = [p.detach().clone() for p in self.params]
        self.resume()
        self.scenes = iter(SceneStream(recipe, rank, self.cursor.scenes // max(world, 1)))
        self.rng = np.random.default_rng([recipe.seed, rank, self.cursor.step])

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the layers, AdamW for tables, gains, biases and the thrown-away head."""
        inner = {
            id(p)
            for name, p in self.model.named_parameters()
            if p.dim() == 2 and ("layers." in name or "blocks." in name or "merger." in name)
        }
        muon = [p for p in self.params if id(p) in inner]
        decay = [p for p in self.params if id(p) not in inner and p.dim() >= 2]
        rest = [p for p in self.params if p.dim() < 2]
        weight_decay = self.recipe.weight_decay
        groups = [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
        return [
            torch.optim.AdamW(groups, lr=self.recipe.lr, betas=(0.9, 0.98), fused=True),
            torch.optim.Muon(muon, lr=self.recipe.lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        ]

    def run(self) -> None:
        """Both phases, from wherever the last checkpoint left them."""
        if self.cursor.phase == "vision":
            self._phase(self.recipe.vision_minutes, self.recipe.vision_lr, self._vision_step)
            self.cursor = Cursor(phase="traces", scenes=self.cursor.scenes)
            self.optimizers = self._optimizers()
            self.save()
        self._phase(self.recipe.minutes, self.recipe.lr, self._trace_step)
        self.cursor.phase = "done"
        self.save()

    def _phase(self, minutes: float, lr: float, step: Any) -> None:
        recipe, cursor = self.recipe, self.cursor
        last_save = last = time.monotonic()
        told: dict[str, list[float]] = {}
        while True:
            progress = self._agree(cursor.seconds / (minutes * 60))
            if progress >= 1.0:
                return
            rate = lr * (recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))
            rate *= min(1.0, (cursor.step + 1) / recipe.warmup_steps)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            loss, numbers = step()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._average_gradients()
            norm = torch.nn.utils.clip_grad_norm_(self.params, recipe.clip)
            if not bool(torch.isfinite(norm)):
                log.warning("step %d: gradient is not finite, skipped", cursor.step)
                continue
            for optimizer in self.optimizers:
                optimizer.step()
            if cursor.step % 100 == 0:
                self._share_weights()
            decay = min(recipe.ema, (1 + cursor.step) / (10 + cursor.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - decay)
            now = time.monotonic()
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
        views = [next(self.scenes) for _ in range(self.recipe.vision_scenes)]
        samples = [self.seer.sample(view, self.rng) for view in views]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, told = self._cells(samples, *self._encode(samples))
        self.cursor.scenes += len(views) * self.world
        return loss, told

    def _trace_step(self) -> tuple[Tensor, dict[str, float]]:
        views = [next(self.scenes) for _ in range(self.recipe.scenes)]
        samples = [self.maker.sample(view, self.rng) for view in views]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens, order = self._encode(samples)
            aux, told = self._cells(samples, tokens, order)
            prefix, groups, members = self._collate(samples, order)
            hidden = forward(self.model, prefix, groups, tokens)
            states, targets, weights, labels = self._learnt(hidden, members)
            logits = self.model.lm_head(states)
        loss, per_token = self.losses(logits, targets, weights)
        for kind in ("direct", "internal", "tools"):
            at = torch.tensor([k == kind for k, _ in labels])
            numbers = at & (self.losses.place[targets] >= 0) & (weights > 0)
            answers = at & torch.tensor([a for _, a in labels])
            if bool(answers.any()):
                told[f"{kind}_answer"] = float(per_token[answers].mean())
            if bool(numbers.any()):
                told[f"{kind}_number"] = float(per_token[numbers].mean())
        told["traces"] = float(loss.detach())
        self.cursor.scenes += len(views) * self.world
        self.cursor.branches += sum(len(s.branches) for s in samples) * self.world
        return loss + self.recipe.aux_weight * aux, told

    def _encode(self, samples: list[SceneSample]) -> tuple[list[Tensor], list[list[int]]]:
        """Vision tokens of all images; for each scene the indices of its RGB, its depth and its crops."""
        visual = self.model.model.visual
        rgb = encode_batch(visual, torch.stack([pixels(s.rgb) for s in samples]))
        depth = encode_batch(visual, torch.stack([pixels(s.depth) for s in samples]))
        crops = [pixels(crop) for s in samples for crop, _ in _crops(s)]
        tokens = [*rgb.unbind(0), *depth.unbind(0), *encode_images(visual, crops)]
        order, at = [], 2 * len(samples)
        for row, sample in enumerate(samples):
            count = len(_crops(sample))
            order.append([row, len(samples) + row, *range(at, at + count)])
            at += count
        return tokens, order

    def _cells(
        self, samples: list[SceneSample], tokens: list[Tensor], order: list[list[int]]
    ) -> tuple[Tensor, dict[str, float]]:
        chosen, targets = [], []
        for sample, indices in zip(samples, order, strict=True):
            parts = [(sample.rgb, WHOLE), (sample.depth, WHOLE), *_crops(sample)]
            for index, (picture, part) in zip(indices, parts, strict=True):
                rows, cols = picture.shape[0] // TOKEN_PX, picture.shape[1] // TOKEN_PX
                target = cell_targets(sample.view, rows, cols, part)
                chosen.append(tokens[index])
                targets.append(target)
        loss, told = self.head.loss(torch.cat(chosen), targets)
        return loss, told

    def _collate(
        self, samples: list[SceneSample], order: list[list[int]]
    ) -> tuple[Branches, list[Branches], list[list[Branch]]]:
        count = len(samples)
        prefix = Branches(
            ids=torch.tensor(self.maker.prefix_ids).expand(count, -1),
            positions=torch.from_numpy(self.maker.prefix_positions)[:, None].expand(-1, count, -1),
            owner=torch.arange(count),
            images=[i for indices in order for i in indices[:2]],
        )
        groups, members = [], []
        for kind in ("direct", "internal", "tools"):
            rows: list[tuple[int, Branch, list[int]]] = []
            for row, (sample, indices) in enumerate(zip(samples, order, strict=True)):
                at = 2
                for branch in sample.branches:
                    images = indices[at : at + len(branch.crops)]
                    at += len(branch.crops)
                    if branch.kind == kind:
                        rows.append((row, branch, images))
            if not rows:
                continue
            rows.sort(key=lambda r: len(r[1].ids))
            for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):  # halves by length: less padding
                if part:
                    groups.append(self._pad(part))
                    members.append([branch for _, branch, _ in part])
        return prefix, groups, members

    def _pad(self, rows: list[tuple[int, Branch, list[int]]]) -> Branches:
        length = max(len(branch.ids) for _, branch, _ in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        positions = torch.zeros(3, len(rows), length, dtype=torch.long)
        for i, (_, branch, _) in enumerate(rows):
            ids[i, : len(branch.ids)] = torch.tensor(branch.ids)
            positions[:, i, : len(branch.ids)] = torch.from_numpy(branch.positions)
        return Branches(ids, positions, torch.tensor([r for r, _, _ in rows]), [i for _, _, im in rows for i in im])

    def _learnt(
        self, hidden: list[Tensor], members: list[list[Branch]]
    ) -> tuple[Tensor, Tensor, Tensor, list[tuple[str, bool]]]:
        """States that predict a learnt token, those tokens, their weights, and (kind, is it the answer)."""
        states: list[Tensor] = []
        targets: list[int] = []
        weights: list[float] = []
        labels: list[tuple[str, bool]] = []
        for group, branches in zip(hidden, members, strict=True):
            for row, branch in enumerate(branches):
                at = [i for i, weight in enumerate(branch.weights) if weight > 0]
                states.append(group[row, torch.tensor(at) - 1])
                targets += [branch.ids[i] for i in at]
                weights += [branch.weights[i] for i in at]
                answer = self.recipe.samples.weight_answer
                labels += [(branch.kind, branch.weights[i] == answer) for i in at]
        return torch.cat(states), torch.tensor(targets), torch.tensor(weights), labels

    def _average_gradients(self) -> None:
        if self.world == 1:
            return
        for p in self.params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in self.params if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self.world
        at = 0
        for p in self.params:
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
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
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
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def resume(self) -> None:
        """Go on from the checkpoint in the run's folder, if there is one."""
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        with torch.no_grad():
            for parameter, saved in zip(self.params, state["params"], strict=True):
                parameter.copy_(saved)
        self.ema = state["ema"]
        self.cursor = Cursor(**state["cursor"])
        for optimizer, saved in zip(self.optimizers, state.get("optimizers", []), strict=False):
            optimizer.load_state_dict(saved)


def launch(recipe: ScratchRecipe, out: Path) -> None:
    """Run in this process; `torchrun` sets the environment of several."""
    out.mkdir(parents=True, exist_ok=True)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if rank == 0:
        (out / "recipe.json").write_text(recipe.model_dump_json(indent=2), encoding="utf-8")
    torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    if world > 1:
        dist.init_process_group("gloo")
        if world == os.cpu_count() and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {rank})  # otherwise other work pushes two of them onto one core
    Trainer(recipe, out, rank, world).run()
    if world > 1:
        dist.destroy_process_group()
