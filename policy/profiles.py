"""The profile of a policy: what its folder declares, else what is known of its family, else declared defaults.

A box space is never guessed from what a model says. Where nothing is known the profile says UNIT, which the model is
told in its prompt, and its `notes` tell the user how to declare another.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import PolicyLoadError, UsageError

PROFILE_FILE = "sifthinker.json"
"""Where a policy's folder says how to speak with it."""

FAMILY_SPACES: dict[str, BoxSpace] = {
    "qwen2_vl": BoxSpace.PERMILLE,
    "qwen2_5_vl": BoxSpace.RESIZED,
    "qwen3_vl": BoxSpace.PERMILLE,
    "qwen3_vl_moe": BoxSpace.PERMILLE,
    "qwen3_5": BoxSpace.PERMILLE,
    "qwen3_5_moe": BoxSpace.PERMILLE,
    "internvl": BoxSpace.PERMILLE,
}
"""The space in which a family was trained to write boxes, by transformers' model_type."""

# How hosted models are named: the first pattern found in the name gives the family.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"qwen[-_]?3[-_.]?5", "qwen3_5"),
    (r"qwen[-_]?3[-_.]?vl", "qwen3_vl"),
    (r"qwen[-_]?2[-_.]5[-_.]?vl", "qwen2_5_vl"),
    (r"qwen[-_]?2[-_.]?vl", "qwen2_vl"),
    (r"intern[-_]?vl", "internvl"),
)
_SHOWN = {"depth_px": 518, "crop_min_px": 512}
"""What a model as it comes is shown. A depth picture has no more in it than the network that makes it sees, 518 pixels,
and would cost as much as the photograph; a crop of a few pixels is enlarged, or a look closer would show no more."""
# Qwen2.5-VL as published: patches of 14, merged 2 x 2, images from 4 to 16,384 tokens.
_RESIZES = {"qwen2_5_vl": {"vision_patch_px": 28, "min_image_pixels": 4 * 28 * 28, "max_image_pixels": 16384 * 28 * 28}}
_SERVED = {"qwen2_5_vl": {"rgb_px": 1792}}
"""What is declared besides of a model behind a server, whose processor cannot be asked. Boxes of Qwen2.5-VL are told in
pixels of the picture that the server makes: within 4,096 tokens (llama.cpp's bound; 64 x 64 of 28 pixels) all make the
same."""


def family_of_name(model: str) -> str:
    """The family that a hosted model's name tells, or "unknown"."""
    return next((family for pattern, family in _NAMES if re.search(pattern, model.lower())), "unknown")


def profile_of_family(name: str, family: str, **declared: Any) -> PolicyProfile:
    """The profile of a model of a known or unknown family.

    Args:
        name: what results call it.
        family: transformers' model_type, or what `family_of_name` gave.
        declared: fields of `PolicyProfile` that the caller declares; they win.

    Raises:
        UsageError: a field that does not exist or a value that cannot be.
    """
    fields: dict[str, Any] = {"name": name, "family": family, **_SHOWN, **_RESIZES.get(family, {})}
    if family in FAMILY_SPACES:
        fields["box_space"] = FAMILY_SPACES[family]
    elif "box_space" not in declared:
        spaces = ", ".join(space.value for space in BoxSpace)
        fields["notes"] = (
            f"It is not known in which space {name} writes boxes; it is asked for 0 to 1. If it was trained on "
            f"another, declare it: box_space=… ({spaces}), as an option of load_policy or in {PROFILE_FILE}.",
        )
    return checked_profile({**fields, **declared}, source="the options of load_policy")


def profile_of_folder(folder: Path, **declared: Any) -> PolicyProfile | None:
    """The profile that a folder declares in `sifthinker.json`, or None when it has none.

    Raises:
        PolicyLoadError: the file is not a profile.
    """
    path = folder / PROFILE_FILE
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PolicyLoadError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise PolicyLoadError(f"{path} should hold one JSON object with the fields of a policy's profile.")
    try:
        return checked_profile({"name": folder.resolve().name, **fields, **declared}, source=str(path))
    except UsageError as error:
        raise PolicyLoadError(str(error)) from error


def write_profile(folder: Path, profile: PolicyProfile) -> None:
    """Write what `profile_of_folder` reads: name, dialect and box space in any case, else what is not the default.

    Raises:
        OSError: the folder cannot be written.
    """
    said = profile.model_dump(mode="json", exclude_defaults=True)
    said = {"name": profile.name, "dialect": profile.dialect, "box_space": profile.box_space.value, **said}
    (folder / PROFILE_FILE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def profile_of_server(
    model: str, name: str | None, given: PolicyProfile | str | Path | None, declared: dict[str, Any]
) -> PolicyProfile:
    """The profile of a served model: a given one, the one of a folder, else what its name tells.

    Args:
        model: the server's name for it.
        name: what results call it; None: the model's name.
        given: a profile, or a folder with one.
        declared: fields that win.

    Raises:
        PolicyLoadError: the folder has no profile. UsageError: a field that does not exist.
    """
    if given is None:
        family = family_of_name(model)
        return profile_of_family(name or model, family, **{**_SERVED.get(family, {}), **declared})
    found = given if isinstance(given, PolicyProfile) else profile_of_folder(Path(given))
    if found is None:
        raise PolicyLoadError(f"The folder {given} holds no {PROFILE_FILE}.")
    fields = {**found.model_dump(), "name": name or model, **declared}
    return checked_profile(fields, source="the options of load_policy")


def with_known_resize(profile: PolicyProfile) -> PolicyProfile:
    """The profile, once it is sure that boxes in pixels of the resized image can be told.

    Raises:
        UsageError: the boxes are in that space, and nothing says how the processor resizes.
    """
    if profile.box_space is BoxSpace.RESIZED and profile.vision_patch_px is None:
        raise UsageError(
            f"{profile.name} writes boxes in pixels after its processor's resize, which is not declared: declare "
            "vision_patch_px=…, min_image_pixels=… and max_image_pixels=… (28, 3136 and 12845056 for Qwen2.5-VL)."
        )
    return profile


def checked_profile(fields: dict[str, Any], *, source: str) -> PolicyProfile:
    """A profile of these fields.

    Raises:
        UsageError: naming the first field that is wrong and where it stood.
    """
    try:
        return PolicyProfile(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = ", ".join(PolicyProfile.model_fields)
        what = f"has no field {place!r} (it has {known})" if first["type"] == "extra_forbidden" else first["msg"]
        raise UsageError(f"Profile field {place!r} in {source}: the profile {what}.") from error
