"""One thread runs a local policy's model: who may ask, what it survives, and that it keeps nobody waiting or alive."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from sifthinker.policy.errors import PolicyError
from sifthinker.policy.forward_thread import ForwardThread
from sifthinker.policy.local import LocalPolicy
from sifthinker.policy.messages import Message

Tiny = Callable[..., LocalPolicy]
Asked = Callable[..., list[Message]]
NAME = "sifthinker-forward"


@pytest.fixture
def qwen(tiny_policy: Tiny) -> LocalPolicy:
    return tiny_policy("qwen3_vl")


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[LocalPolicy, Callable[[int], None]], None]:
    """`during(policy, act)`: `act(rows)` is called in every forward pass from now on, where the pass runs."""

    def watch(policy: LocalPolicy, act: Callable[[int], None]) -> None:
        forward = policy.model.forward

        def watched(**inputs: Any) -> Any:
            act(inputs["input_ids"].shape[0])
            return forward(**inputs)

        monkeypatch.setattr(policy.model, "forward", watched)

    return watch


def crowd(policy: LocalPolicy, asked: Asked) -> None:
    """Four callers at once."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda mark: policy.generate(asked(mark=mark), max_new_tokens=30), range(8)))


def test_for_several_callers_one_thread_runs_the_model(qwen: LocalPolicy, asked: Asked, during: Callable) -> None:
    threads: set[threading.Thread] = set()
    during(qwen, lambda rows: threads.add(threading.current_thread()) if rows > 1 else None)
    crowd(qwen, asked)
    [thread] = threads
    assert (thread.name, thread.daemon) == (NAME, True)


def test_a_caller_that_is_alone_runs_the_model_itself_before_a_crowd_and_after(
    qwen: LocalPolicy, asked: Asked, during: Callable
) -> None:
    threads: set[threading.Thread] = set()
    during(qwen, lambda _: threads.add(threading.current_thread()))
    for _ in range(2):
        threads.clear()
        qwen.generate_batch([asked(mark=mark) for mark in range(3)], max_new_tokens=5)
        assert threads == {threading.current_thread()}
        crowd(qwen, asked)
        settled(lambda: qwen._engine._driver is None)


def test_an_interrupted_pass_of_a_caller_that_is_alone_is_interrupted_and_the_next_question_is_answered(
    qwen: LocalPolicy, asked: Asked, during: Callable
) -> None:
    expected = qwen.generate(asked(mark=1), max_new_tokens=8).text
    passes: list[int] = []

    def interrupt(_: int) -> None:
        passes.append(1)
        if len(passes) == 4:
            raise KeyboardInterrupt

    during(qwen, interrupt)
    qwen.forget()
    with pytest.raises(KeyboardInterrupt):
        qwen.generate(asked(mark=1), max_new_tokens=8)
    assert qwen.generate(asked(mark=1), max_new_tokens=8).text == expected


def test_it_computes_without_gradients_and_on_as_many_cores_as_the_caller_may(
    qwen: LocalPolicy, asked: Asked, during: Callable, cores: Callable[[int], None]
) -> None:
    seen: list[tuple[int, bool]] = []
    during(qwen, lambda _: seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled())))
    for count in (2, 1):
        cores(count)
        qwen.generate(asked(), max_new_tokens=2)
        assert set(seen) == {(count, True)}
        seen.clear()


@pytest.fixture
def cores() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_model_that_fails_is_told_to_each_and_the_next_question_is_answered(
    qwen: LocalPolicy, asked: Asked, during: Callable
) -> None:
    expected = qwen.generate(asked(mark=1), max_new_tokens=8).text
    failing = True

    def fail_in_decoding(rows: int) -> None:
        if failing and rows == 3:
            raise RuntimeError("no such kernel")

    during(qwen, fail_in_decoding)
    qwen.forget()
    with pytest.raises(PolicyError, match="no such kernel"):
        qwen.generate_batch([asked(mark=mark) for mark in range(3)], max_new_tokens=8)
    failing = False
    assert qwen.generate(asked(mark=1), max_new_tokens=8).text == expected


def test_an_interrupted_caller_leaves_and_the_others_go_on(qwen: LocalPolicy, asked: Asked, during: Callable) -> None:
    expected = qwen.generate(asked(mark=2), max_new_tokens=60).text
    rows: list[int] = []
    during(qwen, rows.append)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            qwen.generate(asked(mark=1), max_new_tokens=5000, on_token=interrupt)

    with ThreadPoolExecutor(2) as pool:
        leaving, going_on = pool.submit(interrupted), pool.submit(qwen.generate, asked(mark=2), max_new_tokens=60)
        leaving.result()
        assert going_on.result().text == expected
    settled(lambda: not qwen._engine._running.jobs)
    assert len(rows) < 500  # the one that left was not decoded to its end


def test_a_policy_that_nobody_holds_goes_and_its_thread_with_it(tiny_policy: Tiny, asked: Asked) -> None:
    policy = tiny_policy("qwen3_vl")
    before = forwarding()
    crowd(policy, asked)
    [thread] = forwarding() - before
    model = weakref.ref(policy.model)
    del policy
    settled(lambda: gc.collect() >= 0 and model() is None)
    settled(lambda: not thread.is_alive())


def forwarding() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == NAME}


def settled(condition: Callable[[], bool]) -> None:
    """Wait until it holds, ten seconds at most."""
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


class Counting:
    """An owner with so many pieces of work."""

    def __init__(self, pieces: int) -> None:
        self.left = pieces
        self.done = threading.Event()

    def step(self) -> bool:
        self.left -= 1
        if not self.left:
            self.done.set()
        return self.left > 0


def test_it_steps_until_there_is_nothing_left_and_again_when_there_is() -> None:
    owner = Counting(3)
    thread = ForwardThread(owner)
    for pieces in (3, 2):
        owner.left = pieces
        owner.done.clear()
        thread.wake()
        assert owner.done.wait(10)
    thread.end(10)
    owner.left = 1
    owner.done.clear()
    thread.wake()  # after its end it begins anew
    assert owner.done.wait(10)


PROGRAM = """
import os, sys, threading, time
from sifthinker.policy.forward_thread import ForwardThread

class Slow:
    steps = 0
    def step(self):
        self.steps += 1
        time.sleep(0.01)
        return sys.argv[1] == "endless" or self.steps % 5 != 0

owner = Slow()
thread = ForwardThread(owner)
thread.wake()
time.sleep(0.2)
if sys.argv[1] == "fork":
    child = os.fork()
    if child == 0:
        for one in (thread, ForwardThread(owner)):
            owner.steps, ends = 0, time.monotonic() + 10
            one.wake()
            while owner.steps < 5:
                if time.monotonic() > ends:
                    os._exit(5)
                time.sleep(0.01)
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    "what", ["endless", pytest.param("fork", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"))]
)
def test_the_interpreter_ends_in_the_middle_of_work_and_a_fork_begins_anew(what: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
