"""The turns that run on a model: prefill with the prefix cache, then a token of each of them in a shared pass.

No threads here: `Engine` sees to it that one at a time calls it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from sifthinker.policy.batch import Batch
from sifthinker.policy.decoding import pick
from sifthinker.policy.errors import PolicyError
from sifthinker.policy.job import Job
from sifthinker.policy.kv_cache import Layers, PrefixCache, cache_argument
from sifthinker.policy.prefill import Prefill

logger = logging.getLogger(__name__)

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
        max_bytes: of their caches, each counted as long as the longest; a turn alone may have more. None: any.
    """

    def __init__(
        self,
        model: Any,
        *,
        suppressed: Sequence[int],
        cache: PrefixCache,
        max_batch: int,
        max_bytes: int | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        batched = model.config.model_type in BATCHED_FAMILIES
        self._prefill = Prefill(model, cache, together=batched and max_batch > 1)
        self.patch_family = self._prefill.patch_family
        self.max_batch = max_batch if self._prefill.plain and batched else 1
        self.max_bytes = max_bytes
        self._most_bytes = max_bytes  # as long as there is memory for so many
        self._place_bytes = 0  # of a place in a cache; 0: none has been seen yet
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

    def takes(self, waiting: Iterable[Job]) -> int:
        """How many of those that wait can be let in now, the first first. One alone always can."""
        longest, taken = self._longest, 0
        for job in islice(waiting, max(self.room, 0)):
            rows, longest = len(self.jobs) + taken + 1, max(longest, len(job.encoded.keys))
            size = rows * longest * self._place_bytes
            if rows > 1 and self.max_bytes is not None and (not size or size > self.max_bytes):
                break
            taken += 1
        return taken

    def step(self, joining: Sequence[Job]) -> list[Job]:
        """Let turns in, decode one token of each that runs, let those go that have ended.

        Returns:
            Those of the joining for which there is no memory beside the others: they are to come again.
        """
        with torch.inference_mode():
            self._leave()
            joining = [job for job in joining if not job.dropped]
            left = list(joining)
            if self._has_memory(joining):
                self._join(self._begin(joining))
                left = [job for job in joining if job.short is not None]
            if left:
                left = self._put_back(left)
            if self.jobs:
                self._decode()
                self._leave()
        return left

    def clear(self) -> None:
        """Let all go, and keep nothing of them."""
        self.jobs, self._batch = [], None

    def _begin(self, joining: list[Job]) -> list[Job]:
        """Encode conversations, and pick their first tokens. Those whose turns go on."""
        for jobs, logits in self._prefill.run(joining):
            self._take(logits, jobs)
            self._place_bytes = sum(k.nbytes + v.nbytes for k, v in jobs[0].layers) // jobs[0].length
            for job in jobs:
                if job.done and job.whole is None:
                    self._keep(job, job.layers)
        return [job for job in joining if not job.done and job.short is None]

    def _has_memory(self, joining: Sequence[Job]) -> bool:
        """Whether the batch can be made large enough for turns that join those under way."""
        if self._batch is None or not joining:
            return True
        longest = max(self._longest, *(len(job.encoded.keys) for job in joining))
        try:
            self._batch.reserve(len(self.jobs) + len(joining), longest + 1)
        except torch.OutOfMemoryError:
            return False
        return True

    def _put_back(self, joining: list[Job]) -> list[Job]:
        """Those that can come again when others have left; where there are none, they fail. Fewer are let in then."""
        self.cache.clear()
        if not self.jobs:
            for job in joining:
                job.error = job.short
            return []
        for job in joining:
            job.short = None
        rows, longest = len(self.jobs), max(self._longest, *(len(job.encoded.keys) for job in joining))
        tried = (rows + len(joining)) * longest * self._place_bytes
        self.max_bytes = max(rows * self._longest * self._place_bytes, tried // 2)
        logger.info("No memory for %d more turns beside %d: they wait.", len(joining), rows)
        return joining

    @property
    def _longest(self) -> int:
        return max((job.length for job in self.jobs), default=0)

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
            self._batch, self.max_bytes = None, self._most_bytes

    def _join(self, joining: list[Job]) -> None:
        """Let turns in whose first token is picked. One for which there is no memory, not even by itself, fails."""
        while joining:
            some = joining
            while not self._joined(some):
                if len(self.cache):
                    self.cache.clear()
                elif len(some) > 1:
                    some = some[: len(some) // 2]
                else:
                    some[0].error = PolicyError("There is no memory to go on with this conversation.")
                    break
            joining = joining[len(some) :]

    def _joined(self, joining: list[Job]) -> bool:
        """Whether there was memory for turns, which are under way then."""
        if self._prefill.plain:
            batch = self._batch or Batch(len(joining[0].layers))
            try:
                batch.join([job.layers for job in joining])
            except torch.OutOfMemoryError:
                return False
            self._batch = batch
            for job in joining:
                job.layers = []
        self.jobs.extend(joining)
        return True

    def _grow(self, batch: Batch) -> None:
        """Have room for a token more of each turn; without the prefix cache where there is none beside it."""
        try:
            batch.reserve_one()
        except torch.OutOfMemoryError:
            self.cache.clear()

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
            self._grow(self._batch)
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
