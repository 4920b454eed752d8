"""What the answers of a comparison depend on, written down: the policy's weights, its prompts, the versions."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image

from sifthinker.nodes.context import Mode
from sifthinker.policy.base import Policy, PolicyProfile
from sifthinker.policy.calibration_store import identity_of
from sifthinker.policy.dialect import dialect_for
from sifthinker.policy.files import expanded
from sifthinker.policy.load import EMBEDDED
from sifthinker.policy.messages import Message, TextPart
from sifthinker.policy.profiles import PROFILE_FILE
from sifthinker.training.compare.data import Question
from sifthinker.training.compare.places import worded

MODES: tuple[Mode, ...] = ("direct", "internal", "tools")
"""The modes whose opening words differ; adaptive opens as internal does."""

_HASHED_BYTES = 512_000_000  # larger folders are told by the names, sizes and times of their files
_PACKAGES = ("sifthinker", "torch", "transformers", "langgraph", "langchain-core", "numpy", "pillow")
_OPTIONS = ("adapter", "attn", "dtype", "extra_body", "quantization", "revision")
"""Those of `load_policy` that answers depend on and the profile does not tell. Keys and headers are not among them."""


def identity(
    name: str, policy: Policy, options: Mapping[str, Any] | None = None, *, places: bool = False
) -> dict[str, Any]:
    """What tells one policy from another of the same name.

    Its weights, where they can be seen, an adapter's too; its profile without the calibration, which is not the
    policy's but mode adaptive's; the options that it was loaded with, as far as answers depend on them; its prompts.

    Args:
        name: as `load_policy` takes it.
        policy: what was loaded.
        options: what it was loaded with.
        places: whether it is asked for places.
    """
    standing = [None, Question(id="", text="QUESTION", answer="", kind="place")] if places else [None]
    words = [word for question in standing for word in prompts(policy.profile, question).values()]
    told = {
        "weights": _weights(name, policy),
        "options": {key: _told(key, value) for key in _OPTIONS if (value := (options or {}).get(key)) is not None},
        "profile": policy.profile.model_dump(mode="json", exclude={"calibration"}),
        "prompts_sha256": _sha256("\n".join(words)),
    }
    return told if is_remote(policy) else {"identity": identity_of(policy), **told}


def prompts(profile: PolicyProfile, question: Question | None, *, depth: bool = True) -> dict[str, str]:
    """The words that open each mode, pictures as <image>: of a question, or of one that stands for all.

    Every mode is shown the same pictures and the same options. `depth`: whether there is a depth map.
    """
    asked = question or Question(id="", text="QUESTION", answer="", options=("OPTION",))
    picture = Image.new("RGB", (64, 64))
    shown = picture if depth and profile.uses_depth_image else None
    dialect, text = dialect_for(profile), worded(asked, profile, picture.size)
    return {
        mode: _words(dialect.build_first(text, rgb=picture, depth=shown, options=asked.options, mode=opening))
        for mode in MODES
        for opening in ("internal" if mode == "adaptive" else mode,)
    }


def versions() -> dict[str, str]:
    """Of everything that can change an answer."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def is_remote(policy: Policy) -> bool:
    """Whether it is a server's."""
    return hasattr(policy, "url")


def parameter_bytes(policy: Policy) -> int | None:
    """Bytes of a local policy's weights in memory; None where they are elsewhere."""
    model = getattr(policy, "model", None)
    parameters = getattr(model, "parameters", None)
    return None if parameters is None else sum(one.numel() * one.element_size() for one in parameters())


def on_cpu(policy: Policy) -> bool:
    """Whether a local policy computes on the CPU."""
    return str(getattr(getattr(policy, "model", None), "device", "")) == "cpu"


def _weights(name: str, policy: Policy) -> str:
    if is_remote(policy):
        return f"{getattr(policy, 'model', '')} on a server"
    folder = EMBEDDED if name == "embedded" else expanded(name)
    if folder.is_dir():
        return _files(folder)
    commit = getattr(getattr(getattr(policy, "model", None), "config", None), "_commit_hash", None)
    return f"revision:{commit}" if commit else "not known"


def _files(folder: Path) -> str:
    """What tells the files of a folder from others."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    if sum(path.stat().st_size for path in files) <= _HASHED_BYTES:
        digest = hashlib.sha256()
        for path in files:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(_content(path)).digest())
        return f"sha256:{digest.hexdigest()}"
    return f"files:{_sha256(chr(10).join(map(_seen, files)))}"


def _content(path: Path) -> bytes:
    """What a file holds; of a profile without the calibration that `sifthinker calibrate` writes into it."""
    content = path.read_bytes()
    if path.name != PROFILE_FILE:
        return content
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if isinstance(fields, dict):
        fields.pop("calibration", None)
    return (json.dumps(fields, ensure_ascii=False, indent=2) + "\n").encode()  # as profiles are written


def _seen(path: Path) -> str:
    """A file as it is told without reading it; the profile is small."""
    if path.name == PROFILE_FILE:
        return f"{path.name} {hashlib.sha256(_content(path)).hexdigest()}"
    return f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"


def _told(option: str, value: Any) -> str:
    """An option in a word; what is sent to a server, and what is no word, by its hash, for it may hold anything."""
    if option == "adapter":
        folder = expanded(str(value))
        return _files(folder) if folder.is_dir() else str(value)
    if option == "dtype" or (option != "extra_body" and isinstance(value, str | int | float)):
        return str(value).removeprefix("torch.")
    plain = value.to_dict() if hasattr(value, "to_dict") else value
    return f"sha256:{_sha256(json.dumps(plain, sort_keys=True, default=str))}"


def _words(messages: list[Message]) -> str:
    return "\n".join(
        f"[{turn.role}] " + "".join(part.text if isinstance(part, TextPart) else "<image>" for part in turn.parts)
        for turn in messages
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
