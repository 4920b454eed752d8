"""Every recipe of the package can be looked at before it is started: plan, first batch, launch config and command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tuning import small_data, tiny_model

from sifthinker.agent.cli import run as sifthinker
from sifthinker.policy.errors import UsageError
from sifthinker.training.changes import changed
from sifthinker.training.launch import (
    NODE,
    Machines,
    accelerate_config,
    check_processes,
    command_of,
    launch,
    launched,
    own_rank,
    shown,
    write_config,
)
from sifthinker.training.planner import plan
from sifthinker.training.recipes import load_recipe, recipe_names
from sifthinker.training.sft.dry_run import dry_run, estimated_tokens
from sifthinker.training.sft.recipe import recipe_of

SFT = [name for name in recipe_names() if load_recipe(name).get("trainer") == "trl" and "grpo" not in name]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    small_data(folder, 8)
    return folder / "data"


def test_the_recipes_that_are_promised_are_there() -> None:
    assert {"embedded", "embedded-sft", "qwen3-vl-4b-lora-24gb", "qwen2.5-vl-7b-paper", "qwen3-vl-8b"} <= {
        *recipe_names()
    }
    assert len(SFT) >= 4


@pytest.mark.parametrize("name", SFT)
def test_a_recipe_fits_into_the_gpus_that_it_is_for(name: str) -> None:
    settings = load_recipe(name)
    del settings["trainer"]
    recipe = recipe_of(settings, name=name)
    made = plan(recipe.workload())
    assert made.fits in (True, None)
    longest = recipe.max_tokens and plan(recipe.workload(text_tokens=recipe.max_tokens, images=0))
    assert not longest or longest.fits, "the longest sample that the recipe lets in does not fit"


def test_the_paper_s_constants_are_the_paper_s() -> None:
    settings = load_recipe("qwen2.5-vl-7b-paper")
    recipe = recipe_of({key: value for key, value in settings.items() if key != "trainer"})
    assert recipe.model == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert recipe.lora is not None
    assert (recipe.lora.rank, recipe.lr, recipe.schedule, recipe.warmup) == (8, 1e-4, "cosine", 0.1)
    assert (recipe.epochs, recipe.batch, recipe.accumulate, recipe.max_tokens) == (3, 2, 8, 2048)
    assert recipe.max_pixels == 262_144
    assert (recipe.machines.processes, recipe.machines.zero, recipe.machines.precision) == (8, 3, "bf16")


@pytest.mark.parametrize("name", [*SFT, "embedded"])
def test_a_dry_run_tells_memory_tokens_and_the_command(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    given = [] if name == "embedded" else ["--data", str(data)]
    assert sifthinker(["train", "sft", name, "--dry-run", "--out", str(tmp_path / "run"), *given]) == 0
    told = capsys.readouterr().out
    for said in (
        "weights",
        "gradients",
        "optimiser",
        "activations",
        "total",
        "parameters",
        "A step:",
        f"train sft {name}",
    ):
        assert said in told, said
    if name.startswith("qwen"):
        assert "estimated: the model's processor is not on this machine" in told
        assert "It fits into" in told
    elif name == "embedded-sft":
        assert "encoded by the model's processor" in told
    if name in ("qwen2.5-vl-7b-paper", "qwen3-vl-8b"):
        assert "accelerate launch --config_file" in told
        config = yaml.safe_load((tmp_path / "run/accelerate.yaml").read_text(encoding="utf-8"))
        assert config["deepspeed_config"]["zero_stage"] == 3
        assert config["num_processes"] == 8


def test_the_first_batch_is_encoded_where_the_processor_is_at_hand(data: Path, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "qwen2_5_vl")
    recipe = recipe_of({"model": str(model), "data": str(data), "batch": 3, "evaluation": {"questions": 2}})
    found = dry_run(recipe)
    assert found.batch is not None
    assert found.batch.how == "encoded by the model's processor"
    assert found.batch.sequences == 3
    assert found.batch.images == 2
    assert found.plan.sequence_tokens == pytest.approx(found.batch.longest, rel=0.02)
    assert (found.records, found.asked, found.steps) == (6, 2, 2)


def test_the_estimate_is_near_what_a_tokenizer_of_the_family_counts() -> None:
    # counted by hand for a tokenizer that takes each digit by itself: <, area, >, [{", bbox, _, 2, d, ":[ …
    assert estimated_tokens("0.123") == 5
    assert estimated_tokens("The red cube is nearer.") == 6
    assert 25 <= estimated_tokens('<area>[{"bbox_2d":[0.100,0.200],"depth":0.310}]</area>') <= 40


@pytest.mark.parametrize(
    ("machines", "kind"),
    [
        (Machines(), "NO"),
        (Machines(processes=2), "MULTI_CPU"),
        (Machines(processes=4, gpu_gb=24), "MULTI_GPU"),
        (Machines(processes=8, gpu_gb=80, zero=3), "DEEPSPEED"),
    ],
)
def test_accelerate_reads_the_config_that_is_written(machines: Machines, kind: str, tmp_path: Path) -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    path = write_config(machines, tmp_path, accumulate=4)
    read = config_args.load_config_from_file(str(path))
    assert str(read.distributed_type).rpartition(".")[2].upper() == kind
    assert read.num_processes == machines.processes
    assert read.use_cpu == (machines.gpu_gb is None)
    if machines.zero:
        assert read.deepspeed_config["zero_stage"] == 3
        assert read.deepspeed_config["gradient_accumulation_steps"] == 4


def test_the_command_is_what_the_machines_need() -> None:
    arguments, config = ["train", "sft", "x", "--out", "runs/x"], Path("runs/x/accelerate.yaml")
    assert shown(command_of(arguments, Machines(), config)) == "sifthinker train sft x --out runs/x"
    assert shown(command_of(arguments, Machines(processes=2), config)).startswith(
        "torchrun --standalone --nproc-per-node=2"
    )
    gpus = shown(command_of(arguments, Machines(processes=8, gpu_gb=80, zero=3), config))
    assert gpus.startswith(
        "accelerate launch --config_file runs/x/accelerate.yaml --module sifthinker.training train sft x"
    )
    sharded = shown(command_of(arguments, Machines(processes=2, zero=3), config))
    assert sharded.startswith("accelerate launch"), "sharding can be tried on the CPU"
    assert "mixed_precision" in accelerate_config(Machines())


def test_on_several_machines_each_is_told_which_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NODE:
        monkeypatch.delenv(name, raising=False)
    arguments, config = ["train", "sft", "x"], tmp_path / "accelerate.yaml"
    gpus, cpus = Machines(processes=16, nodes=2, gpu_gb=80, zero=3), Machines(processes=4, nodes=2)
    assert (gpus.per_node, accelerate_config(gpus)["num_machines"]) == (8, 2)
    told = shown(command_of(arguments, gpus, config))
    assert "--machine_rank $NODE_RANK --main_process_ip $MASTER_ADDR --main_process_port 29500 --module" in told
    told = shown(command_of(arguments, cpus, config))
    assert "--nnodes=2 --node-rank=$NODE_RANK --master-addr=$MASTER_ADDR --master-port=29500 --nproc-per-node=2" in told
    with pytest.raises(UsageError, match="NODE_RANK"):
        launch(command_of(arguments, gpus, config), gpus)
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    assert "--machine_rank 1 --main_process_ip 10.0.0.1" in shown(command_of(arguments, gpus, config))
    with pytest.raises(ValueError, match="evenly"):
        Machines(processes=3, nodes=2)


def test_a_config_that_was_changed_by_hand_is_kept(tmp_path: Path) -> None:
    path = write_config(Machines(processes=2), tmp_path)
    assert yaml.safe_load(write_config(Machines(processes=4), tmp_path).read_text())["num_processes"] == 4
    path.write_text(path.read_text().replace("same_network: true", "same_network: false"))
    assert write_config(Machines(processes=8), tmp_path) == path
    assert yaml.safe_load(path.read_text())["num_processes"] == 4
    assert not yaml.safe_load(path.read_text())["same_network"]


def test_fields_can_be_set_on_the_command_line() -> None:
    settings = {"lr": 1.0, "machines": {"processes": 8}, "lora": {"rank": 2}}
    made = changed(settings, ["lr=1e-5", "machines.processes=2", "lora=null", "evaluation.every=7"])
    assert made == {"lr": 1e-5, "machines": {"processes": 2}, "lora": None, "evaluation": {"every": 7}}
    assert settings["machines"] == {"processes": 8}
    for wrong in ("lr", "=3", "lr.x=1"):
        with pytest.raises(UsageError):
            changed(settings, [wrong])


def test_an_interrupted_launcher_has_the_time_to_end_what_it_started(tmp_path: Path) -> None:
    """Ctrl-C reaches launcher and workers alike; a launcher that is killed at once would leave its workers behind."""
    worker = (
        "import signal, sys, time, pathlib\n"
        "def end(*_):\n    time.sleep(1.5); pathlib.Path(sys.argv[1]).touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGINT, end); print('up', flush=True); time.sleep(60)"
    )
    starter = (
        "import sys; from sifthinker.training.launch import Machines, launch\n"
        "launch([sys.executable, '-c', sys.argv[1], sys.argv[2]], Machines())"
    )
    done = tmp_path / "done"
    started = subprocess.Popen(
        [sys.executable, "-c", starter, worker, str(done)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    os.killpg(started.pid, signal.SIGINT)
    started.communicate(timeout=30)
    assert done.exists()


def test_a_job_operator_s_rank_is_no_launcher_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("RANK", "1")
    assert not launched()
    assert own_rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launched()
    assert own_rank() == 1


def test_another_number_of_processes_than_the_recipe_s_is_refused() -> None:
    check_processes(Machines(processes=2), 2)
    for found in (1, 3):
        with pytest.raises(UsageError, match=rf"for 2 process\(es\) and {found} were started: say --processes {found}"):
            check_processes(Machines(processes=2), found)
