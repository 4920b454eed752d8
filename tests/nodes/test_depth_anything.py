"""Depth Anything V2: equal to transformers' implementation, from every published layout, and safe to load and call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from depth_reference import PROCESSING, SHAPES, reference
from PIL import Image
from safetensors.torch import save_file
from transformers import DepthAnythingForDepthEstimation, DPTImageProcessor

from sifthinker.nodes.depth import DepthEstimator, FixedDepth, load_depth
from sifthinker.nodes.depth_anything import DepthAnythingV2, DepthConfig
from sifthinker.nodes.depth_weights import original_layout
from sifthinker.policy.errors import DepthError, UsageError


def original_names(model: DepthAnythingForDepthEstimation) -> dict[str, torch.Tensor]:
    """The weights under the names of the original .pth files, written here by hand, apart from the code under test."""
    state = model.state_dict()
    out: dict[str, torch.Tensor] = {}

    def move(new: str, old: str, kinds: tuple[str, ...] = ("weight", "bias")) -> None:
        for kind in kinds:
            out[f"{new}.{kind}"] = state[f"{old}.{kind}"]

    out["pretrained.cls_token"] = state["backbone.embeddings.cls_token"]
    out["pretrained.mask_token"] = state["backbone.embeddings.mask_token"]
    out["pretrained.pos_embed"] = state["backbone.embeddings.position_embeddings"]
    move("pretrained.patch_embed.proj", "backbone.embeddings.patch_embeddings.projection")
    move("pretrained.norm", "backbone.layernorm")
    for block in range(model.config.backbone_config.num_hidden_layers):
        new, old = f"pretrained.blocks.{block}", f"backbone.encoder.layer.{block}"
        for kind in ("weight", "bias"):
            parts = [state[f"{old}.attention.{part}_proj.{kind}"] for part in "qkv"]
            out[f"{new}.attn.qkv.{kind}"] = torch.cat(parts)
        move(f"{new}.attn.proj", f"{old}.attention.o_proj")
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            move(f"{new}.{name}", f"{old}.{name}")
        for number in (1, 2):
            out[f"{new}.ls{number}.gamma"] = state[f"{old}.layer_scale{number}.lambda1"]
    for level in range(4):
        move(f"depth_head.projects.{level}", f"neck.reassemble_stage.layers.{level}.projection")
        if level != 2:
            move(f"depth_head.resize_layers.{level}", f"neck.reassemble_stage.layers.{level}.resize")
        move(f"depth_head.scratch.layer{level + 1}_rn", f"neck.convs.{level}", ("weight",))
        new, old = f"depth_head.scratch.refinenet{4 - level}", f"neck.fusion_stage.layers.{level}"
        move(f"{new}.out_conv", f"{old}.projection")
        for unit in (1, 2):
            for conv in (1, 2):
                move(f"{new}.resConfUnit{unit}.conv{conv}", f"{old}.residual_layer{unit}.convolution{conv}")
    move("depth_head.scratch.output_conv1", "head.conv1")
    move("depth_head.scratch.output_conv2.0", "head.conv2")
    move("depth_head.scratch.output_conv2.2", "head.conv3")
    return out


def as_transformers_folder(model: DepthAnythingForDepthEstimation, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def as_transformers_file(model: DepthAnythingForDepthEstimation, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder / "model.safetensors")


def as_original_pth(model: DepthAnythingForDepthEstimation, folder: Path) -> str:
    torch.save(original_names(model), folder / "depth_anything_v2_vits.pth")
    return str(folder / "depth_anything_v2_vits.pth")


def as_original_safetensors(model: DepthAnythingForDepthEstimation, folder: Path) -> str:
    save_file(original_names(model), folder / "depth_anything_v2_vits.safetensors")
    return str(folder)


LAYOUTS: list[Callable[[DepthAnythingForDepthEstimation, Path], str]] = [
    as_transformers_folder,
    as_transformers_file,
    as_original_pth,
    as_original_safetensors,
]


def largest_relative_difference(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max() / two.abs().max())


def same_prediction(mine: DepthAnythingV2, shape: str, height: int, width: int) -> float:
    pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference(shape)(pixel_values=pixels).predicted_depth
        predicted = mine(pixels)
    assert predicted.shape == expected.shape == (1, height, width)
    assert expected.std() > 0.05  # a constant would be equal to anything
    return largest_relative_difference(predicted, expected)


@pytest.mark.parametrize("shape", ["tiny", "uneven"])
@pytest.mark.parametrize("size", [(518, 518), (518, 686), (392, 518), (126, 126), (28, 700), (14, 14)])
def test_the_prediction_equals_transformers_at_every_size(shape: str, size: tuple[int, int], tmp_path: Path) -> None:
    mine = DepthAnythingV2.from_pretrained(as_transformers_folder(reference(shape), tmp_path))
    assert same_prediction(mine, shape, *size) < 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_published_small_loads_in_either_layout_and_equals_transformers(
    layout: Callable[[DepthAnythingForDepthEstimation, Path], str], tmp_path: Path, record_property: Callable[..., None]
) -> None:
    mine = DepthAnythingV2.from_pretrained(layout(reference("small"), tmp_path))
    assert mine.config == DepthConfig()
    difference = same_prediction(mine, "small", 252, 336)
    record_property("largest relative difference", difference)
    assert difference < 1e-3


@pytest.mark.slow
def test_the_published_small_at_its_own_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = DepthAnythingV2.from_pretrained(as_transformers_folder(reference("small"), tmp_path))
    for size in ((518, 518), (518, 924), (686, 518)):
        difference = same_prediction(mine, "small", *size)
        with capsys.disabled():
            print(f"\nlargest relative difference at {size[0]} × {size[1]}: {difference:.1e}")
        assert difference < 1e-3


@pytest.mark.parametrize("state", [lambda: reference().state_dict(), lambda: original_names(reference())])
def test_either_layout_has_exactly_the_networks_names(state: Callable[[], dict[str, torch.Tensor]]) -> None:
    of = SHAPES["tiny"]
    taken = tuple(index - 1 for index in of["taken"])
    network = DepthAnythingV2(DepthConfig(**{**of, "taken": taken}))
    assert original_layout(state()).keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("size", "blocks", "channels", "features"),
    [("base", 12, (96, 192, 384, 768), 128), ("large", 24, (256, 512, 1024, 1024), 256)],
)
def test_base_and_large_are_known_from_their_weights_alone(
    size: str, blocks: int, channels: tuple[int, ...], features: int, tmp_path: Path
) -> None:
    width = {"base": 768, "large": 1024}[size]
    taken = {"base": (2, 5, 8, 11), "large": (4, 11, 17, 23)}[size]
    config = DepthConfig(
        width=width, blocks=blocks, heads=width // 64, taken=taken, channels=channels, features=features
    )
    with torch.device("meta"):
        names = DepthAnythingV2(config).state_dict()
    from sifthinker.nodes.depth_weights import _shape_of

    assert _shape_of(names, {}, tmp_path / "weights.pth") == config


@pytest.mark.parametrize("size", [(640, 480), (1600, 1200), (480, 640), (518, 518), (300, 200), (900, 1000)])
def test_images_are_prepared_as_transformers_prepares_them(size: tuple[int, int], tmp_path: Path) -> None:
    processor = DPTImageProcessor(**PROCESSING)
    image = photograph(size)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    mine = network(tmp_path, "uneven").preprocess(image)
    assert mine.shape == expected.shape
    assert (mine - expected).abs().max() < 0.04  # a grey level is 0.017: the two round while they resize
    assert (mine - expected).abs().mean() < 0.005


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def test_it_runs_on_the_gpu_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(DepthAnythingV2, "to", lambda self, device: seen.append(str(device)) or self)
    load_depth(str(as_transformers_folder(reference("tiny"), tmp_path)))
    load_depth("embedded")  # so small that moving the pictures would cost more
    assert seen == ["cuda", "cpu"]


def network(folder: Path, shape: str = "tiny") -> DepthAnythingV2:
    return DepthAnythingV2.from_pretrained(as_transformers_folder(reference(shape), folder))


def test_predict_gives_near_zero_and_far_one_in_the_images_own_size(tmp_path: Path) -> None:
    mine, image = network(tmp_path), photograph((150, 100))
    depth = mine.predict(image)
    assert depth.size == (150, 100)
    assert depth.array.min() == 0
    assert depth.array.max() == 1
    with torch.inference_mode():
        raw = mine(mine.preprocess(image)[None])[0]
    row, column = divmod(int(raw.argmax()), raw.shape[1])  # the largest raw value is the nearest point
    near = (column / raw.shape[1], row / raw.shape[0])
    assert depth.mean((near[0] - 0.01, near[1] - 0.01, near[0] + 0.01, near[1] + 0.01)) < 0.1
    assert isinstance(mine, DepthEstimator)


def test_a_photographs_millions_of_pixels_do_not_make_a_map_of_millions(tmp_path: Path) -> None:
    mine = network(tmp_path)
    depth = mine.predict(photograph((4000, 3000)))
    assert depth.size == (1536, 1152)
    assert FixedDepth(depth).predict(Image.new("RGB", (4000, 3000))) is depth, "it is of the image's shape"
    assert mine.predict(Image.new("RGB", (4000, 3))).size == (1536, 1)


def test_a_batch_gives_each_image_what_it_gets_alone(tmp_path: Path) -> None:
    mine = network(tmp_path)
    images = [photograph((120, 80), 1), photograph((80, 120), 2), photograph((120, 80), 3), photograph((60, 40), 4)]
    for image, together in zip(images, mine.predict_batch(images, batch_size=2), strict=True):
        assert together.size == image.size
        assert np.abs(together.array - mine.predict(image).array).max() < 1e-4
    assert mine.predict_batch([]) == []


@pytest.mark.parametrize("size", [(1, 1), (400, 8), (3, 150), (8000, 160)])
def test_images_of_any_shape_go_through_in_bounded_size(size: tuple[int, int], tmp_path: Path) -> None:
    mine = network(tmp_path)
    width, height = mine.input_size(size)
    assert width * height <= 5 * 126 * 126
    if max(size) < 1000:
        assert mine.predict(Image.new("RGB", size)).size == size


def test_an_even_picture_has_one_depth_and_no_nan(tmp_path: Path) -> None:
    mine = network(tmp_path)
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.zero_()
    assert np.isfinite(mine.predict(Image.new("RGB", (50, 50))).array).all()


def test_pixels_that_are_not_whole_patches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 14"):
        network(tmp_path)(torch.zeros(1, 3, 100, 112))


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the pickle was run')",)


def test_a_pickle_that_holds_code_is_refused_with_a_sentence(tmp_path: Path) -> None:
    torch.save({"pretrained.pos_embed": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(DepthError, match="could run code"):
        DepthAnythingV2.from_pretrained(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["weights.pth", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(1000)])
def test_damaged_weights_are_refused_with_a_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DepthError):
        DepthAnythingV2.from_pretrained(tmp_path)


def test_weights_of_another_network_are_refused_by_the_name_that_does_not_fit(tmp_path: Path) -> None:
    state = original_names(reference())
    removed = {name: tensor for name, tensor in state.items() if name != "depth_head.scratch.output_conv1.bias"}
    added = {**state, "depth_head.extra.weight": torch.zeros(1)}
    reshaped = {**state, "pretrained.norm.bias": torch.zeros(3)}
    config = {"backbone_config": {"num_attention_heads": 2, "out_indices": [1, 2, 3, 4]}}
    for number, (weights, name) in enumerate(
        [(removed, "output_conv1.bias"), (added, "extra.weight"), (reshaped, "norm.bias")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(DepthError, match=name):
            DepthAnythingV2.from_pretrained(folder)
    save_file({"some.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(DepthError, match=r"some\.weight"):
        DepthAnythingV2.from_pretrained(tmp_path / "other.safetensors")


def test_a_metric_model_is_refused_as_its_numbers_mean_something_else(tmp_path: Path) -> None:
    as_transformers_folder(reference(), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "depth_estimation_type": "metric"}))
    with pytest.raises(DepthError, match="metric"):
        DepthAnythingV2.from_pretrained(tmp_path)


def test_a_hub_that_cannot_be_reached_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DepthError, match='depth="none"'):
        load_depth("small")


@pytest.mark.parametrize("source", ["nonsense", "./nowhere", "one/two/three"])
def test_an_unknown_source_lists_the_known_forms(source: str) -> None:
    with pytest.raises(UsageError, match="a folder"):
        DepthAnythingV2.from_pretrained(source)


def test_a_folder_without_weights_is_said(tmp_path: Path) -> None:
    with pytest.raises(DepthError, match="found none"):
        DepthAnythingV2.from_pretrained(tmp_path)
