"""The next-token loss of a policy that says numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sifthinker.training.scratch.tokenizer import NUMBERS


class Losses:
    """Next-token loss with soft targets for numbers: being off by 0.01 is nearly right."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, sigma: float) -> None:
        self.ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(NUMBERS)))
        size = int(max(self.ids)) + 1
        self.place = torch.full((max(size, len(tokenizer) + 16),), -1)
        self.place[self.ids] = torch.arange(len(NUMBERS))
        gap = torch.arange(len(NUMBERS))[:, None] - torch.arange(len(NUMBERS))[None, :]
        self.soft = torch.softmax(-((gap / 100 / sigma) ** 2) / 2, dim=1)

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean loss of logits (T, V), and the loss of each token."""
        logits = logits.float()
        losses = F.cross_entropy(logits, targets, reduction="none")
        at = self.place[targets]
        number = (at >= 0).nonzero()[:, 0]
        if len(number):
            chosen = logits[number]
            logp = chosen[:, self.ids] - chosen.logsumexp(1, keepdim=True)
            soft = self.soft[at[number]]
            losses = losses.index_put((number,), divergence(logp, soft))
        return (losses * weights).sum() / weights.sum(), losses.detach()


def divergence(logp: Tensor, soft: Tensor) -> Tensor:
    """How far log-probabilities (…, N) are from the distributions that are to be told: 0 where they are the same."""
    return (soft * soft.clamp_min(1e-9).log()).sum(-1) - (soft * logp).sum(-1)
