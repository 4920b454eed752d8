"""`sifthinker doctor`: what is installed, on which device it runs, and whether the embedded policy answers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from io import BytesIO
from typing import Literal

from PIL import Image

from sifthinker.agent.console import FocusConsole, write_json
from sifthinker.policy.errors import SifthinkerError

State = Literal["ok", "missing", "wrong"]

REQUIRED = ("torch", "torchvision", "transformers", "timm", "langgraph", "langchain-core", "pillow", "numpy")
OPTIONAL = {
    "httpx": "remote policies: pip install 'sifthinker[remote]'",
    "langgraph-checkpoint-sqlite": "chat history that outlasts the program: pip install langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres": "conversations kept in PostgreSQL: pip install 'sifthinker[postgres]'",
    "pyarrow": "compare, data and distil: pip install 'sifthinker[data]'",
    "peft": "LoRA adapters and training: pip install 'sifthinker[train]'",
    "trl": "training: pip install 'sifthinker[train]'",
    "ray": "comparing over several machines: pip install 'sifthinker[ray]'",
    "starlette": "the page in the browser: pip install 'sifthinker[web]'",
    "uvicorn": "the page in the browser: pip install 'sifthinker[web]'",
    "mcp": "the MCP server: pip install 'sifthinker[mcp]'",
    "rapidocr": "the tool read_text: pip install 'sifthinker[ocr]'",
}
QUESTION = "What does the sign on the yellow sphere say?"
ANSWER = "2"
OPTIONS = ("2", "7", "X", "K")


@dataclass(frozen=True)
class Check:
    """One thing looked at. `state` is "missing" for something optional; only "wrong" makes the doctor fail."""

    name: str
    state: State
    words: str


def run_doctor(*, as_json: bool) -> int:
    """Look at everything, tell it, and return the exit code: 0 where the embedded policy can be used."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # no bar for weights that load in a moment
    console = FocusConsole()
    checks: list[Check] = []
    for check in _checks(console):
        checks.append(check)
        if not as_json:
            console.check(check.name, check.state, check.words)
    good = all(check.state != "wrong" for check in checks)
    if as_json:
        write_json({"ok": good, "checks": [asdict(check) for check in checks]})
    return 0 if good else 1


def _checks(console: FocusConsole) -> Iterator[Check]:
    yield Check("sifthinker", "ok", metadata.version("sifthinker"))
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in REQUIRED:
        version = _version(name)
        yield Check(name, "ok" if version else "wrong", version or "not installed: pip install . brings it")
    for name, use in OPTIONAL.items():
        version = _version(name)
        yield Check(name, "ok" if version else "missing", version or f"not installed, needed for {use}")
    if _version("torch"):
        yield Check("device", "ok", device_words())
        with console.waiting("asking the embedded policy"):
            check = _ask_embedded()
        yield check


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def device_words() -> str:
    """Where torch can compute: the first GPU with its memory, Apple's, or the CPU with its threads."""
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" + (f", and {count - 1} more" if count > 1 else "")
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return f"CPU, {torch.get_num_threads()} threads"


def doctor_image() -> Image.Image:
    """The packaged scene that the question is about."""
    data = resources.files("sifthinker.agent").joinpath("templates", "doctor.png").read_bytes()
    return Image.open(BytesIO(data)).convert("RGB")


def _ask_embedded() -> Check:
    from sifthinker.agent.api import ask

    name = "embedded policy"
    try:
        result = ask(doctor_image(), QUESTION, options=OPTIONS)
    except SifthinkerError as error:
        return Check(name, "wrong", str(error))
    words = f"{QUESTION} {result.answer or 'no answer'} ({result.seconds:.1f} s"
    if not result.answer:
        return Check(name, "wrong", f"{words})")
    right = "right" if result.answer == ANSWER else f"it is {ANSWER}: the policy errs now and then"
    return Check(name, "ok", f"{words}; {right})")
