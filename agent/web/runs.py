"""A question being answered: the thread that runs the graph, and the events that whoever watches is told."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command

from sifthinker.agent.config import focus_config
from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.agent.forgetting import forget_unanswered
from sifthinker.agent.forking import go_back, paused_step
from sifthinker.agent.result import FocusResult
from sifthinker.agent.web.errors import busy, sentence_for, without_paths
from sifthinker.agent.web.views import result_view
from sifthinker.agent.words import plain
from sifthinker.nodes.context import FocusContext, RunStopped
from sifthinker.nodes.events import FocusEvent, FocusPaused, Perceived, ToolUsed, Warned
from sifthinker.nodes.person import FocusDecision
from sifthinker.nodes.state import FocusInput, ResultRecord
from sifthinker.policy.errors import SifthinkerError

logger = logging.getLogger(__name__)

State = Literal["running", "waiting", "answered", "stopped", "failed"]
"""waiting: for a person's decision on the boxes."""


@dataclass(eq=False)
class Run:
    """One question. Events are JSON objects; what a late or returning listener missed is told again from the start."""

    number: int
    question: str
    mode: str
    options: tuple[str, ...]
    image: str
    """Hash of the picture asked about."""
    confirm: bool
    """Whether a person decides on the boxes before each crop."""
    state: State = "running"
    events: list[str] = field(default_factory=list)
    bytes: int = 0
    record: ResultRecord | None = None
    pictures: set[str] = field(default_factory=set)
    """Hashes of what visual tools have drawn."""
    stop: threading.Event = field(default_factory=threading.Event)
    abandoned: bool = False
    """Whether its conversation has been forgotten meanwhile."""
    left: ResultRecord | None = None
    """The answer that a person has gone back from."""
    _listeners: set[Callable[[], None]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def over(self) -> bool:
        """Whether nothing more will be told without a new request."""
        return self.state != "running"

    def tell(self, event: FocusEvent) -> None:
        """Take in an event of the graph (called in the thread that runs it)."""
        match event:
            case Warned():
                event = Warned(message=without_paths(event.message))
            case Perceived(depth=str() as source):
                event = event.model_copy(update={"depth": without_paths(source)})
            case ToolUsed(picture_id=str() as made):
                self.pictures.add(made)
        self._add(event.model_dump(mode="json"))

    def end(self, state: State, event: dict[str, Any]) -> None:
        """The graph has come to rest."""
        self._add(event, state)

    def go_on(self, decision: FocusDecision | None) -> None:
        """A person has decided; None: the run is given up."""
        action, boxes = ("stop", ()) if decision is None else (decision.action, decision.boxes)
        self._add({"kind": "decided", "action": action, "boxes": boxes}, "running")

    def go_back(self, step: int) -> None:
        """A person has gone back to a step, before its crop; what came after is left."""
        self.left, self.record = self.record, None
        self._add({"kind": "back", "step": step}, "running")

    def listen(self, awake: Callable[[], None]) -> None:
        """Call `awake` whenever there is something new."""
        with self._lock:
            self._listeners.add(awake)

    def leave(self, awake: Callable[[], None]) -> None:
        """Call it no more."""
        with self._lock:
            self._listeners.discard(awake)

    @property
    def listeners(self) -> int:
        """How many watch."""
        return len(self._listeners)

    def _add(self, event: dict[str, Any], state: State | None = None) -> None:
        line = json.dumps(event, ensure_ascii=False, allow_nan=False)
        line = line.encode("utf-8", errors="replace").decode()  # half a surrogate pair cannot be sent
        with self._lock:
            self.events.append(line)
            self.bytes += len(line)
            if state is not None:
                self.state = state
            listeners = list(self._listeners)
        for awake in listeners:
            awake()


class Runner:
    """Runs questions in threads of their own, no more than `max_runs` at a time."""

    def __init__(self, max_runs: int) -> None:
        self._slots = threading.BoundedSemaphore(max_runs)
        self._running: set[Run] = set()
        self._lock = threading.Lock()

    def ask(self, agent: FocusAgent, run: Run, thread_id: str, message: HumanMessage) -> None:
        """Begin to answer a question.

        Raises:
            Refused: the server is busy.
        """
        self._start(agent, run, thread_id, FocusInput(messages=[message]))

    def decide(self, agent: FocusAgent, run: Run, thread_id: str, decision: FocusDecision, *, confirm: bool) -> None:
        """Go on with a run that waits for a person. `confirm`: whether the next boxes are asked about as well.

        Raises:
            Refused: the server is busy; the run waits on.
        """
        run.confirm = confirm
        waiting = paused_step(agent.get_state(_thread(thread_id)))  # asks there whatever `confirm` says of later steps
        given: Command[Any] = Command(resume=decision.model_dump(mode="json"))
        self._start(agent, run, thread_id, given, decision, pause_at=waiting)

    def fork(self, agent: FocusAgent, run: Run, thread_id: str, step: int) -> None:
        """Go back to a step of an answered question, which then waits for a person's decision on its boxes.

        Raises:
            Refused: the server is busy. UsageError: the question has no such step. In both cases the answer stays.
        """
        run.stop.clear()
        run.confirm = False
        self._start(agent, run, thread_id, None, pause_at=step)

    def stop_all(self) -> None:
        """End all runs at their next token."""
        with self._lock:
            for run in self._running:
                run.stop.set()

    def _start(
        self,
        agent: FocusAgent,
        run: Run,
        thread_id: str,
        given: Any,
        decision: FocusDecision | None = None,
        pause_at: int | None = None,
    ) -> None:
        if not self._slots.acquire(blocking=False):
            raise busy()
        with ExitStack() as refused:
            refused.callback(self._slots.release)
            if decision is not None:
                run.go_on(decision)
            elif pause_at is not None:
                go_back(agent, _thread(thread_id), pause_at)
                run.go_back(pause_at)
            refused.pop_all()  # from here on the slot is given back by the thread
        with self._lock:
            self._running.add(run)
        config = focus_config(**{**dict(agent.context.config), "mode": run.mode, "interrupt_on_focus": run.confirm})
        context = replace(agent.context, config=config, stop=run.stop, on_event=run.tell, pause_at=pause_at)
        work = threading.Thread(
            target=self._work, args=(agent, run, thread_id, given, context), name=f"sifthinker-web-{run.number}"
        )
        work.daemon = True
        work.start()

    def _work(self, agent: FocusAgent, run: Run, thread_id: str, given: Any, context: FocusContext) -> None:
        try:
            output = agent.invoke(given, _thread(thread_id), context=context)
            ending: tuple[State, dict[str, Any]]
            if requests := output.get("__interrupt__"):
                ending = ("waiting", FocusPaused.model_validate(requests[0].value).model_dump(mode="json"))
            else:
                run.record = output["result"]
                ending = ("answered", {"kind": "result", "result": _view(output["result"])})
        except RunStopped:
            ending = ("stopped", {"kind": "stopped"})
        except Exception as error:  # noqa: BLE001 - told here, and on the page in other words
            told = [str(error)] if isinstance(error, SifthinkerError) else traceback.format_exception(error)
            logger.warning("A question could not be answered: %s", plain("".join(told)))  # it may quote a server
            ending = ("failed", {"kind": "failed", "message": sentence_for(error)})
        finally:
            with self._lock:
                self._running.discard(run)
            self._slots.release()
        if ending[0] in ("stopped", "failed"):
            give_up(agent, run, thread_id, *ending)
        else:
            run.end(*ending)
        if run.abandoned:
            forget_thread(agent, thread_id)


def give_up(agent: FocusAgent, run: Run, thread_id: str, state: State, event: dict[str, Any]) -> None:
    """End a run that was stopped or has failed. Where a person had gone back from an answer, that stands again."""
    if forget_unanswered(agent, thread_id) and run.left is not None:
        run.record = run.left
        state, event = "answered", {"kind": "result", "result": _view(run.left), "given_up": event}
    run.end(state, event)


def forget_thread(agent: FocusAgent, thread_id: str) -> None:
    """Take a whole conversation out of the agent's memory."""
    checkpointer = agent.checkpointer
    if isinstance(checkpointer, BaseCheckpointSaver):
        checkpointer.delete_thread(thread_id)


async def events_of(run: Run, start: int, *, quiet_s: float = 15.0) -> AsyncIterator[str]:
    """The events of a run as server-sent events, from number `start`, until it comes to rest."""
    loop, awake = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(awake.set)

    run.listen(wake)
    told, last = start, time.monotonic()
    try:
        while True:
            awake.clear()
            over, new = run.over, run.events[told:]
            for line in new:
                told += 1
                last = time.monotonic()
                yield f"id: {told}\ndata: {line}\n\n"
            if over and told >= len(run.events):
                return
            try:
                await asyncio.wait_for(awake.wait(), quiet_s)
            except TimeoutError:
                if time.monotonic() - last >= quiet_s:
                    yield ": still at it\n\n"
    finally:
        run.leave(wake)


def _view(record: ResultRecord) -> dict[str, Any]:
    return result_view(FocusResult.from_record(record))


def _thread(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}}
