"""`load_policy`: one name for every kind of policy."""

from __future__ import annotations

import json
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from sifthinker.policy.base import Policy
from sifthinker.policy.errors import PolicyLoadError, UsageError
from sifthinker.policy.files import expanded

EMBEDDED = Path(__file__).parent / "embedded" / "policy"
"""Where the weights of the embedded policy lie."""

FORMS = (
    "embedded                            the block-world policy that comes with the package",
    "Qwen/Qwen3-VL-4B-Instruct           a model of the hub (OWNER/NAME)",
    "./runs/sft                          a folder with a model or an adapter",
    "openai:MODEL@http://localhost:8000  a model on an OpenAI-compatible server",
)
"""The forms of a policy's name, with an example each."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_SERVER = re.compile(r"openai:(?P<model>[^@\s]+)@(?P<url>https?://\S+)")

_loaded: dict[str, tuple[tuple[int, ...], Policy]] = {}  # with when its folders had changed last
_lock = threading.Lock()


def load_policy(name: str, **options: Any) -> Policy:
    """The policy of a name. Loaded once for each name and options; asking again gives the same object, until a file in
    its folder changes, or in its adapter's, its base's or its profile's.

    Args:
        name: "embedded", a hub id, a folder, or "openai:MODEL@URL".
        options: for a local policy those of `LocalPolicy.from_pretrained` (device, dtype, attn, adapter, …), for a
            server those of `RemotePolicy` (api_key, timeouts, …), and for both the fields of `PolicyProfile`
            (box_space, dialect, rgb_px, …), which then win over what folder or family declare.

    Raises:
        UsageError: the name has none of the forms (the message lists them), or an option does not exist.
        PolicyLoadError: nothing usable stands there, with what to do.
    """
    name = name.strip()
    key = repr((name, sorted(options.items(), key=lambda option: option[0])))
    with _lock:
        changed = tuple(_changed_at(folder) for folder in _folders(name, options))
        if key not in _loaded or _loaded[key][0] != changed:
            _loaded.pop(key, None)  # its memory first: two may not fit
            _loaded[key] = changed, _load(name, options)
        return _loaded[key][1]


def forget_policies() -> None:
    """Let go of all loaded policies, so that their memory can be used again."""
    with _lock:
        _loaded.clear()


def _load(name: str, options: dict[str, Any]) -> Policy:
    if server := _SERVER.fullmatch(name):
        return _remote(server["model"], server["url"], options)
    if name == "embedded":
        if not (EMBEDDED / "config.json").is_file():
            raise PolicyLoadError(
                "The embedded policy's weights are not in this installation: install the package again, or train it "
                "(sifthinker train sft embedded --out runs/embedded)."
            )
        return _local(str(EMBEDDED), {"name": "embedded", **options})
    if not name or name.startswith("openai:") or "://" in name:
        raise _unknown(name)
    folder = expanded(name)
    if folder.is_dir():
        if not any((folder / config).is_file() for config in ("config.json", "adapter_config.json")):
            raise PolicyLoadError(f"The folder {name} holds no model: config.json or adapter_config.json is not there.")
        return _local(str(folder), options)
    if _is_path(name):
        raise PolicyLoadError(f"There is no folder {name}: name a folder that holds a model, or a hub id OWNER/NAME.")
    if _HUB_ID.fullmatch(name):
        return _local(name, options)
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    return UsageError(f"{name!r} names no policy. Known forms, with an example each:\n  " + "\n  ".join(FORMS))


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def _local(source: str, options: dict[str, Any]) -> Policy:
    from sifthinker.policy.local import LocalPolicy

    return LocalPolicy.from_pretrained(source, **options)


def _remote(model: str, url: str, options: dict[str, Any]) -> Policy:
    try:
        from sifthinker.policy.remote import RemotePolicy
    except ImportError as error:
        raise PolicyLoadError("Asking a server needs httpx and tenacity: pip install 'sifthinker[remote]'.") from error
    return RemotePolicy(model, url, **options)


def _folders(name: str, options: dict[str, Any]) -> list[Path]:
    """The folders that a policy is made of: its own, its adapter's, its profile's, and the base of an adapter."""
    named = [name, *(options.get(option) for option in ("adapter", "profile"))]
    folders = [EMBEDDED if one == "embedded" else expanded(one) for one in named if isinstance(one, str | Path)]
    for folder in list(folders):
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # then it names none that is here
            base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
            folders.append(EMBEDDED if base == "embedded" else Path(base))
    return folders


def _changed_at(folder: Path) -> int:
    """When a folder's files last changed: a policy that was trained further is loaded anew."""
    newest = 0
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):  # one may be taking another's place
                newest = max(newest, path.stat().st_mtime_ns if path.is_file() else 0)
    return newest
