"""The packed computation compiled: its many small steps between two matrix products become one pass over memory each.

On a CPU most of the time of a model this narrow goes into those steps. What is computed is the same.
"""

from __future__ import annotations

import logging

import torch
from torch._dynamo import config as dynamo

from sifthinker.training.scratch.packing import PLAIN, Blocks

log = logging.getLogger(__name__)
KINDS = 64
"""Versions of a function that may be compiled: with and without a prefix, for one row and for several, …"""


def compiled_blocks() -> Blocks:
    """The blocks compiled by torch, or as they stand where this machine has nothing to compile with (told in the log).

    Compiling takes about two minutes of the first step; torch keeps what it has compiled on disk for the next run.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(
        logging.ERROR
    )  # it would tell of each GPU that is not there
    try:
        torch.compile(_probe)(torch.ones(8, requires_grad=True)).sum().backward()
    except (RuntimeError, ImportError, OSError) as error:
        log.warning(
            "Training goes on uncompiled, which takes half as long again: torch found no working C++ compiler and "
            "Python headers here (%s).",
            str(error).strip().split("\n", 1)[0][:200],
        )
        return PLAIN
    dynamo.recompile_limit = max(KINDS, dynamo.recompile_limit)
    return Blocks(torch.compile(PLAIN.text, dynamic=True), torch.compile(PLAIN.vision, dynamic=True))


def _probe(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x * 2, 0).exp()
