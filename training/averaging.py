"""The mean of several checkpoints of one run: what the steps' noise moved to and fro cancels, what they learnt stays.

After "Averaging Weights Leads to Wider Optima and Better Generalization" (Izmailov et al., arXiv 1803.05407), over the
checkpoints that a run keeps anyway: no state of its own that a killed run could lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sifthinker.policy.errors import DataError

if TYPE_CHECKING:
    import torch

WEIGHTS = "*.safetensors"


def average_weights(checkpoints: Sequence[Path], into: Path) -> None:
    """Put the mean of the checkpoints' weights into a folder, file by file; sums are of float32.

    Args:
        checkpoints: folders with the same files of weights (an adapter's, a model's, or its shards), the last first.
        into: a folder that holds the files of one of them; each is replaced.

    Raises:
        DataError: one has other weights, or its file is damaged.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    for path in sorted(into.glob(WEIGHTS)):
        sums: dict[str, torch.Tensor] = {}
        kinds: dict[str, torch.dtype] = {}
        told: dict[str, str] | None = None
        for number, folder in enumerate(checkpoints):
            try:
                with safe_open(folder / path.name, "pt") as file:
                    names = set(file.keys())
                    told = file.metadata() if number == 0 else told
                    if number and names != set(sums):
                        raise DataError(f"{folder / path.name} holds other weights than {checkpoints[0].name}'s.")
                    for name in sorted(names):
                        tensor = file.get_tensor(name)
                        if number == 0:
                            kinds[name] = tensor.dtype
                            sums[name] = tensor.float()
                        else:
                            sums[name] += tensor.float()
            except (OSError, SafetensorError, RuntimeError) as error:
                raise DataError(f"{folder / path.name} cannot be averaged with the others: {error}") from error
        mean = {name: (total / len(checkpoints)).to(kinds[name]).contiguous() for name, total in sums.items()}
        save_file(mean, path, metadata=told)
