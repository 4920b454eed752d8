"""`load_policy`: one name for every kind of policy."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from sifthinker.policy.base import Policy
from sifthinker.policy.errors import PolicyLoadError, UsageError

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

_loaded: dict[str, tuple[int, Policy]] = {}  # with when the folder had changed last
_lock = threading.Lock()


def load_policy(name: str, **options: Any) -> Policy:
    """The policy of a name. Loaded once for each name and options; asking again gives the same object.

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
    changed = _changed_at(name)
    with _lock:
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
    folder = Path(name).expanduser()
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


def _changed_at(name: str) -> int:
    """When the folder's files last changed: a policy that was trained further is loaded anew."""
    folder = EMBEDDED if name == "embedded" else Path(name).expanduser()
    if not folder.is_dir():
        return 0
    return max((path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()), default=0)
