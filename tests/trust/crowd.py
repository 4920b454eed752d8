"""Many at once on one agent and one policy, and many questions one after another: no cross-talk, no growing memory."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image
from scripted import ScriptedPolicy, focus_lines
from trust.ledger import Piece, Row
from trust.server import FocusServer

from sifthinker.agent import create_focus_agent
from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.policy.load import load_policy
from sifthinker.policy.messages import Message
from sifthinker.policy.remote import RemotePolicy

AT_ONCE = 64
LEFT = (0.1, 0.2, 0.5, 0.6)


def coloured(number: int) -> Image.Image:
    """A picture that tells its number."""
    return Image.new("RGB", (96, 64), (number % 251, number // 251 % 251, 77))


def echo(messages: Sequence[Message]) -> str:
    """A policy's turn: it repeats the mark of the question and the number that the picture tells."""
    asked = max(index for index, turn in enumerate(messages) if "mark-" in turn.text and turn.role == "user")
    mark = messages[asked].text.rsplit("mark-", 1)[1].split("?")[0]
    red, green, _ = next(turn.images[0] for turn in messages if turn.images).getpixel((5, 5))
    spans = focus_lines(LEFT, answer=f"{mark} {red + 251 * green}")
    return spans[sum(turn.role == "assistant" for turn in messages[asked:])]


def _all_at_once(count: int, one: Callable[[int], str]) -> list[str]:
    """What `one` gives for each number, from 64 threads that begin at the same moment."""
    gate = threading.Barrier(min(AT_ONCE, count))

    def begun(number: int) -> str:
        if number < gate.parties:
            gate.wait(60)
        return one(number)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(begun, range(count)))


def _wrong(got: Sequence[str], expected: Sequence[str]) -> list[str]:
    pairs = zip(got, expected, strict=True)
    return [f"question {number}: {a!r} instead of {b!r}" for number, (a, b) in enumerate(pairs) if a != b]


def _agent() -> FocusAgent:
    return create_focus_agent(ScriptedPolicy(echo), depth="none", checkpointer=InMemorySaver())


def threads(number: int, count: int) -> Piece:
    count //= 2  # each asks twice
    agent = _agent()

    def one(number: int) -> str:
        first = agent.ask(f"mark-{number}?", image=coloured(number), thread_id=str(number)).answer
        return f"{first}, {agent.ask(f'mark-{number}b?', thread_id=str(number)).answer}"

    got = _all_at_once(count, one)
    return Piece(2 * count, _wrong(got, [f"{n} {n}, {n}b {n}" for n in range(count)]))


def tasks(number: int, count: int) -> Piece:
    agent = _agent()

    async def everyone() -> list[str]:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> str:
            async with slots:
                asked = agent.aask(f"mark-{number}?", image=coloured(number), thread_id=str(number))
                return (await asked).answer

        return list(await asyncio.gather(*map(one, range(count))))

    return Piece(count, _wrong(asyncio.run(everyone()), [f"{n} {n}" for n in range(count)]))


def served(number: int, count: int) -> Piece:
    server = FocusServer()
    policy = RemotePolicy("m", server.url, call_timeout=120, box_space="unit")
    agent = create_focus_agent(policy, depth="none")
    try:
        got = _all_at_once(count, lambda number: agent.ask(f"mark-{number}?", image=coloured(number)).answer)
    finally:
        policy.close()
        server.close()
    return Piece(count, _wrong(got, [str(number) for number in range(count)]))


def embedded(number: int, count: int) -> Piece:
    examples = Path(__file__).parents[2] / "examples" / "images"
    pictures = [Image.open(examples / name).convert("RGB") for name in ("blocks.png", "signs.png", "crowd.png")]
    colours, shapes = ("red", "yellow", "purple", "blue"), ("cube", "cylinder", "sphere")
    asked = [
        (picture, f"What color is the {shape}?" if index % 2 else f"Which is closer, the {colour} {shape} or the cube?")
        for index, colour in enumerate(colours)
        for shape in shapes
        for picture in pictures
    ]
    agent = create_focus_agent("embedded", mode="tools")
    policy = load_policy("embedded")
    some = [asked[(9 * number + index) % len(asked)] for index in range(9)]

    def one(number: int) -> str:
        picture, question = some[number % len(some)]
        return agent.ask(question, image=picture).trace_text

    alone = []
    for number in range(len(some)):
        policy.forget()  # type: ignore[attr-defined]
        alone.append(one(number))
    got = _all_at_once(count, one)
    return Piece(count, _wrong(got, [alone[number % len(some)] for number in range(count)]))


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _growth(count: int, one: Callable[[int], object], *, least: int) -> Piece:
    """How much the process grows over `count` questions, after a tenth of them, and `least`, to warm up."""
    for number in range(max(least, count // 10)):
        one(number)
    before = _resident()
    for number in range(count):
        one(number)
    grown = _resident() / before - 1
    peaks = {"MiB": round(before / 2**20), "grown by, %": round(max(0.0, 100 * grown), 1)}
    return Piece(count, [] if grown < 0.05 else [f"memory grew: {peaks}"], peaks=peaks)


def memory(number: int, count: int) -> Piece:
    agent = create_focus_agent(ScriptedPolicy(echo), depth="none")
    pictures = [coloured(number).resize((640, 480)) for number in range(50)]

    def one(number: int) -> None:
        agent.context.policy.heard.clear()  # type: ignore[attr-defined]
        agent.context.policy.limits.clear()  # type: ignore[attr-defined]
        agent.ask(f"mark-{number}?", image=pictures[number % len(pictures)])

    return _growth(count, one, least=2 * len(pictures))


def memory_embedded(number: int, count: int) -> Piece:
    examples = Path(__file__).parents[2] / "examples" / "images"
    pictures = [Image.open(examples / name).convert("RGB") for name in ("blocks.png", "signs.png", "crowd.png")]
    agent = create_focus_agent("embedded", mode="tools")
    words = ("red", "yellow", "purple", "blue", "green")

    def one(number: int) -> None:
        question = f"What shape is the {words[number % len(words)]} object?"
        agent.ask(question, image=pictures[number % len(pictures)])

    return _growth(count, one, least=20)


def rows() -> list[Row]:
    """The checks, with the counts of the long run."""
    mine, shared = "every question gets its own mark and picture back", "whose turns share forward passes"
    grows, less = "Memory over the questions", "grows by less than 5 %"
    checks = [
        ("threads", f"64 threads on one agent: {mine}, also on the second question", 2000, 500, threads),
        ("tasks", f"64 tasks on one agent: {mine}", 1000, 250, tasks),
        ("served", "64 threads on one server policy: every question gets its own mark back", 500, 125, served),
        ("embedded", f"64 threads on the embedded policy, {shared}: each says what it says alone", 256, 64, embedded),
        ("memory", f"{grows} of a scripted policy about 50 pictures {less}", 5000, 5000, memory),
        ("memory_embedded", f"{grows} of the embedded policy {less}", 500, 500, memory_embedded),
    ]  # fmt: skip
    return [Row("crowd", name, title, "questions", total, size, run) for name, title, total, size, run in checks]
