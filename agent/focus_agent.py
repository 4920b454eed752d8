"""The compiled graph, with what every run needs around it: no pixels in checkpoints, one run at a time on a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from langchain_core.messages import HumanMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, Durability, Interrupt

from sifthinker.agent.busy import alone, is_busy
from sifthinker.agent.config import focus_config
from sifthinker.agent.forking import go_back, paused_step
from sifthinker.agent.result import FocusResult
from sifthinker.agent.settling import asettle, settle
from sifthinker.agent.stopping import stoppable
from sifthinker.nodes.context import FocusConfig, FocusContext, Mode
from sifthinker.nodes.events import FocusEvent, FocusPaused
from sifthinker.nodes.images import ImageSource, LoadedImage, load_image
from sifthinker.nodes.person import FocusDecision, read_decision
from sifthinker.nodes.questions import intern_all, question_message, with_id
from sifthinker.nodes.state import FocusInput, FocusOutput, FocusState
from sifthinker.policy.control import whole
from sifthinker.policy.errors import UsageError

Decision = FocusDecision | Mapping[str, Any] | str
"""What a person decides on a paused run: "approve", "reject", or a `FocusDecision` with boxes."""

_OPERATORS = ("allow_urls", "limits")
"""Settings that plain settings of a run cannot say: whoever sends them may be a server's client."""
_BUDGETS = (
    "max_steps", "max_boxes", "max_new_tokens", "max_images", "max_completion_bytes", "deadline_s", "call_timeout_s",
    "history",
)  # fmt: skip
"""Settings that they can lower, and not raise."""
_RECURSION_LIMIT = 2 * 64 + 20  # supersteps: two for each of the most steps that can be allowed, and the rest
_TASK = "__pregel_task_id"  # LangGraph's mark of a graph that runs inside another
_RUNTIME = "__pregel_runtime"  # what that one was given


class FocusAgent(CompiledStateGraph[FocusState, FocusContext, FocusInput, FocusOutput]):
    """The focus agent: a compiled LangGraph graph (`invoke`, `stream`, `ainvoke`, `astream`, `batch`, `get_state`, …),
    and `ask` for whoever wants no more than an answer.

    Images in messages may be base64, file ids of the image store or, where allowed, addresses; they are put into the
    store before anything is checkpointed. A thread answers one question at a time: a second run at once raises
    `UsageError`. With a checkpointer every step is on disk before the next begins (`durability="sync"`), so that a
    killed run goes on with `resume` and asks the policy nothing twice.
    """

    def __init__(self, *, context: FocusContext, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.context = context

    @classmethod
    def of(cls, compiled: CompiledStateGraph[Any, Any, Any, Any], context: FocusContext) -> FocusAgent:
        """The agent made of a compiled focus graph, or of one that a user has extended."""
        attributes = {name: value for name, value in vars(compiled).items() if name != "__orig_class__"}
        config = {"recursion_limit": _RECURSION_LIMIT, **(compiled.config or {})}
        return cls(context=context, **{**attributes, "config": config})

    # ── LangGraph's interface ──

    def stream(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        context: FocusContext | Mapping[str, Any] | None = None,
        durability: Durability | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """As LangGraph's `stream`; the events of `sifthinker.agent.events` come in the mode "custom".

        `context` may hold just the settings that differ for this run, as in `{"mode": "internal"}`. They may come from
        a server's client, so they lower budgets alone, and say nothing of `allow_urls` and `limits`: a `FocusContext`,
        which only this process can give, says what it likes.
        """
        with self._held(context, config) as held:
            given = self._interned(input, held)
            with self._alone(config) as thread:
                if thread and isinstance(given, dict):
                    settle(self, thread)
                yield from super().stream(
                    given, config, context=held, durability=self._durability(config, durability), **kwargs
                )

    async def astream(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        context: FocusContext | Mapping[str, Any] | None = None,
        durability: Durability | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """As LangGraph's `astream`; see `stream`."""
        with self._held(context, config) as held:
            given = await asyncio.to_thread(self._interned, input, held)
            with self._alone(config) as thread:
                if thread and isinstance(given, dict):
                    await asettle(self, thread)
                stream = super().astream(
                    given, config, context=held, durability=self._durability(config, durability), **kwargs
                )
                async for part in stream:
                    yield part

    def get_context_jsonschema(self) -> dict[str, Any]:
        """What a run may be given as `context` from outside this process: the settings, but for the operator's own."""
        schema = FocusConfig.model_json_schema()
        schema["properties"] = {name: of for name, of in schema["properties"].items() if name not in _OPERATORS}
        schema.pop("$defs", None)  # of the limits
        return schema

    def get_config_jsonschema(self, *, include: Sequence[str] | None = None) -> dict[str, Any]:
        """Nothing: settings go into `context`. (LangGraph's own would describe the policy, and cannot.)"""
        return {"type": "object", "properties": {}}

    def answering(self, thread_id: str) -> bool:
        """Whether a run on this thread is under way here: also one that was stopped, until its policy lets go."""
        return is_busy((id(self.checkpointer), thread_id, ""))

    # ── questions ──

    def ask(
        self,
        question: str,
        *,
        image: ImageSource | LoadedImage | None = None,
        options: Sequence[str] = (),
        thread_id: str | None = None,
        mode: Mode | None = None,
    ) -> FocusResult:
        """Answer a question; see `ask_stream` for the arguments.

        Raises:
            UsageError: the run paused for a person (`interrupt_on_focus`): use `ask_stream` and `resume`.
        """
        with self._context(mode) as context:
            given = FocusInput(messages=[self._question(question, image, options, context)])
            return _result(self.invoke(given, self._thread(thread_id), context=context), context)

    def ask_stream(
        self,
        question: str,
        *,
        image: ImageSource | LoadedImage | None = None,
        options: Sequence[str] = (),
        thread_id: str | None = None,
        mode: Mode | None = None,
    ) -> Iterator[FocusEvent | FocusResult]:
        """Answer a question, step by step: typed events, then the `FocusResult`.

        Where the run pauses for a person, the last event is `FocusPaused`, and `resume` goes on.

        Args:
            question: the words.
            image: a path, bytes, a Pillow image or one already loaded; None: the image of the thread's last question.
            options: the answers to choose from.
            thread_id: the conversation, where there is a checkpointer.
            mode: another mode than the agent's, for this question.

        Raises:
            UsageError: an empty question, no image, a thread that is missing or busy. ImageError, PolicyError, …
        """
        with self._context(mode) as context:
            given = FocusInput(messages=[self._question(question, image, options, context)])
            yield from self._run(given, self._thread(thread_id), context)

    def resume(
        self, thread_id: str, decision: Decision | None = None, *, mode: Mode | None = None
    ) -> Iterator[FocusEvent | FocusResult]:
        """Go on with a run that was killed (no decision) or paused for a person (with a decision).

        A run that waits for a person and is given no decision pauses again.

        Raises:
            UsageError: a decision that cannot be used; the run stays paused.
        """
        given = _decided(decision)
        thread = self._thread(thread_id) or {}
        with self._context(mode) as context:
            context = replace(context, pause_at=paused_step(self.get_state(thread)))
            yield from self._run(given, thread, context)

    def fork(self, thread_id: str, step: int, decision: Decision | None = None) -> Iterator[FocusEvent | FocusResult]:
        """Go back to a step of the last question, before its crop, and go on otherwise; what came after is left.

        Without a decision the run pauses there as with `interrupt_on_focus`, the last event being `FocusPaused`, and
        `resume` goes on; later steps pause only if the agent asks a person at every step.

        Args:
            thread_id: the conversation.
            step: number of the step, from 1.
            decision: as `resume` takes it.

        Raises:
            UsageError: no such step, or a decision that cannot be used.
        """
        given = _decided(decision)
        thread = self._thread(thread_id) or {}
        go_back(self, thread, step)
        with self._context(None) as context:
            context = replace(context, pause_at=step)
            for part in self._run(None, thread, context):
                if given is None or not isinstance(part, FocusPaused):
                    yield part
            if given is not None:
                yield from self._run(given, thread, context)

    async def aask(
        self,
        question: str,
        *,
        image: ImageSource | LoadedImage | None = None,
        options: Sequence[str] = (),
        thread_id: str | None = None,
        mode: Mode | None = None,
    ) -> FocusResult:
        """`ask` for asynchronous programs: the policy works in a thread of its own meanwhile.

        Where the task is cancelled the run ends before its next turn.
        """
        abandoned = threading.Event()
        with self._context(mode) as context:
            context = replace(context, abandoned=abandoned)
            asked = await asyncio.to_thread(self._question, question, image, options, context)
            try:
                output = await self.ainvoke(FocusInput(messages=[asked]), self._thread(thread_id), context=context)
            except asyncio.CancelledError:
                abandoned.set()
                raise
            return _result(output, context)

    def _run(
        self, given: Any, config: RunnableConfig | None, context: FocusContext
    ) -> Iterator[FocusEvent | FocusResult]:
        stop = threading.Event()

        def work(tell: Callable[[FocusEvent | FocusResult], None]) -> None:
            output = self.invoke(given, config, context=replace(context, stop=stop, on_event=tell))
            tell(_paused(output) or _result(output, context))

        return stoppable(work, stop)

    def _question(
        self, question: str, image: ImageSource | LoadedImage | None, options: Sequence[str], context: FocusContext
    ) -> HumanMessage:
        if not question.strip():
            raise UsageError("The question is empty: say what you want to know about the image.")
        question = whole(question)
        if not isinstance(options, str):  # which `question_message` refuses
            options = [whole(option) for option in options]
        if image is None:
            return question_message(question, options=options)
        config = context.config
        loaded = image
        if not isinstance(loaded, LoadedImage):
            loaded = load_image(loaded, limits=config.limits, allow_urls=config.allow_urls)
        return question_message(
            question, image=context.images.put(loaded.image), options=options, warnings=loaded.warnings
        )

    def _context(self, mode: Mode | None) -> AbstractContextManager[FocusContext]:
        return (self._with_settings(None if mode is None else {"mode": mode}) or self.context).for_a_run()

    def _thread(self, thread_id: str | None) -> RunnableConfig | None:
        if self.checkpointer and thread_id is None:
            raise UsageError("This agent remembers conversations: name one with thread_id.")
        if thread_id is not None and not self.checkpointer:
            raise UsageError("This agent remembers nothing: create it with a checkpointer to use thread_id.")
        return None if thread_id is None else {"configurable": {"thread_id": thread_id}}

    # ── around every run ──

    def _held(
        self, given: FocusContext | Mapping[str, Any] | None, config: RunnableConfig | None
    ) -> AbstractContextManager[FocusContext]:
        """The context of a run, which holds what the run looks at: as given, else that of the graph around it, else the
        agent's own."""
        context = self._with_settings(given)
        if context is None:
            around = getattr(self._configurable(config).get(_RUNTIME), "context", None)
            context = around if isinstance(around, FocusContext) else self.context
        return context.for_a_run()

    def _with_settings(self, given: FocusContext | Mapping[str, Any] | None) -> FocusContext | None:
        """The context of a run; of plain settings, the agent's own with these in place.

        Raises:
            UsageError: a setting that does not exist, is the operator's, or raises a budget.
        """
        if not isinstance(given, Mapping):
            return given
        where = "set it where the agent is made (create_focus_agent), or give the run a FocusContext"
        if refused := [name for name in _OPERATORS if name in given]:
            raise UsageError(f"The setting {refused[0]} is not taken with a run: {where}.")
        own = self.context.config
        config = focus_config(**{**dict(own), **given})
        for name in _BUDGETS:
            most, asked = getattr(own, name), getattr(config, name)
            if asked > most:
                raise UsageError(f"A run can lower {name} and not raise it, from {most} to {asked}: {where}.")
        return replace(self.context, config=config)

    def _interned(self, given: Any, context: FocusContext | None) -> Any:
        """The input with its images in the store."""
        if not isinstance(given, dict) or not given.get("messages"):
            return given
        around = context or self.context
        messages = given["messages"] if isinstance(given["messages"], list) else [given["messages"]]
        taken = intern_all(convert_to_messages(messages), around.images, around.config)
        return {**given, "messages": [with_id(message) for message in taken]}

    @contextmanager
    def _alone(self, config: RunnableConfig | None) -> Iterator[RunnableConfig | None]:
        """One run at a time on a thread: LangGraph would lose the input of one of two. Gives the thread that is gone on
        with; None where there is none, or an older checkpoint of it is named."""
        configurable = self._configurable(config)
        thread = configurable.get("thread_id")
        if thread is None or not self.checkpointer or _TASK in configurable:
            yield None
            return
        with alone((id(self.checkpointer), str(thread), str(configurable.get("checkpoint_ns", "")))):
            yield None if "checkpoint_id" in configurable else {"configurable": configurable}

    def _durability(self, config: RunnableConfig | None, asked: Durability | None) -> Durability | None:
        nested = _TASK in self._configurable(config)
        return "sync" if asked is None and self.checkpointer and not nested else asked

    def _configurable(self, config: RunnableConfig | None) -> dict[str, Any]:
        own = (self.config or {}).get("configurable", {})
        around = (var_child_runnable_config.get() or {}).get("configurable") or {}  # of a node that calls the agent
        return {**own, **around, **((config or {}).get("configurable") or {})}


def _paused(output: dict[str, Any]) -> FocusPaused | None:
    """What a person is to decide, where the run waits for one."""
    requests: Sequence[Interrupt] = output.get("__interrupt__", ())
    return FocusPaused.model_validate(requests[0].value) if requests else None


def _result(output: dict[str, Any], context: FocusContext) -> FocusResult:
    record = output.get("result")
    if record is None:
        raise UsageError("The run waits for a person's decision: use ask_stream, and resume with the decision.")
    return FocusResult.from_record(record, context.view(record["image"]), context.images)


def _decided(decision: Decision | None) -> Command[Any] | None:
    """What goes on with a paused run, if there is a decision."""
    return None if decision is None else Command(resume=read_decision(decision).model_dump(mode="json"))
