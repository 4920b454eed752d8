"""Stop strings found in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Cuts a growing text after the first stop string in it. Each character is looked at a bounded number of times.

    Args:
        stop: the strings; of several that end at the same place the longest counts.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(string for string in stop if string)
        self._longest = max((len(string) for string in self._stop), default=0)
        self._tail = ""  # as much of the end of the text as a stop string could begin in
        self.hit: str | None = None
        """The stop string that was found: the text ends with it."""

    def feed(self, piece: str) -> str:
        """As much of the next piece as belongs to the text: all of it, or what ends with the stop string."""
        if self.hit is not None or not piece:
            return ""
        window = self._tail + piece
        hits = [(window.index(string) + len(string), string) for string in self._stop if string in window]
        if hits:
            end, self.hit = min(hits, key=lambda found: (found[0], -len(found[1])))
            return window[len(self._tail) : end]
        self._tail = window[-(self._longest - 1) :] if self._longest > 1 else ""
        return piece
