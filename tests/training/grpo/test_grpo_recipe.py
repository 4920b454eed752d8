"""A recipe holds every constant of a run, and refuses what cannot be."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sifthinker.agent.cli import run
from sifthinker.policy.errors import SifthinkerError, UsageError
from sifthinker.training.changes import changed
from sifthinker.training.folders import locked
from sifthinker.training.grpo import cli
from sifthinker.training.grpo.plan import plan_of
from sifthinker.training.grpo.recipe import read_recipe
from sifthinker.training.grpo.start import arguments, check_arguments
from sifthinker.training.launch import take_one_gpu
from sifthinker.training.recipes import load_recipe, recipe_names

GRPO = [name for name in recipe_names() if load_recipe(name).get("trainer") == "grpo"]


def test_there_are_recipes_for_a_laptop_one_gpu_and_eight() -> None:
    assert {"embedded-grpo", "qwen3-vl-4b-grpo", "qwen2.5-vl-7b-grpo"} <= set(GRPO)


@pytest.mark.parametrize("name", GRPO)
def test_every_shipped_recipe_fits_its_hardware_and_trl(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(load_recipe(name))
    plan = plan_of(recipe)
    assert plan.fits is not False, f"{plan.total / 1e9:.1f} GB of {plan.workload.gpu_gb}"
    check_arguments(recipe)
    if recipe.on_cpu:
        args = arguments(recipe, tmp_path)
        assert args.num_generations == recipe.trl["num_generations"]


def test_the_paper_recipe_has_the_papers_constants() -> None:
    recipe = read_recipe(load_recipe("qwen2.5-vl-7b-grpo"))
    assert recipe.lora is not None
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout, recipe.lora.vision) == (64, 128, 0.05, False)
    wanted = {
        "num_generations": 8,
        "learning_rate": 1e-5,
        "beta": 0.04,
        "epsilon": 0.2,
        "max_completion_length": 2048,
        "temperature": 1.0,
        "num_train_epochs": 1,
    }
    assert {name: recipe.trl[name] for name in wanted} == wanted
    assert (recipe.machines.processes, recipe.machines.zero) == (8, 3)


@pytest.mark.parametrize(
    "vllm",
    [
        {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.4, "vllm_enable_sleep_mode": True},
        {"use_vllm": True, "vllm_mode": "server", "vllm_server_host": "10.0.0.2", "vllm_server_port": 8001},
    ],
)
def test_vllm_is_passed_through_to_trl(vllm: dict[str, Any], settings: dict[str, Any], tmp_path: Path) -> None:
    settings["share_prompts"] = False
    settings["trl"].update(vllm)
    recipe = read_recipe(settings)
    args = arguments(recipe, tmp_path)
    assert {name: getattr(args, name) for name in vllm} == vllm
    engine = plan_of(recipe).workload.generation
    assert engine is not None
    assert engine.engine == f"vllm-{vllm['vllm_mode']}"


def test_a_vllm_that_trl_does_not_take_is_not_what_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(load_recipe("qwen2.5-vl-7b-grpo"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vllm" else object())
    with pytest.raises(SifthinkerError, match=r"pip install 'vllm>=0\.22,<=0\.31'\.$"):
        cli._require(recipe, dry=False)


def test_the_reference_of_the_kl_term_is_of_the_same_revision(settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"policy": "owner/name", "revision": "v2"}
    assert arguments(read_recipe(settings), tmp_path).model_init_kwargs is None
    settings["trl"]["beta"] = 0.04
    assert arguments(read_recipe(settings), tmp_path).model_init_kwargs == {"revision": "v2"}


def test_a_process_takes_one_gpu_of_those_it_sees() -> None:
    for seen, taken in ((0, 0), (1, 1), (8, 1)):
        settings = SimpleNamespace(n_gpu=seen, _n_gpu=seen)
        take_one_gpu(settings)
        assert settings._n_gpu == taken


def test_a_share_that_does_not_hold_vllms_weights_does_not_fit() -> None:
    recipe = load_recipe("qwen2.5-vl-7b-grpo")
    assert plan_of(read_recipe(recipe)).fits
    small = plan_of(read_recipe(changed(recipe, ["trl.vllm_gpu_memory_utilization=0.1"])))
    assert small.fits is False
    assert "vllm_gpu_memory_utilization" in small.part("vLLM").why


def test_the_plan_of_plain_sgd_keeps_no_moments(settings: dict[str, Any]) -> None:
    def kept(**trl: Any) -> float:
        recipe = read_recipe(settings | {"trl": settings["trl"] | trl})
        return next(part.bytes for part in plan_of(recipe).parts if part.name == "optimiser")

    assert kept(optim="sgd") == 0
    assert kept() == kept(optim="adamw_torch") > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["nonsense=1"], "nonsense"),
        (["trl.reward_weights=[1]"], "reward_weights"),
        (["rewards.answer=0", "rewards.grounding=0", "rewards.depth=0"], "all weights are 0"),
        (["trl.gradient_checkpointing=true"], "gradient_checkpointing"),
        (["trl.top_p=0.9"], "top_p"),
        (["trl.save_steps=3", "trl.steps_per_generation=2"], "save_steps"),
        (["data.kind=nowhere"], "data"),
        (["data.families=[closer, nearest]"], "nearest"),
        (["lora.rank=8"], "train_vision"),
        (["seed.more=1"], "seed"),
        (["trl.num_iterations=0"], "num_iterations"),
        (["trl.save_steps=0.1"], "save_steps"),
        (["trl.save_steps=null"], "save_steps"),
        (["trl.eval_strategy=steps"], "eval_strategy"),
        (["trl.generation_batch_size=96"], "steps_per_generation"),
        (["average=3"], "of 3 checkpoints only 2 are kept"),
        (["trl.sync_ref_model=true"], "sync_ref_model is not had"),
        (["trl.mask_truncated_completions=true"], "mask_truncated_completions"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(change: list[str], said: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=said):
        read_recipe(changed(settings, change))


def test_a_number_that_yaml_takes_for_a_word_is_a_number(settings: dict[str, Any]) -> None:
    settings["trl"] |= {"learning_rate": "1e-5", "beta": "4E-2", "optim": "sgd"}
    found = read_recipe(settings).trl
    assert (found["learning_rate"], found["beta"], found["optim"]) == (1e-5, 0.04, "sgd")


@pytest.mark.parametrize("wrong", [{"learning_rat": 1e-5}, {"num_generations": 3}])
def test_what_trl_does_not_take_is_told_before_the_run(wrong: dict[str, Any], settings: dict[str, Any]) -> None:
    settings["trl"].update(wrong)
    with pytest.raises(UsageError, match="trl"):
        arguments(read_recipe(settings), Path("run"))


def test_other_data_keep_what_the_recipe_says_of_them_and_set_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(cli, "_show_plan", lambda recipe, *others, **named: seen.append(recipe.data.model_dump()))
    (tmp_path / "world").mkdir()
    (tmp_path / "world/questions.jsonl").touch()
    records, world = str(tmp_path / "sif"), str(tmp_path / "world")
    paper = ["train", "grpo", "qwen2.5-vl-7b-grpo", "--dry-run"]
    assert run([*paper, "--data", records]) == 0
    assert run([*paper, "--data", records, "--set", "data.limit=7"]) == 0
    assert run([*paper, "--data", world]) == 0
    assert [{**one, "path": str(one["path"])} for one in seen] == [
        {"kind": "records", "path": records, "limit": 200},
        {"kind": "records", "path": records, "limit": 7},
        {"kind": "world", "path": world},
    ]


def test_of_several_machines_the_first_holds_the_folder(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["machines"] = {"processes": 4, "nodes": 2}
    out = tmp_path / "run"
    with locked(out, doing="training"):  # by the first machine's own process
        monkeypatch.setenv("NODE_RANK", "1")
        assert not cli._is_complete(read_recipe(settings), out)
        assert not (out / "run.json").exists()
        monkeypatch.setenv("NODE_RANK", "0")
        with pytest.raises(UsageError, match="is training in"):
            cli._is_complete(read_recipe(settings), out)


def test_a_dry_run_says_what_the_run_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["train", "grpo", "embedded-grpo", "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "train grpo embedded-grpo" in said
    assert "A step: 96 completions" in said
    assert not (tmp_path / "run/run.json").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["nothing"], "No recipe 'nothing'"),
        (["embedded"], "is not for GRPO"),
        (["embedded-grpo", "--without", "beauty"], "no reward 'beauty'"),
        (["embedded-grpo", "--rewards", "generous"], "rewards.form"),
        (["embedded-grpo", "--processes", "1", "--policy", "./nowhere"], "nowhere"),
        (["embedded-grpo", "--processes", "1", "--data", "nowhere"], "nowhere"),
        pytest.param(
            ["qwen3-vl-4b-grpo"],
            "this machine has 0",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
    ],
)
def test_wrong_use_is_told_in_one_sentence(
    line: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["train", "grpo", *line, "--out", str(tmp_path / "run")]) in (1, 2)
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
