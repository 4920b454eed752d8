"""What checkpoints hold, how a run goes on from one, and how a person steps in."""

from __future__ import annotations

import base64
import io
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from langgraph.checkpoint.memory import MemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command
from PIL import Image
from scripted import ScriptedPolicy, area, focus_lines

from sifthinker.agent import (
    FocusDecision,
    FocusResult,
    build_focus_graph,
    create_focus_agent,
    question_message,
    stopping,
)
from sifthinker.agent.events import CropTaken, FocusPaused
from sifthinker.agent.forgetting import forget_unanswered
from sifthinker.nodes.context import RunStopped
from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.images import FolderImageStore
from sifthinker.policy.base import Completion
from sifthinker.policy.errors import PolicyTimeout, UsageError

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8))
LEFT, RIGHT = (0.1, 0.2, 0.5, 0.6), (0.5, 0.2, 0.9, 0.6)
THREAD = {"configurable": {"thread_id": "t"}}


def saver(path: Path | None = None) -> SqliteSaver:
    return SqliteSaver(sqlite3.connect(path or ":memory:", check_same_thread=False))


def stored_bytes(memory: SqliteSaver) -> int:
    checkpoints = "select coalesce(sum(length(checkpoint) + length(metadata)), 0) from checkpoints"
    writes = "select coalesce(sum(length(value)), 0) from writes"
    return sum(memory.conn.execute(query).fetchone()[0] for query in (checkpoints, writes))


def boxes(count: int) -> list[tuple[float, float, float, float]]:
    return [(0.1 + 0.02 * n, 0.2, 0.5 + 0.02 * n, 0.6) for n in range(count)]


def test_no_pixels_reach_a_checkpoint():
    memory = saver()
    agent = create_focus_agent(ScriptedPolicy(*focus_lines(LEFT, RIGHT)), depth="none", checkpointer=memory)
    file = io.BytesIO()
    IMAGE.save(file, "PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    block = {"type": "image", "base64": encoded, "mime_type": "image/png"}
    agent.invoke({"messages": [{"role": "user", "content": [block, {"type": "text", "text": "What?"}]}]}, THREAD)

    rows = [
        *memory.conn.execute("select checkpoint from checkpoints").fetchall(),
        *memory.conn.execute("select value from writes").fetchall(),
    ]
    assert rows
    assert not any(encoded[100:200].encode() in (row[0] or b"") for row in rows)
    assert max(len(row[0] or b"") for row in rows) < 5_000 < len(encoded)


@pytest.mark.parametrize("questions_before", [0, 10])
def test_a_focus_step_adds_less_than_six_kilobytes_however_long_the_chat(questions_before):
    def grown(steps: int) -> int:
        memory = saver()
        memory.setup()
        lines = focus_lines(*boxes(steps), text="the red cube stands in front of the blue sphere, at the left edge")
        agent = create_focus_agent(ScriptedPolicy(*lines * (questions_before + 1)), depth="none", checkpointer=memory)
        for number in range(questions_before + 1):
            before = stored_bytes(memory)
            agent.ask("What colour is it?", image=None if number else IMAGE, thread_id="t")
        return stored_bytes(memory) - before

    assert (grown(8) - grown(1)) / 7 < 6_000


def test_messages_keep_their_ids_when_a_thread_is_read_again():
    memory = saver()
    agent = create_focus_agent(ScriptedPolicy("<answer>x</answer>"), depth="none", mode="direct", checkpointer=memory)
    sha256 = agent.context.images.put(IMAGE)
    content = [{"type": "image", "file_id": sha256}, {"type": "text", "text": "What?"}]
    agent.invoke({"messages": [{"role": "user", "content": content}]}, THREAD)
    ids = [message.id for message in agent.get_state(THREAD).values["messages"]]
    assert ids == [message.id for message in agent.get_state(THREAD).values["messages"]]
    assert len(set(ids)) == 2


KILLED = """
    import os, signal, sqlite3, sys
    from langgraph.checkpoint.sqlite import SqliteSaver
    from PIL import Image
    from scripted import ScriptedPolicy, focus_lines
    from sifthinker.agent import create_focus_agent
    from sifthinker.nodes.images import FolderImageStore

    folder, calls = sys.argv[1], int(sys.argv[2])
    lines = focus_lines((0.1, 0.2, 0.5, 0.6), (0.5, 0.2, 0.9, 0.6), (0.2, 0.2, 0.4, 0.4))
    said = 0

    def line(messages):
        global said
        said += 1
        if said > calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return lines[said - 1]

    memory = SqliteSaver(sqlite3.connect(f"{folder}/chat.sqlite", check_same_thread=False))
    images = FolderImageStore(f"{folder}/images")
    agent = create_focus_agent(ScriptedPolicy(line), depth="none", checkpointer=memory, images=images)
    agent.ask("What colour?", image=Image.new("RGB", (200, 100), (9, 9, 9)), thread_id="t")
"""


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_killed_run_goes_on_without_asking_the_policy_again(tmp_path, calls):
    program = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(calls)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run(program, env=environment, check=False).returncode == -signal.SIGKILL

    lines = focus_lines(LEFT, RIGHT, (0.2, 0.2, 0.4, 0.4))
    policy = ScriptedPolicy(*lines[calls:])
    agent = create_focus_agent(
        policy,
        depth="none",
        checkpointer=saver(tmp_path / "chat.sqlite"),
        images=FolderImageStore(tmp_path / "images"),
    )
    *_, result = agent.resume("t")
    assert isinstance(result, FocusResult)
    assert policy.calls == len(lines) - calls
    assert len(result.calls) == len(lines)
    assert result.trace_text == "".join(lines)
    assert result.valid_trace
    assert len(policy.heard[0]) == 1 + 2 * calls


def test_a_second_run_on_a_busy_thread_is_refused_and_loses_nothing():
    begun, go_on = threading.Event(), threading.Event()

    def slow(messages):
        begun.set()
        assert go_on.wait(20)
        return "<answer>one</answer>"

    policy = ScriptedPolicy(slow, "<answer>two</answer>")
    agent = create_focus_agent(policy, depth="none", mode="direct", checkpointer=MemorySaver())
    results = []
    first = threading.Thread(target=lambda: results.append(agent.ask("One?", image=IMAGE, thread_id="t")))
    first.start()
    assert begun.wait(20)
    with pytest.raises(UsageError, match="being answered"):
        agent.ask("Two?", image=IMAGE, thread_id="t")
    go_on.set()
    first.join()

    assert results[0].answer == "one"
    assert agent.ask("Two?", thread_id="t").answer == "two"
    texts = [message.text for message in agent.get_state(THREAD).values["messages"]]
    assert texts == ["One?", "one", "Two?", "two"]


class EndlessPolicy(ScriptedPolicy):
    """Writes for ever."""

    def generate(self, messages, *, on_token=None, **options):
        self.heard.append(list(messages))
        while on_token is not None:
            on_token("on ")
            time.sleep(0.005)
        return super().generate(messages, **options)


@pytest.mark.parametrize("dialect", ["sif", "native"])
def test_a_run_that_is_broken_off_ends_at_the_next_token_and_frees_its_thread(dialect):
    policy = EndlessPolicy("<answer>x</answer>", dialect=dialect)
    agent = create_focus_agent(policy, depth="none", mode="direct", checkpointer=MemorySaver())
    run = agent.ask_stream("One?", image=IMAGE, thread_id="t")
    next(run)
    begun = time.monotonic()
    run.close()
    assert time.monotonic() - begun < stopping.PATIENCE_S
    if dialect == "native":
        assert agent.ask("Two?", thread_id="t").answer == "x"


@pytest.mark.parametrize("late", [PolicyTimeout("Nothing came."), "<answer>late</answer>"])
def test_a_stopped_run_that_hears_of_its_policy_late_writes_and_asks_nothing_more(late, monkeypatch):
    """A server that is silent when the run is stopped: the question is forgotten while the call still goes on."""
    monkeypatch.setattr(stopping, "PATIENCE_S", 0.01)
    begun, go = threading.Event(), threading.Event()

    def silent(messages):
        begun.set()
        assert go.wait(20)
        if isinstance(late, Exception):
            raise late
        return Completion(late)

    class Unheard(ScriptedPolicy):  # its answer comes in one piece
        def generate(self, messages, *, on_token=None, **options):
            return super().generate(messages, **options)

    policy = Unheard("<answer>one</answer>", silent, "<answer>two</answer>")
    agent = create_focus_agent(policy, depth="none", mode="direct", checkpointer=MemorySaver())
    agent.ask("One?", image=IMAGE, thread_id="t")
    run = agent.ask_stream("Two?", thread_id="t")
    next(run)
    assert begun.wait(20)
    run.close()
    forget_unanswered(agent, "t")
    go.set()
    while agent.answering("t"):
        time.sleep(0.005)

    state = agent.get_state(THREAD)
    assert (policy.calls, state.next) == (2, ())
    assert [message.text for message in state.values["messages"]] == ["One?", "one"]
    assert state.values["result"]["question"] == "One?"


def test_a_run_that_is_stopped_while_depth_is_told_asks_the_policy_nothing():
    class Stopping:
        name = "slow"

        def predict(self, image):
            stop.set()
            return DepthMap(np.zeros((10, 20), np.float32))

    stop, policy = threading.Event(), ScriptedPolicy("<answer>x</answer>")
    agent = create_focus_agent(policy, depth=Stopping(), checkpointer=MemorySaver())
    asked = {"messages": [question_message("?", image=agent.context.images.put(IMAGE))]}
    with pytest.raises(RunStopped):
        agent.invoke(asked, THREAD, context=replace(agent.context, stop=stop))
    assert policy.calls == 0
    assert agent.get_state(THREAD).next == ("perceive",)


INTERRUPTED = """
    import os, signal, threading, time
    from PIL import Image
    from scripted import ScriptedPolicy
    from sifthinker.agent import create_focus_agent

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored by what runs behind it

    class Endless(ScriptedPolicy):
        def generate(self, messages, *, on_token=None, **options):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            while True:
                on_token("on ")
                time.sleep(0.005)

    agent = create_focus_agent(Endless(""), depth="none")
    try:
        list(agent.ask_stream("One?", image=Image.new("RGB", (64, 64))))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_stops_the_answer_at_once():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    program = [sys.executable, "-c", textwrap.dedent(INTERRUPTED)]
    run = subprocess.run(program, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "interrupted"
    assert "Traceback" not in run.stderr


def paused_agent(*lines, **options):
    policy = ScriptedPolicy(*lines)
    agent = create_focus_agent(policy, depth="none", checkpointer=MemorySaver(), interrupt_on_focus=True, **options)
    *_, paused = agent.ask_stream("What colour?", image=IMAGE, thread_id="t")
    return policy, agent, paused


def test_a_person_sees_the_boxes_before_the_crop_and_approves():
    policy, agent, paused = paused_agent(*focus_lines(LEFT, answer="red"))
    assert isinstance(paused, FocusPaused)
    assert [box.bbox_2d for box in paused.boxes] == [LEFT]
    assert (paused.step, policy.calls) == (1, 1)

    *events, result = agent.resume("t", "approve")
    assert result.answer == "red"
    assert policy.calls == 2
    assert [event.box for event in events if isinstance(event, CropTaken)] == [LEFT]
    assert result.valid_trace
    assert not result.steps[0].edited


def test_a_person_can_set_other_boxes():
    policy, agent, _ = paused_agent(*focus_lines(LEFT, answer="red"))
    *_, result = agent.resume("t", FocusDecision(action="edit", boxes=((0.6, 0.5, 1.2, 0.9),)))

    assert result.steps[0].boxes[0].bbox_2d == (0.6, 0.5, 1.0, 0.9)
    assert result.steps[0].crop_size == (80, 40)
    assert result.steps[0].edited
    assert '"bbox_2d":[0.600,0.500,1.000,0.900]' in policy.heard[-1][-1].text
    assert "set by a person" in result.warnings[0]


def test_a_person_can_decline_an_area():
    policy, agent, _ = paused_agent(f"<think>{area(LEFT)}", "<answer>red</answer>")
    *_, result = agent.resume("t", {"action": "reject", "reason": "That is private."})
    assert result.answer == "red"
    assert result.crops == []
    assert policy.heard[-1][-1].text.startswith("That is private. ")
    assert "declined by a person" in result.warnings[0]


def test_declining_for_ever_ends_too():
    policy, agent, paused = paused_agent(f"<think>{area(LEFT)}", f"<text>more</text>{area(LEFT)}", max_steps=2)
    rounds = 0
    while isinstance(paused, FocusPaused):
        rounds += 1
        *_, paused = agent.resume("t", "reject")
    assert rounds == 2
    assert isinstance(paused, FocusResult)
    assert policy.calls == 4


@pytest.mark.parametrize(
    "decision",
    ["perhaps", {"action": "edit"}, {"action": "edit", "boxes": [[0.5, 0.5, 0.4, 0.6]]}, {"boxes": []}, {"action": 3}],
)
def test_a_decision_that_cannot_be_used_leaves_the_run_paused(decision):
    _, agent, _ = paused_agent(*focus_lines(LEFT, answer="red"))
    with pytest.raises(UsageError):
        list(agent.resume("t", decision))
    paused = agent.invoke(Command(resume=decision), THREAD)["__interrupt__"][0].value
    assert "Expected" in paused["problem"]
    *_, result = agent.resume("t", "approve")
    assert result.answer == "red"


def test_a_paused_run_is_langgraph_s_interrupt():
    agent = create_focus_agent(
        ScriptedPolicy(*focus_lines(LEFT, answer="red")),
        depth="none",
        checkpointer=MemorySaver(),
        interrupt_on_focus=True,
    )
    asked = {"messages": [question_message("?", image=agent.context.images.put(IMAGE))]}
    paused = agent.invoke(asked, THREAD)
    assert paused["__interrupt__"][0].value["boxes"] == [{"bbox_2d": list(LEFT), "depth": 0.5}]
    assert paused["__interrupt__"][0].value["problem"] is None
    assert agent.invoke(Command(resume="approve"), THREAD)["result"]["answer"] == "red"


def test_ask_says_that_it_cannot_wait_for_a_person():
    agent = create_focus_agent(
        ScriptedPolicy(*focus_lines(LEFT)), depth="none", checkpointer=MemorySaver(), interrupt_on_focus=True
    )
    with pytest.raises(UsageError, match="decision"):
        agent.ask("?", image=IMAGE, thread_id="t")


def test_a_run_forks_from_an_earlier_step():
    lines = focus_lines(LEFT, RIGHT, answer="red")
    policy = ScriptedPolicy(
        *lines, f"<text>else</text>{area((0.2, 0.2, 0.4, 0.4))}", "<text>x</text></think><answer>blue</answer>"
    )
    agent = create_focus_agent(policy, depth="none", checkpointer=saver())
    agent.ask("What colour?", image=IMAGE, thread_id="t")

    after_first_look = [
        state
        for state in agent.get_state_history(THREAD)
        if state.next == ("reason",) and len(state.values["turns"]) == 2
    ]
    output = agent.invoke(None, after_first_look[0].config)
    assert output["result"]["answer"] == "blue"
    assert [step["boxes"][0]["bbox_2d"] for step in output["result"]["steps"]] == [list(LEFT), [0.2, 0.2, 0.4, 0.4]]
    assert policy.calls == 5


def test_the_time_a_person_takes_is_not_the_run_s():
    _, agent, _ = paused_agent(*focus_lines(LEFT, answer="red"), deadline_s=2)
    time.sleep(0.3)
    *_, result = agent.resume("t", "approve")
    assert result.seconds < 0.3
    assert result.warnings == []


def test_a_plainly_compiled_graph_takes_the_pixels_out_of_the_messages():
    graph = build_focus_graph(ScriptedPolicy("<answer>x</answer>"), depth="none", mode="direct")
    file = io.BytesIO()
    IMAGE.save(file, "PNG")
    block = {"type": "image", "base64": base64.b64encode(file.getvalue()).decode(), "mime_type": "image/png"}
    agent = graph.compile(checkpointer=saver())
    output = agent.invoke(
        {"messages": [{"role": "user", "content": [block, {"type": "text", "text": "What?"}]}]}, THREAD
    )
    assert list(output["messages"][0].content[0]) == ["type", "file_id"]
    assert len(output["messages"]) == 2


def test_strict_deserialisation_of_checkpoints_is_enough(monkeypatch):
    program = """
        import sqlite3
        from langgraph.checkpoint.sqlite import SqliteSaver
        from PIL import Image
        from scripted import ScriptedPolicy, focus_lines
        from sifthinker.agent import create_focus_agent
        memory = SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False))
        policy = ScriptedPolicy(*focus_lines((0.1, 0.2, 0.5, 0.6)), *focus_lines((0.1, 0.2, 0.5, 0.6)))
        agent = create_focus_agent(policy, depth="none", checkpointer=memory)
        agent.ask("One?", image=Image.new("RGB", (64, 64)), thread_id="t")
        assert agent.ask("Two?", thread_id="t").valid_trace
        assert len(policy.heard[-1]) == 5, policy.heard[-1]
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "LANGGRAPH_STRICT_MSGPACK": "true"}
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(program)], env=environment, check=True)
