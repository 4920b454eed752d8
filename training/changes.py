"""A recipe's fields set anew from the command line: --set FIELD=VALUE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from sifthinker.policy.errors import UsageError


def changed(settings: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A recipe's settings with some set anew: "lr=1e-5", "machines.processes=2", "lora=null".

    Raises:
        UsageError: a change without "=", or inside something that has no fields.
    """
    settings = dict(settings)
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not key:
            raise UsageError(f"Expected --set FIELD=VALUE, got {change!r}.")
        *path, last = key.strip().split(".")
        place = settings
        for step in path:
            inner = place.get(step)
            if inner is not None and not isinstance(inner, dict):
                raise UsageError(f"--set {change}: {step} has no fields.")
            place[step] = dict(inner or {})
            place = place[step]
        try:
            place[last] = _value(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {change}: the value is not YAML.") from error
    return settings


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML takes 1e-5 for a word
        try:
            return float(value)
        except ValueError:
            return value
    return value
