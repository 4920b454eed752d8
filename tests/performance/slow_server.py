"""A server in a process of its own that takes calls at leisure: it waits instead of computing, so that what is lost is
lost by the client, and shares no interpreter with it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import LoopbackServer
from performance.measure import ROOT, TESTS


class SlowServer:
    """The server, seen from the process that asks it.

    Attributes:
        url: where it listens.
        most: calls under way at once, at most; known once it has ended.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.most = 0


@contextmanager
def slow_server(text: str, *, pieces: int, pause: float) -> Iterator[SlowServer]:
    """A server that streams this text to whoever asks, in so many pieces, each after so many seconds."""
    code = (
        f"import sys; sys.path[:0] = [{str(TESTS)!r}]; from performance.slow_server import serve; "
        f"serve({text!r}, {pieces}, {pause})"
    )
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        server = SlowServer(child.stdout.readline().strip())
        yield server
        child.stdin.close()
        server.most = int(child.stdout.readline())
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()


def serve(text: str, pieces: int, pause: float) -> None:
    """Say where it listens, serve until the standard input is closed, and say how many calls were under way at once."""
    width = -(-len(text) // pieces)
    service = _Service([text[start : start + width] for start in range(0, len(text), width)], pause)
    server = LoopbackServer(service.answer, protocol="HTTP/1.1")
    print(server.url, flush=True)
    sys.stdin.read()
    server.close()
    print(service.most, flush=True)


class _Service:
    """Streams the pieces, and counts the calls under way: one ends as its last piece is about to be sent."""

    def __init__(self, pieces: list[str], pause: float) -> None:
        self._pieces = pieces
        self._pause = pause
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def answer(self, handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        self._count(1)
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        *first, last = [_event({"delta": {"content": piece}}) for piece in self._pieces]
        for event in first:
            time.sleep(self._pause)
            handler.wfile.write(event)
        time.sleep(self._pause)
        self._count(-1)
        # In one write: a second small one would wait for the client to acknowledge the first.
        handler.wfile.write(last + _event({"delta": {}, "finish_reason": "stop"}) + b"data: [DONE]\n\n")

    def _count(self, change: int) -> None:
        with self._lock:
            self._now += change
            self.most = max(self.most, self._now)


def _event(choice: dict[str, Any]) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode()
