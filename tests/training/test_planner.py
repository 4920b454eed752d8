"""The plan of a run: parameters as published, memory as worked out by hand, activations as autograd keeps them."""

from __future__ import annotations

from typing import Any

import pytest

from sifthinker.policy.errors import PolicyLoadError
from sifthinker.training.planner import Generation, LoraSize, Workload, plan
from sifthinker.training.sizes import ModelShape, published, shape_of

QWEN25_7B, QWEN3_4B, QWEN3_8B = published()


@pytest.fixture(scope="module")
def shapes() -> dict[str, ModelShape]:
    return {name: shape_of(name) for name in published()}


def test_the_models_kept_here_have_as_many_parameters_as_their_pages_say(shapes: dict[str, ModelShape]) -> None:
    for name, entry in published().items():
        assert shapes[name].parameters == entry["parameters"]
    assert shapes[QWEN25_7B].vision_parameters == 676_550_144


def test_a_lora_has_rank_times_in_plus_out_of_every_layer(shapes: dict[str, ModelShape]) -> None:
    # Qwen2.5-VL-7B: q, o 3584 to 3584; k, v 3584 to 512; gate, up, down 3584 and 18944; 28 layers
    seven = 28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    assert shapes[QWEN25_7B].lora_parameters(8) == 8 * seven == 20_185_088
    # Qwen3-VL-4B: q 2560 to 4096, o back; k, v 2560 to 1024; 2560 and 9728; 36 layers
    four = 36 * (2 * (2560 + 4096) + 2 * (2560 + 1024) + 3 * (2560 + 9728))
    assert shapes[QWEN3_4B].lora_parameters(1) == four == 2_064_384


def test_a_lora_on_one_gpu_as_worked_out_by_hand(shapes: dict[str, ModelShape]) -> None:
    made = plan(Workload(model=QWEN3_4B, lora=LoraSize(rank=32), gpu_gb=24), shapes[QWEN3_4B])
    adapter = 32 * 2_064_384
    assert made.trainable == adapter == 66_060_288
    assert made.part("weights").bytes == 4_437_815_808 * 2 + adapter * 4
    assert made.part("gradients").bytes == adapter * 4
    assert made.part("optimiser").bytes == adapter * 8
    # 900 tokens of text, two images of 262,144 pixels in tokens of 32 by 32
    tokens = 900 + 2 * 256
    assert made.sequence_tokens == tokens
    kept = 36 * tokens * 2560 * 2
    # a layer, for one token: norms and residual, q k v before and after rotation, the MLP's four; norms of states, q
    # and k in float32; an adapter's inputs in float32; gradients of the MLP
    elements = 4 * 2560 + 2 * (4096 + 1024) + 1024 + 4096 + 4 * 9728
    layer = elements * 2 + (2 * 2560 + 4096 + 1024) * 4 + (3 * 2560 + 4096 + 2 * 2560 + 9728) * 4 + 2 * 9728 * 2
    assert layer == 315_392
    assert made.part("activations").bytes == kept + tokens * layer == 705_593_344
    assert made.fits
    assert 10e9 < made.total < 14e9


def test_zero_3_divides_what_it_shards_and_gathers_one_block(shapes: dict[str, ModelShape]) -> None:
    made = plan(Workload(model=QWEN3_8B, gpus=8, gpu_gb=80, zero=3, batch=2, accumulate=4), shapes[QWEN3_8B])
    trained = 8_767_123_696 - 576_388_336  # the vision tower is frozen
    assert made.trainable == trained
    assert made.part("weights").bytes == 8_767_123_696 * 2 / 8
    assert made.part("gradients").bytes == trained * 2 / 8
    assert made.part("optimiser").bytes == trained * 12 / 8
    assert made.part("gathered").bytes == 2 * 151_936 * 4096 * 2
    assert made.samples_per_step == 64
    assert made.tokens_per_step == 64 * made.sequence_tokens


def test_zero_3_gathers_the_whole_model_wherever_it_answers(shapes: dict[str, ModelShape]) -> None:
    base = {"model": QWEN3_8B, "gpus": 8, "gpu_gb": 80, "zero": 3}
    whole = 8_767_123_696 * 2
    sampling = Generation(engine="transformers", sequences=8, tokens=1000)
    vllm = Generation(engine="vllm-colocate", sequences=8, tokens=1000)

    def gathered(**more: object) -> float:
        return plan(Workload.model_validate({**base, **more}), shapes[QWEN3_8B]).part("gathered").bytes

    assert gathered(answers=True) == gathered(generation=sampling) == whole
    assert gathered(generation=vllm, lora=LoraSize(rank=8)) == whole, "an adapter is merged for vLLM"
    assert gathered(generation=vllm) < whole, "weights go to vLLM one by one"


def test_full_training_without_sharding_does_not_fit_where_lora_does(shapes: dict[str, ModelShape]) -> None:
    full = plan(Workload(model=QWEN3_4B, gpu_gb=24), shapes[QWEN3_4B])
    trained = 4_437_815_808 - 415_347_712
    assert full.part("weights").bytes == trained * 6 + 415_347_712 * 4, "the frozen tower is in float32 too"
    assert full.part("optimiser").bytes == trained * 8
    assert full.fits is False


def test_a_reference_and_what_generates_are_counted(shapes: dict[str, ModelShape]) -> None:
    sampled = Generation(sequences=8, tokens=3000)
    made = plan(Workload(model=QWEN25_7B, gpus=8, zero=3, reference=True, generation=sampled), shapes[QWEN25_7B])
    assert made.part("reference").bytes == 8_292_166_656 * 2 / 8
    assert made.part("KV cache").bytes == 8 * 3000 * 2 * 28 * 4 * 128 * 2
    whole = plan(Workload(model=QWEN25_7B, reference=True), shapes[QWEN25_7B])
    assert whole.part("reference").bytes == 8_292_166_656 * 4
    shared = sampled.model_copy(update={"engine": "vllm-colocate", "share": 0.25})
    made = plan(Workload(model=QWEN25_7B, gpu_gb=80, generation=shared), shapes[QWEN25_7B])
    assert made.part("vLLM").bytes == 20e9
    served = sampled.model_copy(update={"engine": "vllm-server"})
    assert plan(Workload(model=QWEN25_7B, generation=served), shapes[QWEN25_7B]).part("vLLM").bytes == 0


def test_more_work_never_needs_less(shapes: dict[str, ModelShape]) -> None:
    base = Workload(model=QWEN3_4B, lora=LoraSize(rank=8), gpu_gb=80)
    small = plan(base, shapes[QWEN3_4B]).total
    for field, value in (("batch", 4), ("images", 6), ("text_tokens", 4000), ("checkpointing", False),
                         ("attention", "eager"), ("full_logits", True), ("dtype", "float32")):  # fmt: skip
        assert plan(base.model_copy(update={field: value}), shapes[QWEN3_4B]).total > small, field
    vision = base.model_copy(update={"lora": LoraSize(rank=8, vision=True)})
    assert plan(vision, shapes[QWEN3_4B]).total > small


def test_the_embedded_policy_is_counted_from_its_folder() -> None:
    shape = shape_of("embedded")
    assert shape.source == "config.json of embedded"
    made = plan(Workload(model="embedded", dtype="float32"), shape)
    assert made.part("weights").bytes == shape.parameters * 4
    assert made.fits is None


def test_an_unknown_model_is_one_sentence_that_names_the_known(tmp_path: object) -> None:
    with pytest.raises(PolicyLoadError, match="Qwen3-VL-4B"):
        shape_of(str(tmp_path))


def test_activations_are_near_what_autograd_keeps(shapes: dict[str, ModelShape]) -> None:
    """Every tensor that the language model saves for its backward pass, at full size on the meta device."""
    torch = pytest.importorskip("torch")
    from transformers import AttentionInterface, AutoModelForImageTextToText

    from sifthinker.training.sizes import config_of

    class Fused(torch.autograd.Function):  # type: ignore[name-defined,misc]
        """Keeps what a fused attention kernel keeps: its three inputs and its output."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            out = torch.empty_like(inputs[0])
            ctx.save_for_backward(*inputs, out)
            return out

    def fused(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> Any:
        return Fused.apply(query, key, value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("counted", fused)
    for name in (QWEN3_4B, QWEN25_7B):
        config, _ = config_of(name)
        text = config.get_text_config()
        text.num_hidden_layers = 4
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config).to(torch.bfloat16).train()
            text._attn_implementation = "counted"
            hidden = torch.empty(1, 1412, text.hidden_size, dtype=torch.bfloat16, requires_grad=True)
            places = torch.zeros(3, 1, 1412, dtype=torch.long)
            weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
            saved: dict[int, Any] = {}

            def keep(tensor: Any, saved: dict[int, Any] = saved) -> Any:
                saved[tensor.untyped_storage()._cdata] = tensor  # held, so that no storage's name is used twice
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                model.model.language_model(inputs_embeds=hidden, position_ids=places, use_cache=False)
        kept = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in weights)
        planned = plan(Workload(model=name, checkpointing=False), shapes[name]).part("activations").bytes
        assert planned * 4 / shapes[name].layers == pytest.approx(kept, rel=0.15), name
