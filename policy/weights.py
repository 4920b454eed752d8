"""Loading a checkpoint for a local policy: safetensors only, no code from elsewhere, and one sentence when it fails."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import PolicyLoadError, UsageError
from sifthinker.policy.load import EMBEDDED
from sifthinker.policy.profiles import checked_profile, profile_of_family, profile_of_folder, with_known_resize

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PROCESSORS = ("processor", "preprocessor")
_ADAPTER_WEIGHTS = "adapter_model.safetensors"


def load_weights(
    source: str,
    *,
    name: str | None,
    adapter: str | None,
    device: str | None,
    dtype: str | torch.dtype | None,
    attn: str | None,
    quantization: Any,
    revision: str | None,
    trust_remote_code: bool,
    declared: dict[str, Any],
) -> tuple[Any, Any, PolicyProfile]:
    """The model in eval mode, its processor, its profile. Arguments and errors: `LocalPolicy.from_pretrained`."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    checked_profile(
        {"name": name or source, **declared}, source="the options of load_policy"
    )  # before hours of download
    folder = Path(source)
    profile_folder = folder
    if _is_adapter(folder):
        adapter, source = source, _base_of(folder)
        folder = Path(source)
    if folder.is_dir():
        _refuse_pickles(folder, "model")
    else:
        try:
            _require_hub(source)
        except PolicyLoadError as error:
            if adapter is None or folder == profile_folder:
                raise
            raise PolicyLoadError(f"{adapter} is an adapter of {source}. {error}") from error
    device = device or _best_device()
    torch_dtype = _dtype(dtype, device)
    common = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    options: dict[str, Any] = {"dtype": torch_dtype, "use_safetensors": True}
    if attn:
        options["attn_implementation"] = attn
    if quantization is not None:
        options["quantization_config"] = quantization
    if device == "auto" or quantization is not None:
        options["device_map"] = "auto" if device == "auto" else device
    try:
        config = AutoConfig.from_pretrained(source, **common)
        if getattr(config, "is_encoder_decoder", False):
            raise PolicyLoadError(
                f"{source} is an encoder-decoder ({config.model_type}); a decoder-only model is needed."
            )
        processor = AutoProcessor.from_pretrained(_processor_of(adapter) or source, **common)
        model = AutoModelForImageTextToText.from_pretrained(source, config=config, **common, **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise PolicyLoadError(_why(source, folder, error)) from error
    _check_processor(source, processor)
    if adapter is not None:
        model = _with_adapter(model, adapter, quantized=quantization is not None)
    if "device_map" not in options:
        model = model.to(device)
    profile = profile_of_folder(profile_folder, **declared) if profile_folder.is_dir() else None
    if profile is None:
        profile = profile_of_family(name or source, config.model_type, **declared)
    elif name:
        profile = profile.model_copy(update={"name": name})
    return model.eval(), processor, with_known_resize(_with_resize(profile, processor, declared))


def _require_hub(source: str) -> None:
    """Fail at once where the hub cannot be reached: its client tries again and again for over a minute."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError as error:
        raise PolicyLoadError(f"There is no folder {source}, and no model of the hub has such a name.") from error
    cached = isinstance(try_to_load_from_cache(source, "config.json"), str)
    if cached or constants.HF_HUB_OFFLINE or any(getproxies().get(kind) for kind in ("https", "all")):
        return
    hub = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), timeout=10.0).close()
    except OSError as error:
        raise PolicyLoadError(
            f"{source} is not on this machine, and the hub at {hub.hostname} cannot be reached ({error}): name a local "
            "folder, or try again with a network."
        ) from error


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: str | torch.dtype | None, device: str) -> Any:
    if dtype is None:
        return torch.float32 if device == "cpu" else "auto"
    if isinstance(dtype, str) and dtype != "auto":
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype):
            raise UsageError(f"Expected a torch dtype such as float32 or bfloat16, got {dtype!r}.")
        return found
    return dtype


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _processor_of(adapter: str | None) -> str | None:
    """The adapter's folder where it brings a processor of its own: images are then prepared as it was trained."""
    if adapter is None or not any((Path(adapter) / f"{kind}_config.json").is_file() for kind in _PROCESSORS):
        return None
    return adapter


def _base_of(folder: Path) -> str:
    """The base model that an adapter's folder names; "embedded" is the policy that comes with the package."""
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PolicyLoadError(f"{folder} holds an adapter whose adapter_config.json names no base model.") from error
    return str(EMBEDDED) if base == "embedded" else str(base)


def _with_adapter(model: Any, adapter: str, *, quantized: bool) -> Any:
    """The model with a peft adapter, merged into its weights where they are not quantised."""
    try:
        from peft import PeftModel
        from safetensors import SafetensorError
    except ImportError as error:
        raise PolicyLoadError("Loading an adapter needs peft: pip install 'sifthinker[train]'.") from error
    _require_safe_adapter(adapter)
    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise PolicyLoadError(f"The adapter at {adapter} could not be put on the model: {_first(error)}") from error
    return adapted.get_base_model() if quantized else adapted.merge_and_unload()


def _require_safe_adapter(adapter: str) -> None:
    """Refuse an adapter without safetensors: peft would open its pickle, wherever it is."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if Path(adapter).is_dir():
        _refuse_pickles(Path(adapter), "adapter_model", wanted=_ADAPTER_WEIGHTS)
        return
    try:
        hf_hub_download(adapter, _ADAPTER_WEIGHTS)
    except LocalEntryNotFoundError as error:
        raise PolicyLoadError(
            f"The adapter {adapter} is not on this machine, and the hub cannot be reached."
        ) from error
    except EntryNotFoundError as error:
        raise PolicyLoadError(
            f"The adapter {adapter} has no safetensors weights; pickled ones are not opened because they can run code."
        ) from error
    except (OSError, ValueError) as error:
        raise PolicyLoadError(f"The adapter {adapter} could not be loaded from the hub: {_first(error)}") from error


def _refuse_pickles(folder: Path, stem: str, *, wanted: str = "*.safetensors") -> None:
    """Refuse a folder whose weights would have to be unpickled: opening a pickle can run any code."""
    if any(folder.glob(wanted)):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise PolicyLoadError(
            f"{folder} holds its weights as {pickled[0]}, a pickle that can run code when it is opened: save them as "
            f"{stem}.safetensors (save_pretrained does) and try again."
        )


def _check_processor(source: str, processor: Any) -> None:
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not getattr(processor, "image_token", None):
        raise PolicyLoadError(f"{source} has no processor for text and images ({type(processor).__name__}).")
    if not (getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)):
        raise PolicyLoadError(f"{source} has no chat template: only models trained for conversation can be asked.")
    if not getattr(processor, "chat_template", None):
        processor.chat_template = tokenizer.chat_template


def _with_resize(profile: PolicyProfile, processor: Any, declared: dict[str, Any]) -> PolicyProfile:
    """The profile with how the processor itself resizes, where boxes are told in its pixels."""
    if profile.box_space is not BoxSpace.RESIZED:
        return profile
    images = processor.image_processor
    size = getattr(images, "size", {})
    found = {
        "vision_patch_px": getattr(images, "patch_size", 0) * getattr(images, "merge_size", 0) or None,
        "min_image_pixels": size.get("shortest_edge"),
        "max_image_pixels": size.get("longest_edge"),
    }
    return profile.model_copy(update={key: value for key, value in found.items() if value and key not in declared})


def _why(source: str, folder: Path, error: Exception) -> str:
    """One sentence for what transformers raised."""
    text = str(error)
    if "trust_remote_code" in text:
        return f"{source} needs code of its own, which is not run unless you say trust_remote_code=True."
    if folder.is_dir():
        return f"The folder {source} could not be loaded as an image-text-to-text model: {_first(error)}"
    if "safetensors" in text and "does not appear to have a file" in text:
        return f"{source} has no safetensors weights; pickled ones are not opened because they can run code."
    if isinstance(error, ImportError):
        return f"{source} needs a package that is not installed: {_first(error)}"
    return (
        f"{source} could not be loaded from the hub: is the name right, the network there, and the model public or "
        f"your token set? ({_first(error)})"
    )


def _first(error: Exception) -> str:
    """The first line of a message, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
