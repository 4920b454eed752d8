"""The door for lmms-eval (0.7 or later): the focus agent as its model `sifthinker`.

lmms-eval finds `manifest` as an entry point of the group "lmms_eval.models", and imports `lmms_model.py` when the model
is named. Nothing of it is imported otherwise, and it is no dependency of this package.
"""

from __future__ import annotations

from typing import Any

MODEL = "sifthinker"
"""What `--model` calls it."""


def manifest() -> Any:
    """lmms-eval's `ModelManifest` of the focus agent: a chat model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL, chat_class_path="sifthinker.training.benchmarks.lmms_model.FocusModel")
