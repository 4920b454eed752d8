"""A server that takes eight calls at once, each a quarter of a second long: how busy does the client keep it?

The server runs on loopback and waits instead of computing, so that what is lost is lost by the client. Held against the
least time in which so many calls can be had: their number times what a lone call takes, over eight.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from types import ModuleType
from typing import Any

from performance.figures import Figure
from performance.measure import beside
from performance.worlds import ANSWER, photo

from sifthinker.agent import create_focus_agent
from sifthinker.policy.messages import ImagePart, message
from sifthinker.policy.remote import RemotePolicy

AT_ONCE, CALLS, PIECES = 8, 64, 5
PIECE_SECONDS = 0.05


def figures(repeat: int, *, calls: int = CALLS) -> Iterator[Figure]:
    """See `performance.command.LINES`."""
    stub = beside("policy/stub_server.py")
    service = _Service(stub)
    server = stub.StubServer(service)
    policy = RemotePolicy("stub", server.url, max_concurrent=AT_ONCE, dialect="sif", box_space="unit")
    try:
        image = photo((320, 240))
        conversation = [message("user", ImagePart(image), "What colour?")]
        agent = create_focus_agent(policy, depth="none", mode="direct")

        def lone() -> float:
            began = time.perf_counter()
            for _ in range(4):
                policy.generate(conversation)
            return (time.perf_counter() - began) / 4

        def batch() -> float:
            began = time.perf_counter()
            policy.generate_batch([conversation] * calls)
            return time.perf_counter() - began

        def graphs() -> float:
            began, own = time.perf_counter(), time.process_time()
            with ThreadPoolExecutor(2 * AT_ONCE) as pool:
                list(pool.map(lambda _: agent.ask("What colour?", image=image), range(calls)))
            work.append(1000 * (time.process_time() - own) / calls)
            return time.perf_counter() - began

        work: list[float] = []  # milliseconds a question
        lone()
        found = [(lone(), batch(), graphs()) for _ in range(repeat)]
        most = service.most
    finally:
        policy.close()
        server.close()
    note = f"{calls} calls of {sorted(row[0] for row in found)[repeat // 2]:.2f} s; at most {most} were under way"
    yield _busy("`generate_batch`", [(row[0], row[1]) for row in found], calls, note)
    note = f"{note}; {sorted(work)[repeat // 2]:.1f} ms of processor time a question, the server included"
    yield _busy(f"{2 * AT_ONCE} graph runs at once", [(row[0], row[2]) for row in found], calls, note)
    yield Figure("calls under way at once, at most", [most], f"the {AT_ONCE} allowed", "calls", at_most=AT_ONCE)


class _Service:
    """Streams an answer slowly, and counts the calls under way: one ends as its last piece is about to be sent."""

    def __init__(self, stub: ModuleType) -> None:
        self._stub = stub
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        self._count(1)
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        starts = range(0, len(ANSWER), len(ANSWER) // PIECES + 1)
        for start in starts:
            time.sleep(PIECE_SECONDS)
            if start == starts[-1]:
                self._count(-1)
            piece = ANSWER[start : start + starts.step]
            self._stub._event(handler, {"choices": [{"index": 0, "delta": {"content": piece}}]})
        self._stub._event(handler, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        handler.wfile.write(b"data: [DONE]\n\n")

    def _count(self, change: int) -> None:
        with self._lock:
            self._now += change
            self.most = max(self.most, self._now)


def _busy(name: str, found: list[tuple[float, float]], calls: int, note: str) -> Figure:
    shares: list[Any] = [100 * calls * lone / AT_ONCE / whole for lone, whole in found]
    return Figure(f"{name}: server busy", shares, "all places taken all the time", "%", at_least=90, note=note)
