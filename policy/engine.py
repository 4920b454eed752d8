"""The engine of a local policy: prefill with the prefix cache, then decoding of all running turns in shared steps.

Threads that call `Engine.run` at the same time share forward passes: one of them leads, the others wait for their
tokens; a turn that comes while others are being decoded joins them at the next step.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sifthinker.policy.batch import Batch
from sifthinker.policy.decoding import pick
from sifthinker.policy.errors import PolicyError
from sifthinker.policy.job import Job
from sifthinker.policy.kv_cache import Layers, PrefixCache
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


@dataclass(eq=False)
class _Caller:
    """A thread inside `run`, and what wakes it: its job's text, its job's end, or the lead."""

    jobs: Sequence[Job]
    wake: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        return all(job.done for job in self.jobs)


class Engine:
    """Runs turns on one model.

    Args:
        model: a transformers image-text-to-text model in eval mode.
        suppressed: ids never generated.
        cache: the prefix cache.
        max_batch: turns decoded in one forward pass. With 1, a turn's numbers do not depend on what runs beside it.
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
        self._lock = threading.Lock()
        self._callers: list[_Caller] = []
        self._leader: _Caller | None = None
        self._waiting: deque[Job] = deque()
        # What follows is touched by the leader alone.
        self._running: list[Job] = []
        self._batch: Batch | None = None
        """Their caches, in the same order; None where there are none, or the model keeps more than keys and values."""

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs to their end, together with those of other threads.

        Raises:
            PolicyError: the model failed on one of them.
            Exception: whatever `on_token` raises; the jobs are then dropped, those of other threads go on.
        """
        caller = _Caller(jobs)
        with self._lock:
            self._callers.append(caller)
            self._waiting.extend(jobs)
            self._leader = self._leader or caller
        try:
            while True:
                finished = caller.done  # looked at before the pieces are handed over, so that none is left behind
                for job in jobs:
                    while job.pieces:
                        piece = job.pieces.popleft()
                        if job.on_token:
                            job.on_token(piece)
                    if job.error is not None:
                        raise job.error
                if finished:
                    return
                if self._leader is caller:
                    self._step()
                else:
                    caller.wake.wait()
                    caller.wake.clear()
        finally:
            with self._lock:
                for job in jobs:
                    job.dropped = True
                self._callers.remove(caller)
                if self._leader is caller:
                    self._leader = next((other for other in self._callers if not other.done), None)
                    if self._leader:
                        self._leader.wake.set()

    def _step(self) -> None:
        """One step of the leader: let new turns in, decode one token of each running turn, let finished turns go."""
        with self._lock:
            joining: list[Job] = []
            while self._waiting and len(self._running) + len(joining) < self.max_batch:
                joining.append(self._waiting.popleft())
        try:
            with torch.inference_mode():
                self._leave()
                self._join(self._begin([job for job in joining if not job.dropped]))
                if self._running:
                    self._decode()
                    self._leave()
        except BaseException as error:
            # The caches may be half written: nothing of this batch can go on.
            for job in (*self._running, *joining):
                job.error = job.error or PolicyError(f"The model failed while decoding: {error}")
            self._running, self._batch = [], None
            self._wake()
            raise
        self._wake()

    def _wake(self) -> None:
        """Wake the threads that have something to hand over or to return."""
        with self._lock:
            for caller in self._callers:
                if caller.done or any(job.pieces and job.on_token for job in caller.jobs):
                    caller.wake.set()

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
        for row in reversed(range(len(self._running))):
            job = self._running[row]
            if not job.done:
                continue
            last = self._running.pop()
            if last is not job:
                self._running[row] = last
            if self._batch is not None:
                if not job.error:
                    self._keep(job, self._batch.row(row))
                self._batch.leave(row)
        if not self._running:
            self._batch = None

    def _join(self, joining: Sequence[Job]) -> None:
        """Let turns in whose first token is picked."""
        if self._prefill.plain and joining:
            self._batch = self._batch or Batch(len(joining[0].layers))
            self._batch.join([job.layers for job in joining])
            for job in joining:
                job.layers = []
        self._running.extend(joining)

    def _decode(self) -> None:
        """One token for each running turn."""
        device = self.model.device
        tokens = torch.tensor([[job.turn.token_ids[-1]] for job in self._running], device=device)  # (B, 1)
        inputs: dict[str, Any] = {"input_ids": tokens}
        if self._prefill.patch_family:
            places = torch.tensor([[job.length + job.rope_delta] for job in self._running], device=device)
            inputs["position_ids"] = places.expand(3, -1, -1)  # (3, B, 1)
        elif len(self._running) > 1:
            inputs["position_ids"] = torch.tensor([[job.length] for job in self._running], device=device)
        if self._batch is None:
            inputs["past_key_values"] = self._running[0].whole
        else:
            mask, inputs["past_key_values"] = self._batch.begin(), self._batch.cache
            if mask is not None:
                inputs["attention_mask"] = mask
        logits = self.model(**inputs, use_cache=True, **self._one_logit).logits[:, -1]
        for job in self._running:
            job.length += 1
        self._take(logits, self._running)

    def _take(self, logits: torch.Tensor, jobs: list[Job]) -> None:
        picked, logprobs = pick(logits, [job.turn for job in jobs], self._suppressed)
        for job, token_id, logprob in zip(jobs, picked, logprobs, strict=True):
            if piece := job.turn.take(token_id, logprob):
                job.pieces.append(piece)
            job.ended = job.turn.finish_reason is not None  # after its last piece: its thread may be looking

    def _keep(self, job: Job, layers: Layers) -> None:
        """Hand a finished turn's cache to the prefix cache: all but its last token, which was never fed."""
        generated = np.asarray(job.turn.token_ids[:-1], dtype=np.int64)
        self.cache.keep(np.concatenate([job.encoded.keys, generated]), layers)
