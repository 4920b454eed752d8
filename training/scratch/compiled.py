"""The packed computation compiled: its many small steps between two matrix products become one pass over memory each.

On a CPU most of the time of a model this narrow goes into those steps. What is computed is the same.
"""

from __future__ import annotations

import logging
import struct
import time
from pathlib import Path

import torch
from torch._dynamo import config as dynamo
from torch._inductor.runtime.cache_dir_utils import cache_dir

from sifthinker.training.scratch.packing import PLAIN, Blocks

log = logging.getLogger(__name__)
KINDS = 64
"""Versions of a function that may be compiled: with and without a prefix, for one row and for several, …"""


def compiled_blocks() -> Blocks:
    """The blocks compiled by torch, or as they stand where this machine has nothing to compile with (told in the log).

    Compiling takes about two minutes of the first step; torch keeps what it has compiled on disk for the next run, also
    what a run was killed over: that is removed first.
    """
    # it would tell of each GPU that is not there
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    remove_torn(Path(cache_dir()))
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


def remove_torn(folder: Path, settled_s: float = 30.0) -> list[Path]:
    """Removes the libraries under `folder` that a killed compiler left unfinished, and returns them.

    torch has the compiler write them where it looks for them, and loads what it finds there: every later run would end
    with "file too short". One written to less than `settled_s` seconds ago may be in the making; it is waited for.
    """
    removed = []
    for path in sorted(folder.rglob("*.so")):
        try:
            while torn := is_torn(path):
                age = time.time() - path.stat().st_mtime
                if age >= settled_s or age < 0:
                    break
                time.sleep(min(1.0, settled_s - age))
            if torn:
                path.unlink()
                removed.append(path)
        except FileNotFoundError:
            continue  # another process of the run was first
        except OSError as error:
            log.warning("%s is cut short and cannot be removed (%s).", path, error.strerror)
    return removed


def is_torn(path: Path) -> bool:
    """Whether a library is empty, or ends before its table of sections, which linkers write last.

    The table is known of ELF (64 bits, little endian); of another format nothing is said.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
        size = path.stat().st_size
    except OSError:
        return False  # gone, or not ours to read
    if head[:6] != b"\x7fELF\x02\x01":
        return not any(head)
    if len(head) < 64:
        return True
    (start,), (width, count) = struct.unpack_from("<Q", head, 40), struct.unpack_from("<HH", head, 58)
    return start == 0 or start + width * count > size
