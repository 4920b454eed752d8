"""How a run is started on its machines: accelerate's config written out, and the exact command.

One process runs in place. Several on the CPU speak gloo; several GPUs run under accelerate, with DeepSpeed where the
recipe shards (on the CPU too, so that sharding can be tried without a GPU). The config is a file beside the run, to be
read and changed: once changed by hand, it is kept.

Spread over several machines, the same command is started on each, with the variables of `NODE` in its environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sifthinker.policy.errors import UsageError
from sifthinker.policy.files import write_whole

logger = logging.getLogger(__name__)

CONFIG = "accelerate.yaml"
_HEAD = "# Written by sifthinker; `accelerate launch --config_file` reads it. Changed by hand it is kept. "
NODE = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Which of several machines this is (0 is the first), and where the first one is reached (the port is optional)."""
PORT = "29500"
GRACE_S = 45.0
"""So long a launcher that is interrupted may take to end its processes: torchrun gives them 30 seconds."""
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "200000000000"}
"""glibc keeps the large buffers of a step instead of handing them back: CPU training is several times faster."""


class Machines(BaseModel):
    """What a run is spread over."""

    model_config = ConfigDict(extra="forbid")

    processes: int = Field(default=1, ge=1, description="GPUs, or processes on the CPU; of all machines together.")
    nodes: int = Field(default=1, ge=1, description="Machines that the processes are spread over evenly.")
    gpu_gb: float | None = Field(default=None, gt=0, description="Memory of each GPU; None: the run is for the CPU.")
    zero: Literal[0, 2, 3] = Field(default=0, description="DeepSpeed's stage; 0: none.")
    precision: Literal["bf16", "no"] = "bf16"

    @model_validator(mode="after")
    def _even(self) -> Self:
        if self.processes % self.nodes:
            raise ValueError(f"{self.processes} processes cannot be spread evenly over {self.nodes} machines")
        return self

    @property
    def per_node(self) -> int:
        """Processes on each machine."""
        return self.processes // self.nodes


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
        "num_machines": machines.nodes,
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
    """Write accelerate's config into a run's folder, and name it. One that was changed by hand is left as it is."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / CONFIG
    config = accelerate_config(machines, accumulate=accumulate, clip=clip)
    if path.is_file() and not _untouched(path.read_text(encoding="utf-8")):
        logger.warning("%s was changed by hand and is taken as it is; remove it to have it written anew.", path)
        return path
    body = yaml.safe_dump(config, sort_keys=True)
    told = f"{_HEAD}{_digest(body)}\n{body}"
    write_whole(path, lambda part: part.write_text(told, encoding="utf-8"))
    return path


def _untouched(text: str) -> bool:
    """Whether a config is as it was written."""
    head, _, body = text.partition("\n")
    return head == f"{_HEAD}{_digest(body)}"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def command_of(arguments: Sequence[str], machines: Machines, config: Path) -> list[str]:
    """The command line that starts `sifthinker ARGUMENTS` on such machines; of several, on this one."""
    module = ["sifthinker.training", *arguments]
    rank, address, port = (os.environ.get(name, PORT if name == NODE[2] else f"${name}") for name in NODE)
    if machines.gpu_gb is None and machines.processes > 1 and not machines.zero:
        spread = ["--standalone"]
        if machines.nodes > 1:
            spread = [f"--nnodes={machines.nodes}", f"--node-rank={rank}"]
            spread += [f"--master-addr={address}", f"--master-port={port}"]
        spread.append(f"--nproc-per-node={machines.per_node}")
        return [sys.executable, "-m", "torch.distributed.run", *spread, "--module", *module]
    if machines.processes > 1 or machines.zero:
        where = ["--config_file", str(config)]
        if machines.nodes > 1:
            where += ["--machine_rank", rank, "--main_process_ip", address, "--main_process_port", port]
        return [sys.executable, "-m", "accelerate.commands.launch", *where, "--module", *module]
    return [sys.executable, "-m", *module]


def shown(command: Sequence[str]) -> str:
    """A command as a person types it."""
    words = ["python" if word == sys.executable else word for word in command]
    text = shlex.join(words)
    for name in NODE:  # a variable is to stay one
        text = re.sub(rf"'([^' ]*\${name})'", r"\1", text)
    text = text.replace("python -m accelerate.commands.launch", "accelerate launch")
    return text.replace("python -m torch.distributed.run", "torchrun").replace(
        "python -m sifthinker.training", "sifthinker"
    )


def launched() -> bool:
    """Whether this process is one that a launcher started: torchrun, accelerate, deepspeed.

    Each of them says `LOCAL_RANK`. A `RANK` alone is a job operator's, of the machine and not of a process.
    """
    return "RANK" in os.environ and "LOCAL_RANK" in os.environ


def own_rank() -> int:
    """The number of this process among those of a launcher; 0 without one. Process 0 writes and tells."""
    return int(os.environ["RANK"]) if launched() else 0


def check_processes(machines: Machines, found: int) -> None:
    """See that as many processes run as the recipe says: steps and what is left of a schedule are counted with them.

    Args:
        machines: the recipe's.
        found: processes there are.

    Raises:
        UsageError: more, or fewer.
    """
    if found != machines.processes:
        raise UsageError(
            f"The recipe is for {machines.processes} process(es) and {found} were started: say --processes {found} in "
            "a folder of its own, or let `sifthinker` start them."
        )


def settle_on_cpu() -> None:
    """One thread and one core for each of several processes of this machine: other work would push two onto one."""
    import torch

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available() or here == 1:
        return
    torch.set_num_threads(1)
    if here == os.cpu_count() and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(os.environ.get("LOCAL_RANK", "0"))})


def take_one_gpu(settings: Any) -> None:
    """Have a trainer with these arguments take one GPU, also where its process sees several.

    DataParallel is not for these models, and the recipe says how many processes there are.
    """
    settings._n_gpu = min(settings.n_gpu, 1)


def launch(command: Sequence[str], machines: Machines) -> int:
    """Run a command to its end, and give its exit code.

    Raises:
        UsageError: it is for several machines, and nothing says which of them this is.
    """
    if machines.nodes > 1 and not all(name in os.environ for name in NODE[:2]):
        raise UsageError(
            f"This recipe is for {machines.nodes} machines: start the same command on each, with NODE_RANK (0 on the "
            "first, then 1, …) and MASTER_ADDR (the first one's address) in its environment, and --out on a disk that "
            "all of them see."
        )
    extra = {}
    if machines.gpu_gb is None:
        extra = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), **ALLOCATOR}
        extra |= {"DS_ACCELERATOR": "cpu"} if machines.zero else {}
    with subprocess.Popen(list(command), env={**os.environ, **extra}) as started:
        try:
            return started.wait()
        except BaseException:  # Ctrl-C reaches the launcher, too, which must be left the time to end what it started
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                started.wait(timeout=GRACE_S)
            started.terminate()
            raise
