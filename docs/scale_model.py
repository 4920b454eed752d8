"""The arithmetic behind docs/scale.md: tokens of a question, seconds of a GPU, a queue; with every assumption."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from functools import cache

from sifthinker.training.sizes import ModelShape, shape_of

MODELS = ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct")


@dataclass(frozen=True)
class Gpu:
    """A GPU as its data sheet has it, and what an hour of it is assumed to cost."""

    name: str
    flops: float
    """Dense bfloat16."""
    bandwidth: float
    """Bytes a second."""
    memory_gb: float
    dollars: float


H100 = Gpu("H100 80 GB", 989e12, 3.35e12, 80, 2.50)
A100 = Gpu("A100 80 GB", 312e12, 2.04e12, 80, 1.50)
RTX = Gpu("RTX 4090 24 GB", 165e12, 1.01e12, 24, 0.50)

USED_FLOPS = 0.45
"""Share of a GPU's arithmetic that encoding and training come to."""
USED_BANDWIDTH = 0.6
"""Share of its bandwidth that decoding comes to."""
BATCH = 32
"""Questions decoded at once on a GPU, where its memory holds them."""
PRICE_IN, PRICE_OUT = 0.20, 0.80
"""Dollars for a million tokens at a hosted server, without a discount for what it has cached."""

# The question of `python tests/performance --only focus`, a photograph of 1024 × 768 looked at in four steps, in tokens
# of Qwen3-VL and at the sizes that a model as it comes is shown (`policy/profiles.py`): depth 518 pixels, crops 512 or
# more.
RGB, DEPTH, CROPS, STEPS = 768, 192, (252, 192, 208, 176), 4
PICTURES = RGB + DEPTH
OPENING, TURN, REPLY, SHORT_ANSWER = 210, 72, 48, 12
GOES_ON = 0.4
"""Share of questions that mode adaptive takes on to tools."""


@dataclass(frozen=True)
class Cost:
    """Tokens of a question: encoded with a prefix cache, as a server without one is sent them, written."""

    encoded: float
    sent: float
    written: float
    image_tokens: float

    def plus(self, other: Cost, share: float = 1.0) -> Cost:
        """This and a share of another."""
        return Cost(
            self.encoded + share * other.encoded,
            self.sent + share * other.sent,
            self.written + share * other.written,
            self.image_tokens + share * other.image_tokens,
        )


def question(mode: str) -> Cost:
    """What a question costs in a mode."""
    opening = PICTURES + OPENING
    if mode == "direct":
        return Cost(opening, opening, SHORT_ANSWER, PICTURES)
    internal = Cost(opening, opening, TURN * (STEPS + 1), PICTURES)
    if mode == "internal":
        return internal
    lengths = [opening]  # of the conversation before each turn
    for crop in CROPS:
        lengths.append(lengths[-1] + TURN + REPLY + crop)
    new = sum(CROPS) + STEPS * REPLY
    if mode == "tools":
        return Cost(opening + new, sum(lengths), TURN * (STEPS + 1), PICTURES + sum(CROPS))
    return internal.plus(Cost(new, sum(lengths), TURN * (STEPS + 1), sum(CROPS)), GOES_ON)


MODES = ("direct", "internal", "tools", "adaptive")


@cache
def shape(model: str) -> ModelShape:
    """The shape of a published model."""
    return shape_of(model)


def weights(model: ModelShape) -> float:
    """Parameters that a token of text goes through, the head included."""
    return sum(inside * outside for inside, outside in model.linears) + model.vocabulary * model.hidden


def seen(model: ModelShape) -> float:
    """Parameters that a patch of an image goes through."""
    return sum(inside * outside for inside, outside in model.vision_linears)


def kv_bytes(model: ModelShape) -> float:
    """Of one token in bfloat16."""
    return 2.0 * 2 * model.layers * model.kv_heads * model.head_dim


def encode_seconds(model: ModelShape, cost: Cost, gpu: Gpu) -> float:
    """Seconds of a GPU to encode what is new of a question."""
    length = OPENING + PICTURES
    attention = 2 * model.layers * model.heads * model.head_dim * length  # every token sees half of it, keys and values
    patches = cost.image_tokens * model.merge**2
    pictures = 2 * seen(model) + 4 * model.vision_layers * model.vision_hidden * RGB * model.merge**2
    return (cost.encoded * (2 * weights(model) + attention) + patches * pictures) / (USED_FLOPS * gpu.flops)


def batch(model: ModelShape, gpu: Gpu) -> int:
    """Questions that a GPU holds at once."""
    length = sum((PICTURES, OPENING, sum(CROPS), STEPS * REPLY, (STEPS + 1) * TURN))
    room = 0.9 * gpu.memory_gb * 1e9 - 2.0 * model.parameters - 1e9
    return max(1, min(BATCH, int(room / (length * kv_bytes(model)))))


def step_seconds(model: ModelShape, gpu: Gpu, count: int) -> float:
    """Seconds of one decoding step of so many conversations."""
    length = PICTURES + OPENING + sum(CROPS) / 2 + TURN * STEPS / 2
    moved = 2.0 * weights(model) + count * length * kv_bytes(model)
    return max(moved / (USED_BANDWIDTH * gpu.bandwidth), 2 * weights(model) * count / (USED_FLOPS * gpu.flops))


def gpu_seconds(model: ModelShape, mode: str, gpu: Gpu) -> float:
    """Seconds of a GPU for one question among as many as it holds."""
    count, cost = batch(model, gpu), question(mode)
    return encode_seconds(model, cost, gpu) + cost.written * step_seconds(model, gpu, count) / count


def lone_seconds(model: ModelShape, mode: str, gpu: Gpu) -> float:
    """Seconds from question to answer on a GPU that does nothing else."""
    cost = question(mode)
    return encode_seconds(model, cost, gpu) + cost.written * step_seconds(model, gpu, 1)


def training_seconds(
    model: ModelShape, tokens: float, length: float, image_tokens: float, *, full: bool, checkpointing: bool, gpu: Gpu,
    gpus: int,
) -> float:  # fmt: skip
    """Seconds to learn from so many tokens, in sequences of a length."""
    # Multiplications and additions of each weight: forward 2, backward 2 or 4, forward once more 2.
    passes = 4 + 2 * full + 2 * checkpointing
    attention = model.layers * model.heads * model.head_dim * length * passes
    pictures = 2 * seen(model) * image_tokens * model.merge**2  # a frozen tower
    return (tokens * (passes * weights(model) + attention) + pictures) / (USED_FLOPS * gpu.flops * gpus)


PER_DAY, PEAK = 1_000_000, 3.0
"""Questions a day, and how much the busiest hour has of the mean."""
MOST_WAITING = 1.0
"""Seconds that 99 of 100 questions may wait at most for a place."""


def waiting(rate: float, places: int, service: float, *, seconds: float = 1200.0, seed: int = 0) -> tuple[float, float]:
    """Median and 99th percentile of the wait for a place: Poisson arrivals, service times spread by a third."""
    rng = random.Random(seed)
    free = [0.0] * places
    now, waits = 0.0, []
    while now < seconds:
        now += rng.expovariate(rate)
        start = max(now, heapq.heappop(free))
        waits.append(start - now)
        heapq.heappush(free, start + service * rng.lognormvariate(-0.05, 0.32))
    waits.sort()
    return waits[len(waits) // 2], waits[int(0.99 * len(waits))]


def fleet(model: ModelShape, mode: str, gpu: Gpu) -> tuple[int, float, float]:
    """GPUs for the busiest hour, how busy they then are, and the wait of the 99th of 100."""
    rate, count = PEAK * PER_DAY / 86400, batch(model, gpu)
    service = count * gpu_seconds(model, mode, gpu)  # of one place, among as many as a GPU holds
    least = max(1, int(rate * service / count))
    for gpus in range(least, 10 * least + 10):
        if gpus * count <= rate * service:
            continue
        wait = waiting(rate, gpus * count, service)[1]
        if wait <= MOST_WAITING:
            return gpus, rate * service / (gpus * count), wait
    raise RuntimeError("expected a number of GPUs that is enough")


def qwen_7b() -> ModelShape:
    """Qwen-7B, a model of text: what its README's measurements were taken on."""
    hidden, mlp, layers = 4096, 11008, 32
    linears = ((hidden, 3 * hidden), (hidden, hidden), (hidden, mlp), (hidden, mlp), (mlp, hidden)) * layers
    fields = dict.fromkeys(("vision_parameters", "vision_layers", "vision_hidden", "vision_mlp"), 0)
    return ModelShape(
        name="Qwen-7B",
        source="its README",
        parameters=7_721_324_544,
        largest_block=151_936 * hidden,
        layers=layers,
        hidden=hidden,
        mlp=mlp,
        heads=32,
        kv_heads=32,
        head_dim=128,
        normed_heads=False,
        vocabulary=151_936,
        patch_px=14,
        merge=2,
        linears=linears,
        vision_linears=(),
        **fields,
    )
