"""A checkpoint's weights, back in the model that is trained.

transformers saves some models under other names than they have in memory (Qwen2.5-VL's `model.language_model.layers` as
`model.layers`), and its trainer reads them back by the names as they stand and passes over what does not fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sifthinker.policy.errors import DataError
from sifthinker.training import checkpoints


def restore(model: Any, checkpoint: Path) -> None:
    """Give a model without an adapter the weights of a checkpoint, bit for bit, read as `from_pretrained` reads them.

    Raises:
        DataError: they cannot be read, or are not all of this model's and no others.
    """
    try:
        saved, told = type(model).from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    except (*checkpoints.TORN, SafetensorError) as error:
        raise DataError(
            f"{checkpoint} cannot be read ({' '.join(str(error).split())}): remove it to go on from the one before."
        ) from error
    wrong = [f"{name} is {how}" for how in ("missing", "unexpected") for name in sorted(told[f"{how}_keys"])]
    if wrong:
        raise DataError(
            f"{checkpoint} does not hold this model's weights ({wrong[0]}, {len(wrong)} such in all): remove it to go "
            "on from the one before."
        )
    model.load_state_dict(saved.state_dict())
