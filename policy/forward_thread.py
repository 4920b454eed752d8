"""The thread in which a local policy's model runs for several who ask at once: one for each engine.

With the threads that ask taking turns at it, one that was interrupted in the middle of a pass took the turns of the
others with it.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from queue import SimpleQueue
from typing import Protocol

_PATIENCE = 10.0
"""Seconds for which the end of the interpreter waits for a forward pass: stopping it midway would crash."""


class Stepping(Protocol):
    """What such a thread drives."""

    def step(self) -> bool:
        """Do a piece of work, and say whether there may be more. Tells its callers of errors rather than raising."""
        ...


class ForwardThread:
    """Calls its owner's `step` whenever there is work. It begins with the first work, keeps neither its owner nor the
    interpreter alive, and begins anew in a forked child.

    Args:
        owner: driven, and known by a weak reference: the thread ends when it is gone.
    """

    def __init__(self, owner: Stepping) -> None:
        # A SimpleQueue may be written to from anywhere, the callback of a weak reference included.
        self._work: SimpleQueue[None] = SimpleQueue()
        work = self._work
        self._owner = weakref.ref(owner, lambda _: work.put(None))
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = False

    def wake(self) -> None:
        """There is work."""
        if self._thread is None or not self._thread.is_alive():  # none is alive in a forked child either
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._ending = False
                    self._thread = threading.Thread(target=self._run, name="sifthinker-forward", daemon=True)
                    self._thread.start()
                    _living.add(self)
        self._work.put(None)

    def end(self, patience: float) -> None:
        """End the thread after the step that it is at, waiting so many seconds at most."""
        self._ending = True
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(patience)

    def _run(self) -> None:
        while True:
            self._work.get()
            owner = self._owner()
            if owner is None or self._ending:
                return
            while owner.step() and not self._ending:
                pass
            del owner  # while it waits, its owner may go


_living: weakref.WeakSet[ForwardThread] = weakref.WeakSet()


def _end_all() -> None:
    for thread in list(_living):
        thread.end(_PATIENCE)


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_living.clear)
