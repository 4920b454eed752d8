"""docs/scale.md: its tables are what its script computes, its arithmetic that of the benchmark and of the planner."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from sifthinker.policy.messages import ImageKind
from sifthinker.policy.profiles import profile_of_family

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's script."""
    monkeypatch.syspath_prepend(str(DOCS))
    sys.modules.pop("scale", None)
    import scale

    return scale


@pytest.mark.slow
def test_the_tables_are_what_the_script_computes(scale: ModuleType) -> None:
    page = scale.PAGE.read_text(encoding="utf-8")
    assert scale.filled(page) == page


def test_a_question_is_the_one_of_the_benchmark(scale: ModuleType) -> None:
    import scale_model
    from performance.lines import focus

    assert scale_model.STEPS == focus.STEPS
    assert scale_model.TURN == focus.TURN_TOKENS
    assert len(focus.OPENING) == scale_model.OPENING
    profile = profile_of_family("a model", "qwen3_vl", vision_patch_px=32, min_image_pixels=1)

    def tokens(size: tuple[int, int], kind: ImageKind) -> int:
        width, height = profile.resized_size(size, kind) or size
        return width * height // 32**2

    assert tuple(tokens(size, "crop") for size in focus.CROPS) == scale_model.CROPS
    assert tokens((1024, 768), "rgb") == scale_model.RGB
    assert tokens((1024, 768), "depth") == scale_model.DEPTH
    tools, internal = scale_model.question("tools"), scale_model.question("internal")
    assert tools.sent > 4 * tools.encoded > 4 * internal.encoded
    assert tools.written == internal.written


def test_the_plan_is_within_a_tenth_of_what_others_measured(scale: ModuleType) -> None:
    from sifthinker.training.planner import LoraSize, Workload, plan

    for length, (gigabytes, _) in scale.PUBLISHED.items():
        work = Workload(
            model="Qwen-7B", lora=LoraSize(rank=64), gpu_gb=80, accumulate=8, text_tokens=length, answer_tokens=length,
            images=0, attention="flash_attention_2", full_logits=True,
        )  # fmt: skip
        assert plan(work, scale.qwen_7b()).total / 1e9 == pytest.approx(gigabytes, rel=0.1)


def test_a_queue_waits_longer_the_busier_it_is(scale: ModuleType) -> None:
    import scale_model

    idle, busy = (scale_model.waiting(10.0, places, 1.0, seconds=300) for places in (20, 11))
    assert idle[1] < 0.1 < busy[1]
    assert busy[0] <= busy[1]


def test_a_page_without_its_marks_is_refused(scale: ModuleType) -> None:
    with pytest.raises(ValueError, match="marks of the table questions"):
        scale.filled("nothing")
