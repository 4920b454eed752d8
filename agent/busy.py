"""Which conversations are being answered in this process: a second run on one of them would lose an input."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sifthinker.policy.errors import UsageError

Conversation = tuple[int, str, str]
"""Identity of the checkpointer, thread, namespace."""

_busy: set[Conversation] = set()
_lock = threading.Lock()


@contextmanager
def alone(conversation: Conversation) -> Iterator[None]:
    """Have a conversation for one run.

    Raises:
        UsageError: another run has it.
    """
    with _lock:
        if conversation in _busy:
            raise UsageError(
                f"The conversation {conversation[1]!r} is being answered: wait for it, or use another thread."
            )
        _busy.add(conversation)
    try:
        yield
    finally:
        with _lock:
            _busy.discard(conversation)


def is_busy(conversation: Conversation) -> bool:
    """Whether a run has it."""
    return conversation in _busy
