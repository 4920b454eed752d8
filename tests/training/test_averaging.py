"""The mean of checkpoints."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from sifthinker.policy.errors import DataError  # noqa: E402
from sifthinker.training.averaging import average_weights  # noqa: E402


def _checkpoint(folder: Path, **weights: float) -> Path:
    folder.mkdir()
    tensors = {name: torch.full((2, 3), value).to(torch.bfloat16) for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_mean_has_the_names_types_and_metadata_of_the_first(tmp_path: Path) -> None:
    last, before = _checkpoint(tmp_path / "b", a=3.0, c=0.5), _checkpoint(tmp_path / "a", a=1.0, c=0.25)
    into = _checkpoint(tmp_path / "into", a=3.0, c=0.5)
    average_weights([last, before], into)
    found = load_file(into / "model.safetensors")
    assert {name: (tensor.dtype, tensor[0, 0].item()) for name, tensor in found.items()} == {
        "a": (torch.bfloat16, 2.0),
        "c": (torch.bfloat16, 0.375),
    }
    with safe_open(into / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_sums_are_exact_where_the_weights_own_type_would_lose_them(tmp_path: Path) -> None:
    folders = [_checkpoint(tmp_path / str(n), a=value) for n, value in enumerate((256.0, 256.0, 258.0, 258.0))]
    into = _checkpoint(tmp_path / "into", a=0.0)
    average_weights(folders, into)
    assert (
        load_file(into / "model.safetensors")["a"][0, 0].item() == 256.0
    )  # 257, rounded once; its steps are of 2 here


def test_other_weights_and_damaged_files_are_told(tmp_path: Path) -> None:
    last, into = _checkpoint(tmp_path / "last", a=1.0), _checkpoint(tmp_path / "into", a=1.0)
    with pytest.raises(DataError, match="other weights"):
        average_weights([last, _checkpoint(tmp_path / "other", b=1.0)], into)
    with pytest.raises(DataError, match="other weights"):
        average_weights([last, _checkpoint(tmp_path / "more", a=1.0, b=1.0)], into)
    torn = _checkpoint(tmp_path / "torn", a=1.0)
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-4])
    with pytest.raises(DataError, match="torn"):
        average_weights([last, torn], into)
    assert load_file(into / "model.safetensors")["a"][0, 0].item() == 1.0
