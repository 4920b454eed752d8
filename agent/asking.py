"""`sifthinker ask`: one question, its steps as they come, the answer, and what is saved of it."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from sifthinker.agent.api import ask_stream
from sifthinker.agent.config import focus_config
from sifthinker.agent.console import FocusConsole, write_json
from sifthinker.agent.result import FocusResult
from sifthinker.nodes.context import FocusConfig, Mode
from sifthinker.nodes.images import ImageLimits
from sifthinker.nodes.tools import VisualTool, find_tools
from sifthinker.policy.base import Policy
from sifthinker.policy.errors import PolicyError, UsageError
from sifthinker.policy.files import expanded
from sifthinker.policy.load import load_policy

STANDARD_INPUT = "-"
RUN_SETTINGS = frozenset(FocusConfig.model_fields) - {
    "mode", "limits", "interrupt_on_focus", "always_go_on", "max_images"
}  # fmt: skip
"""What --set may say of a run, beside the options of its policy (to whom max_images belongs, too)."""
_SECRET = re.compile(r"^((?:--set=)?api_key)=.*", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """A question as it was typed."""

    image: str
    question: str
    options: Sequence[str] = ()
    policy: str = "embedded"
    mode: str = "tools"
    depth: str | None = None
    settings: Sequence[str] = field(default=())
    """`KEY=VALUE` for the run (`RUN_SETTINGS`) and the policy's loader."""
    tools: Sequence[str] = field(default=())
    """Names of visual tools."""

    def command(self) -> str:
        """The command line that asks this again; what is the default is left out, and a key is not told."""
        words = ["sifthinker", "ask"]
        for option in self.options:
            words += ["--option", option]
        words += ["--policy", self.policy] if self.policy != "embedded" else []
        words += ["--mode", self.mode] if self.mode != "tools" else []
        words += ["--depth", self.depth] if self.depth is not None else []
        for setting in self.settings:
            words += ["--set", without_secret(setting)]
        for tool in self.tools:
            words += ["--tool", tool]
        named = [self.image, self.question]
        if any(name.startswith("-") and name != STANDARD_INPUT for name in named):
            return shlex.join([*words, "--", *named])
        return shlex.join([*words[:2], *named, *words[2:]])


def answer_request(request: Request, *, as_json: bool, save: Path | None) -> None:
    """Answer a request, show it, save it.

    Raises:
        UsageError: wrong use, and a folder that cannot be written to. SifthinkerError: it could not be answered.
    """
    with ExitStack() as stack:
        folder = None
        if save is not None:
            from sifthinker.agent.saving import writable_folder

            reads = files_read(request.image, request.depth)
            folder = stack.enter_context(writable_folder(save, reads=reads))
        console = FocusConsole()
        result = _run(request, None if as_json else console)
        if as_json:
            write_json(result.to_dict())
        else:
            console.finish(result)
        if folder is not None:
            from sifthinker.agent.saving import save_run

            name = "" if request.image == STANDARD_INPUT else Path(request.image).name
            report = save_run(result, folder, image_name=name, command=request.command())
            if not as_json:
                console.say(f"Saved: {report}")
    if not result.answer:
        raise PolicyError("The policy gave no answer: try another mode (--mode direct) or another policy (--policy).")


def files_read(image: str | None, depth: str | None) -> list[Path]:
    """The files that a run reads: its picture, and a depth image that belongs to it."""
    named = [image] if image not in (None, STANDARD_INPUT) else []
    if depth is not None and depth.startswith("image:"):
        named.append(depth.removeprefix("image:").rpartition(":near=")[0])
    return [Path(name) for name in named if name]


def chosen_policy(name: str, settings: Sequence[str]) -> str | Policy:
    """The policy of a name; with settings of its own it is loaded here, else the agent loads it by its name."""
    without_bars(name)
    own = {key: value for key, value in read_settings(settings).items() if key not in RUN_SETTINGS}
    return load_policy(name, **own) if own else name


def chosen_tools(names: Sequence[str]) -> tuple[VisualTool, ...]:
    """The visual tools of these names; the module of a MODULE:TOOL may be one of the current folder.

    What is installed is found first, and the folder is looked into for these modules alone.

    Raises:
        UsageError: a name that means no tool.
    """
    here = os.getcwd() if any(":" in name for name in names) else None
    if here is None or here in sys.path:
        return find_tools(names)
    sys.path.append(here)
    try:
        return find_tools(names)
    finally:
        with suppress(ValueError):  # a module may have changed the list
            sys.path.remove(here)


def run_settings(settings: Sequence[str]) -> dict[str, Any]:
    """The settings that are the run's, as `create_focus_agent` takes them.

    A remote policy's `call_timeout` is one of them, too: a run says for each call how long it may take.

    Raises:
        UsageError: one is not of the form KEY=VALUE, or has a value that cannot be.
    """
    said = read_settings(settings)
    own = {key: value for key, value in said.items() if key in RUN_SETTINGS}
    if "call_timeout" in said:
        own.setdefault("call_timeout_s", said["call_timeout"])
    if own:
        focus_config(**own)
    return own


def without_bars(name: str) -> None:
    """Turn the libraries' own progress bars off where nothing is downloaded, or nobody watches."""
    if name == "embedded" or expanded(name).is_dir() or not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported, with the policy


def without_secret(word: str) -> str:
    """A word of a command line as it may be written down: of a server's key only that there was one."""
    return _SECRET.sub(r"\1=…", word)


def read_settings(settings: Sequence[str]) -> Mapping[str, Any]:
    """`KEY=VALUE` pairs as a mapping; values as YAML reads them, so that numbers and true/false are what they seem, and
    `{…}` and `[…]` mappings and lists.

    Raises:
        UsageError: one is not of this form.
    """
    read: dict[str, Any] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator or not key.isidentifier():
            raise UsageError(f"Expected --set KEY=VALUE, for example device=cuda:1, got {setting!r}.")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = value
        bracketed = isinstance(parsed, dict | list) and value.lstrip().startswith(("{", "["))
        taken = key != "api_key" and (bracketed or isinstance(parsed, bool | int | float))
        read[key] = parsed if taken else value
    return read


def _run(request: Request, console: FocusConsole | None) -> FocusResult:
    """Ask, and show the events where there is a console."""
    arguments: dict[str, Any] = {
        "options": list(request.options),
        **run_settings(request.settings),
        "policy": chosen_policy(request.policy, request.settings),
        "mode": cast(Mode, request.mode),
        "depth": request.depth,
        "tools": chosen_tools(request.tools),
    }
    parts = ask_stream(_image(request.image), request.question, **arguments)
    with ExitStack() as stack:
        if console is not None:
            stack.enter_context(console.waiting(f"loading {request.policy}"))
        for part in parts:
            if isinstance(part, FocusResult):
                return part
            if console is not None:
                console.show(part)
    raise PolicyError("The run ended without a result.")


def _image(source: str) -> str | bytes:
    """The image's path, or its bytes where it comes from standard input (one byte more than allowed is enough)."""
    if source != STANDARD_INPUT:
        return source
    return sys.stdin.buffer.read(ImageLimits().max_bytes + 1)
