"""The turns that run on a model: prefill with the prefix cache, then a token of each of them in a shared pass.

No threads here: `Engine` sees to it that one at a time calls it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sifthinker.policy.batch import Batch
from sifthinker.policy.decoding import pick
from sifthinker.policy.job import Job
from sifthinker.policy.kv_cache import Layers, PrefixCache, cache_argument
from sifthinker.policy.prefill import Prefill

BATCHED_FAMILIES = frozenset(
    {
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "idefics3",
        "smolvlm",
        "llava",
        "llava_onevision",
        "internvl",
    }
)
"""Families whose positions are known, so that conversations of different lengths can share a forward pass."""


class Running:
    """Turns that are being decoded, a token each at a time.

    Args:
        model: a transformers image-text-to-text model in eval mode.
        suppressed: ids never generated.
        cache: the prefix cache.
        max_batch: turns decoded in one forward pass.
    """

    def __init__(self, model: Any, *, suppressed: Sequence[int], cache: PrefixCache, max_batch: int) -> None:
        self.model = model
        self.cache = cache
        batched = model.config.model_type in BATCHED_FAMILIES
        self._prefill = Prefill(model, cache, together=batched and max_batch > 1)
        self.patch_family = self._prefill.patch_family
        self.max_batch = max_batch if self._prefill.plain and batched else 1
        self._suppressed = torch.tensor(sorted(suppressed), device=model.device) if suppressed else None
        self._one_logit = (
            {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        )
        self._cached = cache_argument(model)
        self.jobs: list[Job] = []
        self._batch: Batch | None = None
        """Their caches, in the same order; None where there are none, or the model keeps more than keys and values."""

    @property
    def room(self) -> int:
        """Turns that can still be let in."""
        return self.max_batch - len(self.jobs)

    def step(self, joining: Sequence[Job]) -> None:
        """Let turns in, decode one token of each that runs, let those go that have ended."""
        with torch.inference_mode():
            self._leave()
            self._join(self._begin([job for job in joining if not job.dropped]))
            if self.jobs:
                self._decode()
                self._leave()

    def clear(self) -> None:
        """Let all go, and keep nothing of them."""
        self.jobs, self._batch = [], None

    def _begin(self, joining: list[Job]) -> list[Job]:
        """Encode conversations, and pick their first tokens. Those whose turns go on."""
        for jobs, logits in self._prefill.run(joining):
            self._take(logits, jobs)
            for job in jobs:
                if job.done and job.whole is None:
                    self._keep(job, job.layers)
        return [job for job in joining if not job.done]

    def _leave(self) -> None:
        """Let turns go that have ended; the prefix cache gets what they encoded."""
        for row in reversed(range(len(self.jobs))):
            job = self.jobs[row]
            if not job.done:
                continue
            last = self.jobs.pop()
            if last is not job:
                self.jobs[row] = last
            if self._batch is not None:
                if not job.error:
                    self._keep(job, self._batch.row(row))
                self._batch.leave(row)
        if not self.jobs:
            self._batch = None

    def _join(self, joining: Sequence[Job]) -> None:
        """Let turns in whose first token is picked."""
        if self._prefill.plain and joining:
            self._batch = self._batch or Batch(len(joining[0].layers))
            self._batch.join([job.layers for job in joining])
            for job in joining:
                job.layers = []
        self.jobs.extend(joining)

    def _decode(self) -> None:
        """One token for each running turn."""
        device = self.model.device
        tokens = torch.tensor([[job.turn.token_ids[-1]] for job in self.jobs], device=device)  # (B, 1)
        inputs: dict[str, Any] = {"input_ids": tokens}
        if self._prefill.patch_family:
            places = torch.tensor([[job.length + job.rope_delta] for job in self.jobs], device=device)
            inputs["position_ids"] = places.expand(3, -1, -1)  # (3, B, 1)
        elif len(self.jobs) > 1:
            inputs["position_ids"] = torch.tensor([[job.length] for job in self.jobs], device=device)
        if self._batch is None:
            inputs[self._cached] = self.jobs[0].whole
        else:
            mask, inputs[self._cached] = self._batch.begin(), self._batch.cache
            if mask is not None:
                inputs["attention_mask"] = mask
        logits = self.model(**inputs, use_cache=True, **self._one_logit).logits[:, -1]
        for job in self.jobs:
            job.length += 1
        self._take(logits, self.jobs)

    def _take(self, logits: torch.Tensor, jobs: Sequence[Job]) -> None:
        picked, logprobs = pick(logits, [job.turn for job in jobs], self._suppressed)
        for job, token_id, logprob in zip(jobs, picked, logprobs, strict=True):
            if piece := job.turn.take(token_id, logprob):
                job.pieces.append(piece)
            job.ended = job.turn.finish_reason is not None  # after its last piece: its thread may be looking

    def _keep(self, job: Job, layers: Layers) -> None:
        """Hand a finished turn's cache to the prefix cache: all but its last token, which was never fed."""
        generated = np.asarray(job.turn.token_ids[:-1], dtype=np.int64)
        self.cache.keep(np.concatenate([job.encoded.keys, generated]), layers)
