"""Sixteen questions about sixteen scenes on the embedded policy: at once, and one after another.

The simple version is a loop. Both begin with an empty prefix cache and with the depth of each scene known, as after a
first look; the prefix cache is what makes the turns of one question cheap in either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from performance.figures import Figure
from performance.measure import rounds
from performance.worlds import Asked, block_questions, embedded

from sifthinker.agent import FocusAgent, create_focus_agent
from sifthinker.policy import prompts
from sifthinker.policy.local import LocalPolicy

QUESTIONS = 16
LOOP = "one after another"


def figures(repeat: int, *, count: int = QUESTIONS) -> Iterator[Figure]:
    """See `performance.command.LINES`."""
    policy, asked = embedded(max_batch=count), block_questions(count)
    repeat = (repeat + 1) // 2  # each takes half a minute
    for mode in ("internal", "tools"):
        agent = create_focus_agent(policy, mode=mode)
        found = rounds(
            repeat, lambda agent=agent: at_once(policy, agent, asked), lambda agent=agent: in_turn(policy, agent, asked)
        )
        same = [sum(a == b for a, b in zip(row[0][0], row[1][0], strict=True)) for row in found]
        seconds, work = ([sorted(row[way][at] for row in found)[len(found) // 2] for way in (0, 1)] for at in (1, 2))
        yield Figure(
            f"{count} concurrent graph runs, mode {mode}: throughput",
            [row[1][1] / row[0][1] for row in found],
            LOOP,
            at_least=3,
            note=f"{seconds[0]:.2f} and {seconds[1]:.2f} s; of processor time {work[0]:.2f} and {work[1]:.2f} s, "
            f"{work[1] / work[0]:.2f} ×",
        )
        yield Figure(f"{count} concurrent graph runs, mode {mode}: same answers", same, LOOP, f"of {count}", count)
    batch, loop = (lambda: generated(policy, asked, together=True)), (lambda: generated(policy, asked, together=False))
    found = rounds(repeat, batch, loop)
    yield Figure(
        f"`generate_batch` of {count} conversations: throughput", [row[1][1] / row[0][1] for row in found], LOOP
    )
    same = [sum(a == b for a, b in zip(row[0][0], row[1][0], strict=True)) for row in found]
    yield Figure(f"`generate_batch` of {count}: same completions", same, LOOP, f"of {count}")


Run = tuple[list[str], float, float]
"""Answers, seconds by the clock, and of processor time."""


def at_once(policy: LocalPolicy, agent: FocusAgent, asked: tuple[Asked, ...]) -> Run:
    """A thread for each question."""
    with ThreadPoolExecutor(len(asked)) as pool:
        return _answers(policy, lambda ask: list(pool.map(ask, asked)), agent)


def in_turn(policy: LocalPolicy, agent: FocusAgent, asked: tuple[Asked, ...]) -> Run:
    """Question by question."""
    return _answers(policy, lambda ask: [ask(one) for one in asked], agent)


def generated(policy: LocalPolicy, asked: tuple[Asked, ...], *, together: bool) -> tuple[list[str], float]:
    """Completions and seconds of the same questions without the graph."""
    conversations = [
        [prompts.first_turn(one.question, rgb=one.image, depth=None, options=one.options)] for one in asked
    ]
    policy.forget()
    began = time.perf_counter()
    if together:
        made = policy.generate_batch(conversations, stop=["</answer>"], max_new_tokens=256)
    else:
        made = [policy.generate(one, stop=["</answer>"], max_new_tokens=256) for one in conversations]
    return [one.text for one in made], time.perf_counter() - began


def _answers(policy: LocalPolicy, run: Callable[[Callable[[Asked], str]], list[str]], agent: FocusAgent) -> Run:
    policy.forget()
    began, own = time.perf_counter(), time.process_time()
    answers = run(lambda one: agent.ask(one.question, image=one.image, options=one.options).answer)
    return answers, time.perf_counter() - began, time.process_time() - own
