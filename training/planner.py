"""What a run needs of each GPU before it is started: weights, gradients, optimiser, activations, each explained.

    plan(Workload(model="Qwen/Qwen3-VL-4B-Instruct", lora=LoraSize(rank=16), gpu_gb=24, batch=1, accumulate=16))

An estimate, from the shapes alone: weights, gradients and optimiser states are exact up to what frameworks pad;
activations are counted tensor by tensor for the layers that transformers has, and are the part to distrust. Fits with
room to spare: start it. Fits barely: try one step first.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sifthinker.training.sizes import ModelShape, shape_of

GB = 1e9
"""Bytes; GPUs are sold in units a little larger (GiB), the difference is room."""
CONTEXT_BYTES = 1.0e9
"""CUDA's context and the libraries' workspaces on each GPU."""
SLACK = 0.08
"""Of everything else: what the allocator cannot use because it lies in pieces."""
HEAD_TOKENS, HEAD_TILE = 4096, 32768
"""TRL projects the answer's tokens on the vocabulary in tiles of at most so many tokens and words."""


class LoraSize(BaseModel):
    """A LoRA on every linear layer, the head left out."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(ge=1)
    vision: bool = Field(default=False, description="On the vision tower's layers too.")


class Generation(BaseModel):
    """Completions that a step samples (GRPO)."""

    model_config = ConfigDict(extra="forbid")

    engine: Literal["transformers", "vllm-colocate", "vllm-server"] = "transformers"
    sequences: int = Field(ge=1, description="Decoded at once on a GPU.")
    tokens: int = Field(ge=1, description="Of a sequence: prompt, images and completion.")
    share: float = Field(default=0.3, gt=0, lt=1, description="Of a GPU's memory that a colocated vLLM takes.")


class Workload(BaseModel):
    """What is trained, on what, how: everything that a plan follows from."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="embedded, a folder or a hub id.")
    lora: LoraSize | None = Field(default=None, description="None: every weight is trained.")
    train_vision: bool = Field(default=False, description="Without LoRA: whether the vision tower is trained too.")
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    gpus: int = Field(default=1, ge=1, description="Processes; on the CPU likewise.")
    gpu_gb: float | None = Field(default=None, gt=0, description="Memory of one GPU; None: the CPU's, not compared.")
    zero: Literal[0, 2, 3] = Field(default=0, description="DeepSpeed's stage; 0: none.")
    batch: int = Field(default=1, ge=1, description="Sequences on a GPU in one pass.")
    accumulate: int = Field(default=1, ge=1, description="Passes of a step.")
    text_tokens: int = Field(default=900, ge=1, description="Of a sequence, without its images.")
    answer_tokens: int = Field(default=300, ge=1, description="Of these, the assistant's.")
    images: int = Field(default=2, ge=0, description="In a sequence: RGB and depth are two.")
    image_pixels: int = Field(default=262_144, ge=1, description="Of one image as the processor hands it on.")
    checkpointing: bool = Field(
        default=True, description="Whether activations are computed again in the backward pass."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="What it keeps: two moments, or nothing.")
    full_logits: bool = Field(default=False, description="Whether a loss holds the answer's logits whole.")
    reference: bool = Field(default=False, description="A second copy of the weights, for a KL term without LoRA.")
    generation: Generation | None = None
    answers: bool = Field(default=False, description="Whether it answers questions in between, to be scored.")


class Part(BaseModel):
    """One line of a plan."""

    name: str
    bytes: float
    why: str
    enough: bool = True
    """Whether what the recipe sets aside for it will do."""


class Plan(BaseModel):
    """What a run needs of each GPU."""

    workload: Workload
    source: str = Field(description="Where the model's config came from.")
    parameters: int
    trainable: int
    sequence_tokens: int = Field(description="Of one sample: text and images.")
    tokens_per_step: int = Field(description="Over all GPUs.")
    samples_per_step: int
    parts: list[Part]

    @property
    def total(self) -> float:
        """Bytes on one GPU at the highest point of a step."""
        return sum(part.bytes for part in self.parts)

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None where nothing was said of the GPU."""
        if self.workload.gpu_gb is None:
            return None
        return self.total <= self.workload.gpu_gb * GB and all(part.enough for part in self.parts)

    def part(self, name: str) -> Part:
        """A line by its name.

        Raises:
            KeyError: there is none of that name.
        """
        found = {part.name: part for part in self.parts}
        return found[name]


def plan(workload: Workload, shape: ModelShape | None = None, *, hub: bool = False) -> Plan:
    """The plan of a run.

    Args:
        workload: what is trained, and how.
        shape: of the model; by default counted from its config on the meta device.
        hub: ask the hub for the config even where one comes with the package.

    Raises:
        PolicyLoadError: no config of the model can be had.
    """
    shape = shape or shape_of(workload.model, hub=hub)
    trainable = _trainable(workload, shape)
    tokens = workload.text_tokens + workload.images * shape.image_tokens(workload.image_pixels)
    samples = workload.batch * workload.accumulate * workload.gpus
    parts = [*_states(workload, shape, trainable), *_activations(workload, shape, tokens)]
    if workload.generation is not None:
        parts.append(_generation(workload, workload.generation, shape))
    if workload.gpu_gb is not None:
        parts.append(Part(name="context", bytes=CONTEXT_BYTES, why="CUDA's context and library workspaces"))
    vllm = sum(part.bytes for part in parts if part.name == "vLLM")  # it holds its share whole, nothing lies about
    rest = sum(part.bytes for part in parts) - vllm
    parts.append(Part(name="slack", bytes=SLACK * rest, why=f"{SLACK:.0%} of the above: memory that lies in pieces"))
    return Plan(
        workload=workload,
        source=shape.source,
        parameters=shape.parameters,
        trainable=trainable,
        sequence_tokens=tokens,
        tokens_per_step=tokens * samples,
        samples_per_step=samples,
        parts=parts,
    )


def _trainable(workload: Workload, shape: ModelShape) -> int:
    if workload.lora is not None:
        return shape.lora_parameters(workload.lora.rank, vision=workload.lora.vision)
    return shape.parameters - (0 if workload.train_vision else shape.vision_parameters)


def _states(workload: Workload, shape: ModelShape, trainable: int) -> list[Part]:
    """Weights, gradients and what the optimiser keeps, after sharding."""
    each = 2 if workload.dtype == "bfloat16" else 4
    mixed = workload.dtype == "bfloat16"
    unit = "process" if workload.gpu_gb is None else "GPU"
    sharded, whole = (workload.gpus, f"/ {workload.gpus} (ZeRO-{workload.zero})"), (1, f"on each {unit}")
    weight_share = sharded if workload.zero == 3 else whole
    state_share = sharded if workload.zero else whole
    parts = []
    if workload.lora is not None:
        # peft keeps an adapter in float32; under DeepSpeed it has the base's type and a master copy.
        adapter = each if workload.zero else 4
        master = 4 if workload.zero and mixed else 0
        weights = (shape.parameters * each + trainable * adapter) / weight_share[0]
        why = f"{_count(shape.parameters)} × {each} bytes, adapter {_count(trainable)} × {adapter}, {weight_share[1]}"
        gradient = adapter
    elif mixed and not workload.zero:
        # transformers trains float32 weights under autocast, which keeps a bfloat16 copy of those that are trained.
        frozen = shape.parameters - trainable
        weights = trainable * (4 + 2) + frozen * 4.0
        why = f"{_count(trainable)} × (4 bytes + 2 for autocast's copy), frozen {_count(frozen)} × 4"
        master, gradient = 0, 4
    else:
        weights = shape.parameters * each / weight_share[0]
        why = f"{_count(shape.parameters)} × {each} bytes, {weight_share[1]}"
        master, gradient = (4 if mixed else 0), each
    parts.append(Part(name="weights", bytes=weights, why=why))
    if workload.zero == 3:
        parts.append(_gathered(workload, shape, each))
    if workload.reference:
        reference = each if workload.zero else 4  # TRL loads it in float32, and DeepSpeed casts it
        why = f"the start's weights × {reference} bytes for the KL term, {weight_share[1]}"
        parts.append(Part(name="reference", bytes=shape.parameters * reference / weight_share[0], why=why))
    why = f"{_count(trainable)} trained × {gradient} bytes, {state_share[1]}"
    parts.append(Part(name="gradients", bytes=trainable * gradient / state_share[0], why=why))
    kept = (0 if workload.optimizer == "sgd" else 8) + master
    held = [] if workload.optimizer == "sgd" else ["AdamW's two moments in float32"]
    held += ["the float32 master copy"] if master else []
    why = f"{_count(trainable)} × {kept} bytes: {' and '.join(held) or 'plain SGD keeps nothing'}"
    parts.append(Part(name="optimiser", bytes=trainable * kept / state_share[0], why=f"{why}, {state_share[1]}"))
    return parts


def _gathered(workload: Workload, shape: ModelShape, each: int) -> Part:
    """What ZeRO-3 brings together on a GPU at once: two blocks while it learns, or the whole model in between."""
    engine = workload.generation.engine if workload.generation is not None else None
    reasons = ["to be scored"] if workload.answers else []
    reasons += ["to sample"] if engine == "transformers" else []
    reasons += ["to hand vLLM the adapter's sum"] if engine not in (None, "transformers") and workload.lora else []
    if reasons:
        why = (
            f"the whole model ({_count(shape.parameters)} × {each} bytes) on each GPU in between, {', '.join(reasons)}"
        )
        return Part(name="gathered", bytes=float(shape.parameters * each), why=why)
    why = f"the largest block ({_count(shape.largest_block)} × {each} bytes) gathered, and the next one fetched"
    return Part(name="gathered", bytes=2.0 * shape.largest_block * each, why=why)


def _activations(workload: Workload, shape: ModelShape, tokens: int) -> list[Part]:
    """What the forward pass leaves for the backward pass, for one pass of `batch` sequences."""
    each = 2 if workload.dtype == "bfloat16" else 4
    places = workload.batch * tokens
    layer = places * _layer_bytes(workload, shape, each, tokens)
    working = places * 2.0 * shape.mlp * each  # gradients of a layer's widest tensors while it runs backwards
    if workload.checkpointing:
        kept = shape.layers * places * shape.hidden * each
        why = f"{shape.layers} layers × {places:,} tokens × {shape.hidden} × {each} bytes kept, one computed again"
        parts = [Part(name="activations", bytes=kept + layer + working, why=why)]
    else:
        why = f"{shape.layers} layers × {places:,} tokens, every tensor kept"
        parts = [Part(name="activations", bytes=shape.layers * layer + working, why=why)]
    parts.append(_vision(workload, shape, each))
    answer = workload.batch * workload.answer_tokens
    if workload.full_logits:
        bytes_, how = answer * shape.vocabulary * (each + 8.0), "logits, in float32, and their gradient"
    else:
        words = min(shape.vocabulary, HEAD_TILE)
        bytes_ = answer * shape.hidden * 8.0 + words * (min(answer, HEAD_TOKENS) * 4.0 + shape.hidden * 4.0)
        how = "states, one tile of logits and of the head's weights in float32"
    if workload.lora is None and not workload.full_logits:
        bytes_ += 4.0 * shape.vocabulary * shape.hidden
        how += ", the head's gradient in float32"
    parts.append(Part(name="head", bytes=bytes_, why=f"{answer:,} answer tokens: {how}"))
    return parts


def _layer_bytes(workload: Workload, shape: ModelShape, each: int, tokens: int) -> float:
    """Bytes for one token in one decoder layer, tensor by tensor."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    elements = 4 * shape.hidden  # two normed inputs, the attention's output, the residual stream
    elements += 2 * (queries + keys) + keys + queries  # q and k before and after their rotation, v, attended values
    elements += 4 * shape.mlp  # gate, its activation, up, their product
    total = float(elements * each + 2 * shape.hidden * 4)  # both norms work in float32
    if shape.normed_heads:
        total += (queries + keys) * 4
    if workload.lora is not None:
        adapted = sum(inside for inside, _ in shape.linears) / max(1, shape.layers)
        total += adapted * 4  # an adapter reads its layer's input in float32
    if workload.attention == "eager":
        total += shape.heads * tokens * (each + 4.0)  # scores and their softmax, for every pair of tokens
    return total


def _vision(workload: Workload, shape: ModelShape, each: int) -> Part:
    """The vision tower's part: a frozen tower keeps nothing, and needs one layer at a time."""
    patches = workload.batch * workload.images * shape.image_tokens(workload.image_pixels) * shape.merge**2
    trained = workload.lora.vision if workload.lora is not None else workload.train_vision
    layer = patches * (8 * shape.vision_hidden + 3 * shape.vision_mlp) * each
    pixels = patches * 3 * 2 * shape.patch_px**2 * 4
    if not trained:
        why = f"{patches:,} patches through a frozen tower: pixels, one layer at a time"
        return Part(name="vision", bytes=float(pixels + layer), why=why)
    kept = shape.vision_layers * (patches * shape.vision_hidden * each if workload.checkpointing else layer)
    why = f"{patches:,} patches through {shape.vision_layers} trained layers"
    return Part(name="vision", bytes=float(pixels + kept + layer), why=why)


def _generation(workload: Workload, generation: Generation, shape: ModelShape) -> Part:
    if generation.engine == "vllm-server":
        return Part(name="vLLM", bytes=0.0, why="on its own GPUs")
    if generation.engine == "vllm-colocate":
        bytes_ = generation.share * (workload.gpu_gb or 0.0) * GB
        weights = float(shape.parameters * 2)
        if workload.gpu_gb is None or bytes_ >= weights:
            why = f"{generation.share:.0%} of the GPU: its weights and its KV cache"
            return Part(name="vLLM", bytes=bytes_, why=why)
        why = f"its weights alone: {generation.share:.0%} of the GPU, vllm_gpu_memory_utilization, are less"
        return Part(name="vLLM", bytes=weights, why=why, enough=False)
    each = 2 if workload.dtype == "bfloat16" else 4
    one = 2 * shape.layers * shape.kv_heads * shape.head_dim * each
    bytes_ = float(generation.sequences * generation.tokens * one)
    why = f"{generation.sequences} sequences × {generation.tokens:,} tokens × {one:,} bytes"
    return Part(name="KV cache", bytes=bytes_, why=why)


def _count(number: int) -> str:
    """A number of parameters for people."""
    return f"{number / 1e9:.2f} G" if number >= 1e8 else f"{number / 1e6:.2f} M"
