"""A name loads a policy, once, and what cannot be loaded is told in one sentence."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sifthinker.policy import load
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import PolicyLoadError, UsageError
from sifthinker.policy.load import forget_policies, load_policy
from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import Message

Folder = Callable[[str], Path]
Asked = Callable[..., list[Message]]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    forget_policies()


@pytest.fixture
def copy(tiny_folder: Folder, tmp_path: Path) -> Path:
    """A copy of a tiny Qwen3-VL to do harm to."""
    return Path(shutil.copytree(tiny_folder("qwen3_vl"), tmp_path / "copy"))


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **fields}))


@pytest.mark.parametrize("name", ["", "embeded", "gpt-4o", "openai:model", "openai:@http://x", "http://x", "a b/c"])
def test_an_unknown_name_lists_the_forms_with_an_example_each(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_policy(name)
    for example in ("embedded", "Qwen/Qwen3-VL-4B-Instruct", "./runs/sft", "openai:MODEL@http://localhost:8000"):
        assert example in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/no/such/folder", "~nobody-of-this-name/model"])
def test_a_folder_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(PolicyLoadError, match="There is no folder"):
        load_policy(name)


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(PolicyLoadError, match=r"config\.json"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "space"),
    [("qwen3_vl", BoxSpace.PERMILLE), ("qwen2_5_vl", BoxSpace.RESIZED), ("idefics3", BoxSpace.UNIT)],
)
def test_each_family_has_its_box_space(family: str, space: BoxSpace, tiny_folder: Folder) -> None:
    profile = load_policy(str(tiny_folder(family))).profile
    assert (profile.family, profile.box_space, profile.dialect) == (family, space, "native")
    assert bool(profile.notes) == (family == "idefics3")
    assert all("box_space=" in note for note in profile.notes)


def test_resized_size_is_what_the_processor_makes(tiny_folder: Folder, picture: Callable) -> None:
    policy = load_policy(str(tiny_folder("qwen2_5_vl")))
    assert isinstance(policy, LocalPolicy)
    for size in [(90, 70), (500, 300), (1000, 40), (28, 28), (13, 13), (5, 500), (333, 777), (1920, 1080)]:
        _, rows, columns = policy.processor.image_processor(images=[picture(size)])["image_grid_thw"][0]
        assert policy.resized_size(size) == (columns * 14, rows * 14), size
        assert policy.profile.resized_size(size) == (columns * 14, rows * 14)


def test_loading_again_gives_the_same_policy(tiny_folder: Folder) -> None:
    name = str(tiny_folder("qwen3_vl"))
    assert load_policy(name) is load_policy(name)
    assert load_policy(name) is not load_policy(name, box_space="unit")


def test_a_folder_that_was_trained_further_is_loaded_anew(copy: Path) -> None:
    first = load_policy(str(copy))
    edit(copy / "sifthinker.json", name="after training")
    assert load_policy(str(copy)).profile.name == "after training"
    assert load_policy(str(copy)) is not first


def touch(path: Path) -> None:
    """Write a file anew, as training does."""
    path.write_text(path.read_text() if path.exists() else "{}")
    changed = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(changed, changed))


def test_a_policy_is_loaded_anew_when_its_adapter_base_or_profile_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    edit(base / "config.json", model_type="none")
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    monkeypatch.setattr(load, "_local", lambda source, options: object())
    by_option, by_folder = ({"name": str(base), "adapter": str(adapter)}, {"name": str(adapter)})
    for options, changed in [(by_option, adapter), (by_folder, adapter), (by_folder, base)]:
        first = load_policy(**options)
        assert load_policy(**options) is first
        touch(changed / "weights.safetensors")
        second = load_policy(**options)
        assert second is not first
        assert load_policy(**options) is second
    profile = tmp_path / "profile"
    profile.mkdir()
    edit(profile / "sifthinker.json", name="before", box_space="unit")
    served = {"name": "openai:m@http://127.0.0.1:9", "profile": profile}
    assert load_policy(**served) is load_policy(**served)
    first = load_policy(**served)
    touch(profile / "sifthinker.json")
    assert load_policy(**served) is not first


def test_a_file_that_goes_while_it_is_looked_at_counts_as_none(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def gone(path: Path, **how: bool) -> os.stat_result:
        if path.suffix == ".safetensors":
            raise FileNotFoundError(path)
        return stat(path, **how)

    monkeypatch.setattr(load, "_local", lambda source, options: object())
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "stat", gone)
    assert load_policy(str(copy)) is load_policy(str(copy))


def test_a_folder_declares_its_profile_and_options_win(copy: Path) -> None:
    edit(copy / "sifthinker.json", dialect="sif", box_space="unit", box_decimals=2, rgb_px=192, domain="block world")
    profile = load_policy(str(copy)).profile
    assert (profile.dialect, profile.box_space, profile.box_decimals, profile.rgb_px) == ("sif", "unit", 2, 192)
    assert load_policy(str(copy), box_decimals=3).profile.box_decimals == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"box_space": "inches"}', '{"colour": "red"}'])
def test_a_profile_that_is_none_is_told(content: str, copy: Path) -> None:
    (copy / "sifthinker.json").write_text(content)
    with pytest.raises(PolicyLoadError, match=r"sifthinker\.json"):
        load_policy(str(copy))


def test_the_policy_before_is_let_go_of_first(copy: Path) -> None:
    before = weakref.ref(load_policy(str(copy)))
    edit(copy / "sifthinker.json", name="after training")
    load_policy(str(copy))
    gc.collect()
    assert before() is None


@pytest.mark.parametrize("option", [{"colour": "red"}, {"box_space": "inches"}, {"dtype": "float31"}, {"rgb_px": 0}])
def test_a_wrong_option_is_told_before_anything_is_loaded(option: dict[str, object], tiny_folder: Folder) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        load_policy(str(tiny_folder("qwen3_vl")), **option)


def test_boxes_in_resized_pixels_need_the_resize(tiny_folder: Folder) -> None:
    with pytest.raises(UsageError, match="vision_patch_px"):
        load_policy(str(tiny_folder("idefics3")), box_space="resized")


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(PolicyLoadError, match=r"pytorch_model\.bin, a pickle that can run code") as caught:
        load_policy(str(copy))
    assert "safetensors" in str(caught.value)


def test_a_pickle_beside_safetensors_is_never_opened(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert load_policy(str(copy)).profile.family == "qwen3_vl"


def test_broken_weights_are_told(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(PolicyLoadError, match="could not be loaded"):
        load_policy(str(copy))


def test_code_that_comes_with_a_checkpoint_is_not_run(copy: Path) -> None:
    (copy / "evil.py").write_text("raise SystemExit('code of the checkpoint was run')")
    edit(copy / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(PolicyLoadError, match="trust_remote_code"):
        load_policy(str(copy))


def test_a_model_of_another_kind_is_told(copy: Path) -> None:
    edit(copy / "config.json", model_type="bert", architectures=["BertModel"])
    with pytest.raises(PolicyLoadError, match="could not be loaded"):
        load_policy(str(copy))


def test_a_model_without_a_chat_template_is_told(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(PolicyLoadError, match="no chat template"):
        load_policy(str(copy))


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PolicyLoadError, match="Nobody/no-such-model could not be loaded from the hub"):
        load_policy("Nobody/no-such-model")


def test_an_adapter_is_put_on_its_model(copy: Path, tmp_path: Path, asked: Asked) -> None:
    peft = pytest.importorskip("peft")
    plain = LocalPolicy.from_pretrained(copy)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(LocalPolicy.from_pretrained(copy).model, config)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = LocalPolicy(adapted.merge_and_unload(), plain.processor, plain.profile).generate(asked())
    assert expected.text != plain.generate(asked()).text
    assert load_policy(str(copy), adapter=str(tmp_path / "adapter")).generate(asked()).text == expected.text
    # A folder that holds nothing but the adapter loads the model that it names.
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(copy))
    assert load_policy(str(tmp_path / "adapter")).generate(asked()).text == expected.text
    # Its model has moved since.
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "moved"))
    with pytest.raises(PolicyLoadError, match=r"adapter is an adapter of .*moved\. There is no folder .*moved"):
        load_policy(str(tmp_path / "adapter"))


def test_a_pickled_adapter_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    edit(tmp_path / "adapter" / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(copy))
    with pytest.raises(PolicyLoadError, match="pickle"):
        load_policy(str(tmp_path / "adapter"))


def test_a_pickled_adapter_is_refused_also_beside_other_safetensors(copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    shutil.copytree(copy, tmp_path / "adapter")
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    edit(tmp_path / "adapter" / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(copy))
    with pytest.raises(PolicyLoadError, match=r"adapter_model\.bin, a pickle"):
        load_policy(str(copy), adapter=str(tmp_path / "adapter"))


def test_an_adapter_of_the_hub_without_safetensors_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    def no_such_file(repo: str, name: str) -> str:
        assert name == "adapter_model.safetensors"
        raise EntryNotFoundError("404")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_such_file)
    with pytest.raises(PolicyLoadError, match="some/adapter has no safetensors weights; pickled ones are not opened"):
        load_policy(str(copy), adapter="some/adapter")


def test_code_that_comes_with_a_processor_or_model_is_not_run(copy: Path) -> None:
    (copy / "evil.py").write_text("raise SystemExit('code of the checkpoint was run')")
    edit(copy / "config.json", auto_map={"AutoModelForImageTextToText": "evil.Model"})
    edit(copy / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Images"})
    edit(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Slow", "evil.Fast"]})
    assert load_policy(str(copy)).profile.family == "qwen3_vl"  # transformers' own classes serve


def test_naming_a_policy_loads_no_torch() -> None:
    code = (
        "import sys, sifthinker.policy.load, sifthinker.policy.dialect, sifthinker.policy.profiles\n"
        "print([name for name in ('torch', 'transformers', 'timm', 'httpx', 'peft') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_server_is_named_without_being_asked() -> None:
    policy = load_policy("openai:Qwen/Qwen2.5-VL-7B-Instruct@http://127.0.0.1:9/v1", api_key="x", rgb_px=512)
    assert policy.profile.name == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert policy.profile.box_space is BoxSpace.RESIZED
    assert policy.profile.resized_size((1000, 500)) == (504, 252)
