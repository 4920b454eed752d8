"""An adapter put into the weights it was trained on, or several runs into their mean: what plain transformers loads.

    sifthinker merge runs/qwen3-vl-4b --out my-policy
    sifthinker merge runs/seed0 runs/seed1 runs/seed2 --out my-policy        # the mean of their weights

The folder appears whole: weights as safetensors, processor, `sifthinker.json` (how to speak with it), `training.json`
(the record of the run) and the model card written from that. What a killed process left is removed by the next one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import PolicyLoadError, UsageError
from sifthinker.policy.files import beside, expanded
from sifthinker.policy.profiles import PROFILE_FILE, write_profile
from sifthinker.training import checkpoints
from sifthinker.training.card import TRAINING_FILE, write_card
from sifthinker.training.folders import locked, saving

CARD = "README.md"
DTYPES = ("bfloat16", "float16", "float32")


def merge(
    source: str | Path,
    out: Path,
    *,
    others: Sequence[str | Path] = (),
    dtype: str | None = None,
    name: str | None = None,
    scores: Path | None = None,
    base: str | None = None,
    shard: str = "5GB",
) -> Path:
    """Write the whole model of an adapter, or of a policy that has no adapter, into a folder.

    Args:
        source: a run's folder, its `policy` folder, a checkpoint, or an adapter with a `sifthinker.json`.
        out: the folder to write; it must be empty or not there.
        others: further runs from the same start, with other seeds say: what is written is the mean of all their weights
            (a model soup, Wortsman et al. 2022), in which the noise of single runs is less. It asks no more than one of
            them; whether it is better must be measured.
        dtype: of the weights written; by default the base model's own.
        name: of the policy; by default the folder's.
        scores: what `sifthinker train score --json` wrote, for the card.
        base: where the adapter's base model lies now, if not where the adapter says.
        shard: largest file of weights.

    Returns:
        `out`.

    Raises:
        UsageError: there is something in `out`, no policy at `source`, another process merges into `out`, or the models
            to be averaged have other shapes or are asked in other ways.
        PolicyLoadError: the base cannot be had. DataError: `out` cannot be written.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"Expected --dtype {', '.join(DTYPES)}, got {dtype!r}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already and not empty: name another folder with --out.")
    folder, *further = [policy_folder(expanded(one)) for one in (source, *others)]
    model, processor, found = _loaded(folder, dtype=dtype, base=base)
    profile = _shipped(found, folder, name or out.name)
    if further:
        _average(model, found, further, dtype=dtype, base=base)
    merged = _told([folder, *further], model)
    # a training from scratch tells of itself in its card alone
    own_card = merged is None and not (folder / TRAINING_FILE).is_file() and (folder / CARD).is_file()
    if own_card and scores is not None:
        raise UsageError(f"{folder} has a card and no record to write another from: leave --scores out.")
    staging = out.with_name(f".{out.name}.merging")
    with saving(out), locked(staging, doing="merging"):
        try:
            part = beside(staging / out.name)
            part.mkdir()
            model.save_pretrained(part, max_shard_size=shard)
            processor.save_pretrained(part)
            write_profile(part, profile)
            if (folder / TRAINING_FILE).is_file():
                shutil.copyfile(folder / TRAINING_FILE, part / TRAINING_FILE)
            if own_card:
                shutil.copyfile(folder / CARD, part / CARD)
            else:
                write_card(part, profile.name, scores=scores, merged=merged)
            if out.exists():
                out.rmdir()
            os.replace(part, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return out


def policy_folder(source: Path) -> Path:
    """The folder with the weights of a run, a policy or a checkpoint.

    Raises:
        UsageError: there is none.
    """
    if not source.is_dir():
        raise UsageError(f"There is no folder {source}: name a run's folder or an adapter's.")
    last = checkpoints.latest(source / "checkpoints")
    for folder in (source, source / "policy", *([last] if last else [])):
        if any((folder / config).is_file() for config in ("adapter_config.json", "config.json")):
            return folder
    raise UsageError(f"{source} holds no policy yet: a run writes its first checkpoint after some steps.")


def _loaded(folder: Path, *, dtype: str | None, base: str | None) -> tuple[Any, Any, PolicyProfile]:
    from sifthinker.policy.weights import load_weights

    common: dict[str, Any] = {
        "name": None, "device": "cpu", "dtype": dtype or "auto", "attn": None, "quantization": None, "revision": None,
        "trust_remote_code": False, "declared": {},
    }  # fmt: skip
    if not (base and _is_adapter(folder)):
        return load_weights(str(folder), adapter=None, **common)
    from sifthinker.policy.profiles import profile_of_folder

    model, processor, profile = load_weights(base, adapter=str(folder), **common)
    return model, processor, profile_of_folder(folder) or profile


def _average(
    model: Any, profile: PolicyProfile, others: Sequence[Path], *, dtype: str | None, base: str | None
) -> None:
    """Put into a model the mean of its weights and those of the others, summed in float32.

    Raises:
        UsageError: one has other shapes, or is asked in another way.
    """
    import torch

    weights: dict[str, torch.Tensor] = model.state_dict()
    sums = {name: tensor.float() for name, tensor in weights.items() if tensor.is_floating_point()}
    for folder in others:
        other, _, asked = _loaded(folder, dtype=dtype, base=base)
        found = other.state_dict()
        if {name: tensor.shape for name, tensor in found.items()} != {n: t.shape for n, t in weights.items()}:
            raise UsageError(f"The weights of {folder} have other shapes: only runs from one start can be averaged.")
        if asked.model_copy(update={"name": profile.name}) != profile:
            raise UsageError(f"{folder} is asked in another way than the first ({PROFILE_FILE} differs).")
        for name, total in sums.items():
            sums[name] = total + found[name].float()
    with torch.no_grad():
        for name, total in sums.items():
            weights[name].copy_(total / (1 + len(others)))


def _told(folders: Sequence[Path], model: Any) -> str | None:
    """What was done to the weights, for the card; None where nothing was."""
    parts = []
    if any(map(_is_adapter, folders)):
        parts.append(f"Its adapter was merged into weights of {_dtype_of(model)}.")
    if len(folders) > 1:
        seeds = [_seed_of(folder) for folder in folders]
        of = f", of the seeds {', '.join(map(str, seeds))}" if None not in seeds else ""
        parts.append(f"The weights are the mean of those of {len(folders)} runs{of}; what follows tells of the first.")
    return " ".join(parts) or None


def _seed_of(folder: Path) -> int | None:
    try:
        seed = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))["recipe"]["seed"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return seed if isinstance(seed, int) else None


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _shipped(profile: PolicyProfile, folder: Path, name: str) -> PolicyProfile:
    """The profile of what is shipped: trained on traces, so it speaks them, its boxes shares of the image."""
    if not (folder / PROFILE_FILE).is_file():
        raise PolicyLoadError(
            f"{folder} has no {PROFILE_FILE}, so it is not known whether it speaks traces: add one that says "
            f'{{"name": "{name}", "dialect": "sif", "box_space": "{BoxSpace.UNIT.value}"}} if it was trained on them.'
        )
    return profile.model_copy(update={"name": name})


def _dtype_of(model: Any) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
