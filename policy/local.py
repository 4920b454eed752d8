"""Local policies: any transformers image-text-to-text model from a folder or the hub, with or without an adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sifthinker.policy.base import Completion, PolicyProfile, TokenCallback
from sifthinker.policy.calibration_store import source_identity
from sifthinker.policy.control import ControlTokens
from sifthinker.policy.decoding import Sampling, TextStream, Turn
from sifthinker.policy.encoding import ChatEncoder
from sifthinker.policy.engine import Engine
from sifthinker.policy.errors import UsageError
from sifthinker.policy.job import Job
from sifthinker.policy.kv_cache import PrefixCache
from sifthinker.policy.memory import decoded_bytes, kept_bytes
from sifthinker.policy.messages import Message
from sifthinker.policy.weights import load_weights

logger = logging.getLogger(__name__)

_PLACEHOLDERS = (
    "image_token_id",
    "video_token_id",
    "audio_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)


class LocalPolicy:
    """A model in this process. Safe to call from several threads, which then share forward passes.

    Args:
        model: a transformers model with `forward` and `config`, decoder-only.
        processor: its processor, with a chat template.
        profile: how to speak with it.
        cache_bytes: of KV caches kept for later turns; 0 turns the prefix cache off. By default a quarter of what a GPU
            has left, 1 GB at least and elsewhere.
        max_batch: turns decoded in one forward pass.
        batch_bytes: of the KV caches of those turns, each counted as long as the longest; further turns wait. By
            default a quarter of what a GPU has left, elsewhere without bound.
        identity: what tells it from other policies, see `calibration_store.identity_of`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        profile: PolicyProfile,
        *,
        cache_bytes: int | None = None,
        max_batch: int = 16,
        batch_bytes: int | None = None,
        identity: str | None = None,
    ) -> None:
        self.identity = identity
        self.model = model.eval()
        self.processor = processor
        self._profile = profile
        tokenizer = processor.tokenizer
        end = model.generation_config.eos_token_id
        end_ids = _known([*(end if isinstance(end, list) else [end]), tokenizer.eos_token_id])
        placeholders = _known([getattr(model.config, name, None) for name in _PLACEHOLDERS])
        placeholders |= {tokenizer.convert_tokens_to_ids(processor.image_token)}
        self._control = ControlTokens(tokenizer, extra=placeholders, end=end_ids)
        suppressed = sorted(index for index in self._control.never_generated if index < _vocabulary(model))
        self._cache = PrefixCache(kept_bytes(model.device) if cache_bytes is None else cache_bytes)
        self._engine = Engine(
            model,
            suppressed=suppressed,
            cache=self._cache,
            max_batch=max_batch,
            max_bytes=decoded_bytes(model.device) if batch_bytes is None else batch_bytes,
        )
        self._encoder = ChatEncoder(processor, profile, self._control, patch_family=self._engine.patch_family)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        name: str | None = None,
        adapter: str | Path | None = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        attn: str | None = None,
        quantization: Any = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        cache_bytes: int | None = None,
        max_batch: int = 16,
        batch_bytes: int | None = None,
        **declared: Any,
    ) -> LocalPolicy:
        """Load a model.

        Args:
            source: a folder or a hub id. A folder that holds only a peft adapter loads the base model it names.
            name: what results call it; by default the source.
            adapter: a peft adapter's folder or hub id (needs peft).
            device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread over all devices (needs accelerate). By default
                CUDA, then MPS, then CPU.
            dtype: a torch dtype or its name; by default float32 on the CPU and the checkpoint's own elsewhere.
            attn: transformers' attn_implementation ("sdpa", "eager", "flash_attention_2").
            quantization: a transformers quantisation config, passed through.
            revision: of a hub id.
            trust_remote_code: run code that comes with the checkpoint. Off; think before turning it on.
            cache_bytes, max_batch, batch_bytes: see the class.
            declared: fields of `PolicyProfile` that win over what folder and family say (`box_space`, `dialect`, …).

        Raises:
            PolicyLoadError: not found, not reachable, not a model of this kind, pickled weights.
            UsageError: an option that does not exist.
        """
        model, processor, profile = load_weights(
            str(source),
            name=name,
            adapter=None if adapter is None else str(adapter),
            device=device,
            dtype=dtype,
            attn=attn,
            quantization=quantization,
            revision=revision,
            trust_remote_code=trust_remote_code,
            declared=declared,
        )
        for note in profile.notes:
            logger.warning(note)
        identity = source_identity(str(source), None if adapter is None else str(adapter), revision)
        return cls(
            model,
            processor,
            profile,
            cache_bytes=cache_bytes,
            max_batch=max_batch,
            batch_bytes=batch_bytes,
            identity=identity,
        )

    @property
    def profile(self) -> PolicyProfile:
        """How to speak with this policy."""
        return self._profile

    @property
    def encoder(self) -> ChatEncoder:
        """What turns conversations into tokens and pixels: training encodes through it too."""
        return self._encoder

    def resized_size(self, image_size: tuple[int, int]) -> tuple[int, int] | None:
        """(width, height) that the processor makes of the RGB image: the pixels of `BoxSpace.RESIZED`."""
        return self._profile.resized_size(image_size)

    def forget(self) -> None:
        """Let go of what is kept for later turns: the prefix cache, and prepared images."""
        self._cache.clear()
        self._encoder.forget()

    def generate(
        self,
        messages: Sequence[Message],
        *,
        stop: Sequence[str] = (),
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout: float | None = None,
        on_token: TokenCallback | None = None,
    ) -> Completion:
        """Generate one assistant turn, see `Policy.generate`.

        Raises:
            PolicyError: the model's chat template or the model itself failed on the conversation.
            UsageError: there is no message, or a budget below one token.
        """
        job = self._job(messages, stop, max_new_tokens, temperature, seed, timeout, on_token)
        self._engine.run([job])
        return job.turn.completion()

    def generate_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        stop: Sequence[str] = (),
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> list[Completion]:
        """`generate` for several conversations at once, in shared forward passes.

        Conversation number i is sampled with `seed + i`: the same prompt several times gives different samples.
        """
        jobs = [
            self._job(
                messages, stop, max_new_tokens, temperature, None if seed is None else seed + index, timeout, None
            )
            for index, messages in enumerate(conversations)
        ]
        if jobs:
            self._engine.run(jobs)
        return [job.turn.completion() for job in jobs]

    def _job(
        self,
        messages: Sequence[Message],
        stop: Sequence[str],
        max_new_tokens: int,
        temperature: float,
        seed: int | None,
        timeout: float | None,
        on_token: TokenCallback | None,
    ) -> Job:
        if not messages:
            raise UsageError("Expected at least one message to generate an answer to, got none.")
        if max_new_tokens < 1:
            raise UsageError(f"Expected max_new_tokens of at least 1, got {max_new_tokens}.")
        started = time.monotonic()
        generator = None
        if temperature > 0:
            generator = torch.Generator(device=self.model.device)
            generator.seed() if seed is None else generator.manual_seed(seed)
        encoded = self._encoder.encode(messages)
        turn = Turn(
            stream=TextStream(self.processor.tokenizer, self._control, stop),
            sampling=Sampling(max_new_tokens, temperature, generator, None if timeout is None else started + timeout),
            prompt_tokens=len(encoded.keys),
            end_ids=self._control.end_ids,
            started=started,
        )
        return Job(encoded, turn, on_token)


def _known(ids: Sequence[int | None]) -> frozenset[int]:
    return frozenset(index for index in ids if index is not None)


def _vocabulary(model: Any) -> int:
    return int(model.get_output_embeddings().weight.shape[0])
