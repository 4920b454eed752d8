"""How a run is started on its machines: accelerate's config written out, and the exact command.

One process runs in place. Several on the CPU speak gloo; several GPUs run under accelerate, with DeepSpeed where the
recipe shards (on the CPU too, so that sharding can be tried without a GPU). The config is a file beside the run, to be
read and changed.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

CONFIG = "accelerate.yaml"
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "200000000000"}
"""glibc keeps the large buffers of a step instead of handing them back: CPU training is several times faster."""


class Machines(BaseModel):
    """What a run is spread over."""

    model_config = ConfigDict(extra="forbid")

    processes: int = Field(default=1, ge=1, description="GPUs, or processes on the CPU.")
    gpu_gb: float | None = Field(default=None, gt=0, description="Memory of each GPU; None: the run is for the CPU.")
    zero: Literal[0, 2, 3] = Field(default=0, description="DeepSpeed's stage; 0: none.")
    precision: Literal["bf16", "no"] = "bf16"


def accelerate_config(machines: Machines, *, accumulate: int = 1, clip: float = 1.0) -> dict[str, Any]:
    """accelerate's config of such machines, as its `--config_file` reads it."""
    cpu = machines.gpu_gb is None
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": "NO",
        "downcast_bf16": "no",
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": "no" if cpu else machines.precision,
        "num_machines": 1,
        "num_processes": machines.processes,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": cpu,
    }
    if machines.zero:
        config["distributed_type"] = "DEEPSPEED"
        config["deepspeed_config"] = {
            "deepspeed_multinode_launcher": "standard",
            "gradient_accumulation_steps": accumulate,
            "gradient_clipping": clip,
            "offload_optimizer_device": "none",
            "offload_param_device": "none",
            "zero_stage": machines.zero,
            **({"zero3_init_flag": True, "zero3_save_16bit_model": True} if machines.zero == 3 else {}),
        }
    elif machines.processes > 1:
        config["distributed_type"] = "MULTI_CPU" if cpu else "MULTI_GPU"
    return config


def write_config(machines: Machines, out: Path, *, accumulate: int = 1, clip: float = 1.0) -> Path:
    """Write accelerate's config into a run's folder, and name it."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / CONFIG
    head = "# Written by sifthinker; `accelerate launch --config_file` reads it.\n"
    config = accelerate_config(machines, accumulate=accumulate, clip=clip)
    path.write_text(head + yaml.safe_dump(config, sort_keys=True), encoding="utf-8")
    return path


def command_of(arguments: Sequence[str], machines: Machines, config: Path) -> list[str]:
    """The command line that starts `sifthinker ARGUMENTS` on such machines."""
    module = ["sifthinker.training", *arguments]
    if machines.gpu_gb is None and machines.processes > 1 and not machines.zero:
        spread = ["--standalone", f"--nproc-per-node={machines.processes}"]
        return [sys.executable, "-m", "torch.distributed.run", *spread, "--module", *module]
    if machines.processes > 1 or machines.zero:
        return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--module", *module]
    return [sys.executable, "-m", *module]


def shown(command: Sequence[str]) -> str:
    """A command as a person types it."""
    words = ["python" if word == sys.executable else word for word in command]
    text = shlex.join(words)
    text = text.replace("python -m accelerate.commands.launch", "accelerate launch")
    return text.replace("python -m torch.distributed.run", "torchrun").replace(
        "python -m sifthinker.training", "sifthinker"
    )


def launched() -> bool:
    """Whether this process is one of several that a launcher started."""
    return "RANK" in os.environ


def take_one_gpu(settings: Any) -> None:
    """Have a trainer with these arguments take one GPU, also where its process sees several.

    DataParallel is not for these models, and the recipe says how many processes there are.
    """
    settings._n_gpu = min(settings.n_gpu, 1)


def launch(command: Sequence[str], machines: Machines) -> int:
    """Run a command to its end, and give its exit code."""
    extra = {}
    if machines.gpu_gb is None:
        extra = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), **ALLOCATOR}
        extra |= {"DS_ACCELERATOR": "cpu"} if machines.zero else {}
    return subprocess.call(list(command), env={**os.environ, **extra})
