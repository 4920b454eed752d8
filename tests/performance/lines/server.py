"""A server that takes eight calls at once, each a quarter of a second long: how busy does the client keep it?

The server is a process of its own on loopback and waits instead of computing, so that what is lost is lost by the
client. Held against the least time in which so many calls can be had: their number times what a lone call takes, over
eight.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from performance.figures import Figure
from performance.slow_server import slow_server
from performance.worlds import ANSWER, photo

from sifthinker.agent import create_focus_agent
from sifthinker.policy.messages import ImagePart, message
from sifthinker.policy.remote import RemotePolicy

AT_ONCE, CALLS, PIECES = 8, 64, 5
PIECE_SECONDS = 0.05


def figures(repeat: int, *, calls: int = CALLS) -> Iterator[Figure]:
    """See `performance.command.LINES`."""
    image = photo((320, 240))
    conversation = [message("user", ImagePart(image), "What colour?")]
    work: list[float] = []  # milliseconds of processor time a question

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

    with slow_server(ANSWER, pieces=PIECES, pause=PIECE_SECONDS) as server:
        policy = RemotePolicy("stub", server.url, max_concurrent=AT_ONCE, dialect="sif", box_space="unit")
        agent = create_focus_agent(policy, depth="none", mode="direct")
        try:
            lone()
            graphs()
            work.clear()
            found = [(lone(), batch(), graphs()) for _ in range(repeat)]
        finally:
            policy.close()
    note = (
        f"{calls} calls of {sorted(row[0] for row in found)[repeat // 2]:.2f} s; at most {server.most} were under way"
    )
    yield _busy("`generate_batch`", [(row[0], row[1]) for row in found], calls, note)
    note = f"{note}; {sorted(work)[repeat // 2]:.1f} ms of processor time a question"
    yield _busy(f"{2 * AT_ONCE} graph runs at once", [(row[0], row[2]) for row in found], calls, note)
    yield Figure("calls under way at once, at most", [server.most], f"the {AT_ONCE} allowed", "calls", at_most=AT_ONCE)


def _busy(name: str, found: list[tuple[float, float]], calls: int, note: str) -> Figure:
    shares: list[Any] = [100 * calls * lone / AT_ONCE / whole for lone, whole in found]
    return Figure(f"{name}: server busy", shares, "all places taken all the time", "%", at_least=90, note=note)
