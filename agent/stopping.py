"""Ending a run at once: whoever waits for it need not wait for the policy to finish its turn."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Part = TypeVar("Part")

PATIENCE_S = 2.0
"""How long the end of a stopped run is waited for; it ends at its next token, or when its server's answer is due."""

_BLINK_S = 0.2  # not every platform lets an interruption through while waiting without end


@dataclass(frozen=True)
class _End:
    """The run has ended, with an error or without."""

    error: BaseException | None = None


def stoppable(work: Callable[[Callable[[Part], None]], None], stop: threading.Event) -> Iterator[Part]:
    """What `work` tells, which goes on in a thread of its own.

    When the reader is interrupted (Ctrl-C) or reads no further, `stop` is set, and the interruption is not held up by
    the call that is under way: a graph that runs in the reader's own thread would first wait for its node.

    Args:
        work: called with the function to tell each part with.
        stop: set at the end, for the work to look at.
    """
    arrived: queue.SimpleQueue[Part | _End] = queue.SimpleQueue()

    def run() -> None:
        try:
            work(arrived.put)
        except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
            arrived.put(_End(error))
        else:
            arrived.put(_End())

    worker = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="sifthinker-run", daemon=True)
    worker.start()
    try:
        while True:
            try:
                part = arrived.get(timeout=_BLINK_S)
            except queue.Empty:
                continue
            if not isinstance(part, _End):
                yield part
            elif part.error is not None:
                raise part.error
            else:
                return
    finally:
        stop.set()
        worker.join(PATIENCE_S)
