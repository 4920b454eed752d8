"""A pickle runs code when it is opened: wherever a checkpoint is looked for, one is refused in a sentence."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from trust.faults_train import RECIPE

from sifthinker.policy.errors import SifthinkerError
from sifthinker.policy.load import load_policy

torch = pytest.importorskip("torch")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def local_policy(folder: Path, evil: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen3_vl"}')
    evil.rename(folder / "pytorch_model.bin")
    load_policy(str(folder))


def adapter(folder: Path, evil: Path) -> None:
    pytest.importorskip("peft")
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "embedded", "peft_type": "LORA"})
    )
    evil.rename(folder / "adapter_model.bin")
    load_policy(str(folder))


def depth_weights(folder: Path, evil: Path) -> None:
    from sifthinker.nodes.depth_anything import DepthAnythingV2

    DepthAnythingV2.from_pretrained(evil.rename(folder / "depth_anything_v2_vits.pth"))


def training(folder: Path, evil: Path) -> None:
    from sifthinker.training.scratch.recipe import ScratchRecipe
    from sifthinker.training.scratch.train import Trainer

    evil.rename(folder / "checkpoint.pt")
    Trainer(ScratchRecipe.model_validate({key: value for key, value in RECIPE.items() if key != "trainer"}), folder)


def export(folder: Path, evil: Path) -> None:
    from sifthinker.training.scratch.export import export_policy

    evil.rename(folder / "checkpoint.pt")
    export_policy(folder, folder / "out")


def depth_training(folder: Path, evil: Path) -> None:
    from sifthinker.training.depth import DepthTraining, _resume

    evil.rename(folder / "checkpoint.pt")
    _resume(folder, DepthTraining())


PLACES = (local_policy, adapter, depth_weights, training, export, depth_training)


@pytest.mark.parametrize("kind", ["a pickle", "what torch saves", "half of what torch saves", "nothing"])
@pytest.mark.parametrize("opened", PLACES, ids=lambda place: place.__name__)
def test_it_is_refused_and_not_opened(opened: Callable[[Path, Path], None], kind: str, tmp_path: Path) -> None:
    mark, evil, folder = tmp_path / "it-ran", tmp_path / "evil", tmp_path / "folder"
    folder.mkdir()
    if kind == "a pickle":
        evil.write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save({"params": Evil(mark), "cursor": Evil(mark)}, evil)
        kept = {"what torch saves": 1.0, "half of what torch saves": 0.5, "nothing": 0.0}[kind]
        evil.write_bytes(evil.read_bytes()[: int(kept * evil.stat().st_size)])
    with pytest.raises(SifthinkerError) as caught:
        opened(folder, evil)
    assert not mark.exists()
    assert len(str(caught.value)) > 20
