"""Computes the tables of docs/scale.md from model shapes, stated assumptions and a simulated queue.

    python docs/scale.py            writes the tables into docs/scale.md
    python docs/scale.py --print    prints them

The arithmetic and its assumptions are in scale_model.py; the page says them again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from scale_model import (
    A100,
    H100,
    MODELS,
    MODES,
    PEAK,
    PER_DAY,
    PRICE_IN,
    PRICE_OUT,
    RTX,
    batch,
    fleet,
    gpu_seconds,
    kv_bytes,
    lone_seconds,
    question,
    qwen_7b,
    shape,
    step_seconds,
    training_seconds,
)

from sifthinker.training.planner import Generation, LoraSize, Workload, plan
from sifthinker.training.sizes import shape_of

PAGE = Path(__file__).with_name("scale.md")


def questions_table() -> str:
    """Tokens, seconds and money for 1,000 questions."""
    rows = []
    for mode in MODES:
        cost = question(mode)
        hosted = (cost.sent * PRICE_IN + cost.written * PRICE_OUT) / 1e6
        rows.append(
            [
                mode,
                *(f"{value:,.0f} k" for value in (cost.encoded, cost.sent, cost.written)),
                f"{1000 * hosted:.2f}",
            ]
        )
    return _table(["mode", "tokens encoded", "sent without a cache", "written", "hosted, $"], rows)


def gpus_table() -> str:
    """Seconds and money of one's own GPUs for 1,000 questions."""
    rows = []
    for name in MODELS:
        for gpu in (RTX, A100, H100):
            if 2e-9 * shape(name).parameters > 0.8 * gpu.memory_gb:
                continue
            row = [name.split("/")[1], gpu.name, str(batch(shape(name), gpu))]
            for mode in MODES:
                seconds = gpu_seconds(shape(name), mode, gpu)
                row.append(f"{1000 * seconds:,.0f} s · {1000 * seconds / 3600 * gpu.dollars:.2f} $")
            row.append(f"{lone_seconds(shape(name), 'tools', gpu):.1f} s")
            rows.append(row)
    return _table(["model", "GPU", "at once", *MODES, "one alone, tools"], rows)


PUBLISHED = {
    256: (20.1, 1.2),
    512: (20.4, 1.5),
    1024: (21.5, 2.8),
    2048: (23.8, 5.2),
    4096: (29.7, 10.1),
    8192: (36.6, 21.3),
}
"""Length: GB and seconds a step of Qwen-7B with LoRA (QwenLM/Qwen, README, "Profiling of Memory and Speed")."""


def published_table() -> str:
    """The planner's memory and the arithmetic's time against measured ones."""
    rows, model = [], qwen_7b()
    for length, (measured_gb, measured_s) in PUBLISHED.items():
        work = Workload(
            model="Qwen-7B", lora=LoraSize(rank=64), gpu_gb=80, batch=1, accumulate=8, text_tokens=length,
            answer_tokens=length, images=0, checkpointing=True, attention="flash_attention_2", full_logits=True,
        )  # fmt: skip
        gb = plan(work, model).total / 1e9
        seconds = training_seconds(model, 8 * length, length, 0, full=False, checkpointing=True, gpu=A100, gpus=1)
        rows.append(
            [f"{length:,}", f"{measured_gb} GB", f"{gb:.1f} GB", f"{gb / measured_gb - 1:+.0%}", f"{measured_s} s",
             f"{seconds:.1f} s"]
        )  # fmt: skip
    return _table(["tokens", "measured", "planned", "", "a step measured", "computed"], rows)


def others_table() -> str:
    """The planner against further published figures."""
    seven = "Qwen/Qwen2.5-VL-7B-Instruct"
    swift = Workload(
        model=seven, lora=LoraSize(rank=8), gpus=2, gpu_gb=80, zero=2, batch=2, text_tokens=300 + 1536,
        answer_tokens=1536, images=1, image_pixels=602_112,
        generation=Generation(engine="vllm-colocate", sequences=2, tokens=3000, share=0.6),
    )  # fmt: skip
    easy = Workload(
        model=seven, gpus=8, gpu_gb=40, zero=3, batch=4, text_tokens=2048, answer_tokens=1024, images=1,
        image_pixels=1_048_576, attention="flash_attention_2",
    )  # fmt: skip
    short = {"text_tokens": 128, "answer_tokens": 64, "images": 1, "image_pixels": 50_000}
    lora = Workload(model=seven, lora=LoraSize(rank=8), gpu_gb=24, **short)
    full = Workload(model=seven, gpus=2, zero=3, gpu_gb=80, **short)
    rows = [
        ["GRPO with LoRA, 7B, 2 × 80 GB, vLLM share 0.6", "ms-swift, issue 3426", "about 70 GB each", _gb(swift)],
        [
            "GRPO, all weights, 7B, mixed precision: learning",
            "EasyR1, README (estimated)",
            "8 × 40 GB",
            f"8 × {_gb(easy)}",
        ],
        ["LoRA, 7B, 16 bits", "LLaMA-Factory, README (estimated)", "16 GB", _gb(lora)],
        ["all weights, 7B, mixed precision", "LLaMA-Factory, README (estimated)", "120 GB in all", f"2 × {_gb(full)}"],
    ]
    return _table(["what", "source", "published", "planned"], rows)


def _gb(work: Workload) -> str:
    return f"{plan(work).total / 1e9:.0f} GB"


RECORDS = 50_000
"""Records that an SFT recipe is assumed to learn from: as many as the paper's."""
COMPLETION = 360
"""Tokens of a sampled completion, as of mode internal above."""
HF_STEP, VLLM_STEP = 0.030, 0.012
"""Least seconds of a decoding step in transformers' `generate` and in vLLM, whatever the model."""


def recipes_table() -> str:
    """Memory and time of every recipe for a large model."""
    from sifthinker.training.grpo.plan import workload as grpo_workload
    from sifthinker.training.grpo.recipe import read_recipe
    from sifthinker.training.recipes import load_recipe, recipe_names
    from sifthinker.training.sft.recipe import recipe_of

    rows = []
    for name in recipe_names():
        settings = load_recipe(name)
        kind = settings.get("trainer")
        if kind == "trl":
            recipe = recipe_of({key: value for key, value in settings.items() if key != "trainer"}, name=name)
            work = recipe.workload()
            steps = recipe.epochs * RECORDS / (work.batch * work.accumulate * work.gpus)
            extra = f"{recipe.epochs:g} × {RECORDS:,} records"
        elif kind == "grpo":
            grpo = read_recipe(settings)
            work = grpo_workload(grpo, shape_of(grpo.plan.model or grpo.policy))
            limit = getattr(grpo.data, "limit", None) or 0
            questions = work.batch * work.accumulate * work.gpus / int(grpo.trl.get("num_generations", 8))
            steps = float(grpo.trl.get("max_steps") or 0) or limit / questions
            extra = f"{steps:.0f} steps of {questions:g} questions"
        else:
            continue
        if work.gpu_gb is None:
            continue
        rows.append(_recipe_row(name, work, steps, extra, sampling=kind == "grpo"))
    return _table(["recipe", "GPUs", "memory of each", "tokens a step", "what", "time", "money"], rows)


def _recipe_row(name: str, work: Workload, steps: float, extra: str, *, sampling: bool) -> list[str]:
    made = plan(work)
    model = shape_of(work.model)
    gpu = RTX if (work.gpu_gb or 0) <= 24 else A100
    length = made.sequence_tokens
    pictures = made.samples_per_step * work.images * model.image_tokens(work.image_pixels)
    learning = training_seconds(
        model, made.tokens_per_step, length, pictures, full=work.lora is None, checkpointing=work.checkpointing,
        gpu=gpu, gpus=work.gpus,
    )  # fmt: skip
    seconds = steps * learning
    if sampling and work.generation is not None:
        vllm = work.generation.engine != "transformers"
        floor = VLLM_STEP if vllm else HF_STEP
        rounds = work.batch * work.accumulate / max(1, work.generation.sequences)
        seconds += steps * rounds * COMPLETION * max(floor, step_seconds(model, gpu, work.generation.sequences))
    hours = seconds / 3600
    fits = "" if made.fits else ", does not fit"
    return [
        name, f"{work.gpus} × {gpu.name}", f"{made.total / 1e9:.0f} GB{fits}", f"{made.tokens_per_step:,}", extra,
        f"{hours:.1f} h", f"{hours * work.gpus * gpu.dollars:,.0f} $",
    ]  # fmt: skip


def fleet_table() -> str:
    """A million questions a day."""
    rows = []
    for name in MODELS[:2]:
        for mode in MODES:
            gpus, busy, wait = fleet(shape(name), mode, H100)
            conversations = PEAK * PER_DAY / 86400 * batch(shape(name), H100) * gpu_seconds(shape(name), mode, H100)
            length = question(mode).encoded + question(mode).written
            rows.append(
                [
                    name.split("/")[1], mode, str(gpus), f"{busy:.0%}", f"{wait:.1f} s",
                    f"{conversations * length * kv_bytes(shape(name)) / 1e9:,.0f} GB",
                    f"{gpus * 24 * H100.dollars:,.0f} $",
                    f"{PER_DAY * (question(mode).sent * PRICE_IN + question(mode).written * PRICE_OUT) / 1e6:,.0f} $",
                ]
            )  # fmt: skip
    names = ["model", "mode", "H100s", "busy at the peak", "wait of the 99th of 100", "KV caches in flight"]
    return _table([*names, "a day, GPUs", "a day, hosted"], rows)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES = {
    "questions": questions_table,
    "gpus": gpus_table,
    "published": published_table,
    "others": others_table,
    "recipes": recipes_table,
    "fleet": fleet_table,
}


def filled(page: str) -> str:
    """The page with every table computed anew."""
    for name, make in TABLES.items():
        made = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
        page, count = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, made=made: made, page, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"expected the marks of the table {name} once in the page, found them {count} times")
    return page


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write("\n\n".join(f"{name}\n{make()}" for name, make in TABLES.items()) + "\n")
    else:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
