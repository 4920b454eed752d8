"""The focus graph: the whole topology on one page.

    START → perceive → reason ⇄ focus
                       ↓  ↺  ⇅
                       ↓    weigh
                     answer ↙ → END

`perceive` checks the image and estimates its depth. `reason` asks the policy for its next turn. In mode tools an area
that the turn names goes to `focus`, which measures and crops it, and back to `reason`. A policy that used up a budget,
or said nothing of use, is asked once more (↺). `answer` gives the account. Modes direct and internal never focus. In
mode adaptive the one completion goes to `weigh`, which ends the run with it or begins anew in mode tools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.types import StreamWriter

from sifthinker.agent.config import DepthSource, focus_context
from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.nodes.answer import answer
from sifthinker.nodes.context import FocusContext, Mode
from sifthinker.nodes.focus import focus
from sifthinker.nodes.images import ImageStore
from sifthinker.nodes.perceive import perceive
from sifthinker.nodes.reason import end_if_set, reason
from sifthinker.nodes.state import FocusInput, FocusOutput, FocusState
from sifthinker.nodes.weigh import weigh
from sifthinker.policy.base import Policy
from sifthinker.policy.errors import SifthinkerError

FocusGraph = StateGraph[FocusState, FocusContext, FocusInput, FocusOutput]
Node = Callable[[FocusState, Runtime[FocusContext]], dict[str, Any]]


class BoundNode(Protocol):
    """A node as LangGraph calls it."""

    def __call__(self, state: FocusState, *, runtime: Runtime[FocusContext]) -> dict[str, Any]: ...


def after_reason(state: FocusState) -> Literal["focus", "reason", "weigh", "answer"]:
    """Where the policy's turn leads: to the area it named, to a further question, to its weighing, or to the end."""
    last = state["turns"][-1]
    if last["kind"] != "policy" or last["then"] == "ask":
        return "reason"
    return last["then"]


def after_weigh(state: FocusState) -> Literal["focus", "reason", "answer"]:
    """Whether the completion was enough; mode tools begins with its first area where that can be taken over."""
    last = state["turns"][-1]
    if last["kind"] == "weigh":
        return "reason" if last["went_on"] else "answer"
    return "focus"


def focus_graph(default: FocusContext | None = None) -> FocusGraph:
    """The graph as a builder. Runs without a `context` of their own take `default`."""
    graph = FocusGraph(FocusState, context_schema=FocusContext, input_schema=FocusInput, output_schema=FocusOutput)
    graph.add_node("perceive", _with(default, perceive))
    graph.add_node("reason", _with(default, reason))
    graph.add_node("focus", _with(default, focus))
    graph.add_node("weigh", _with(default, weigh))
    graph.add_node("answer", _with(default, answer))
    graph.add_edge(START, "perceive")
    graph.add_edge("perceive", "reason")
    graph.add_conditional_edges("reason", after_reason)
    graph.add_conditional_edges("weigh", after_weigh)
    graph.add_edge("focus", "reason")
    graph.add_edge("answer", END)
    return graph


def build_focus_graph(
    policy: str | Policy = "embedded",
    *,
    depth: DepthSource = None,
    mode: Mode = "tools",
    images: ImageStore | None = None,
    **settings: Any,
) -> FocusGraph:
    """The focus graph as a `StateGraph` builder, for whoever adds nodes or compiles it otherwise.

    See `create_focus_agent` for the arguments.
    """
    return focus_graph(focus_context(policy, depth=depth, mode=mode, images=images, **settings))


def create_focus_agent(
    policy: str | Policy = "embedded",
    *,
    depth: DepthSource = None,
    mode: Mode = "tools",
    checkpointer: BaseCheckpointSaver[Any] | bool | None = None,
    store: BaseStore | None = None,
    images: ImageStore | None = None,
    interrupt_on_focus: bool = False,
    name: str = "sifthinker",
    **settings: Any,
) -> FocusAgent:
    """The focus graph, compiled: an agent that takes and gives LangChain messages.

    Args:
        policy: a name ("embedded", a hub id, a folder, "openai:MODEL@URL") or a policy.
        depth: where depth comes from; None: what suits the policy, "none": boxes go without.
        mode: "direct", "internal", "tools" or "adaptive".
        checkpointer: remembers conversations by thread, and lets a killed run go on; None: nothing is remembered, or
            a parent graph's checkpointer serves.
        store: LangGraph's store, for nodes that others add.
        images: where pixels are kept; a `FolderImageStore` where threads outlive the process. In memory by default.
        interrupt_on_focus: pause before each crop, for a person to approve, edit or reject the boxes.
        name: of the agent, where several work together.
        settings: `tools`, visual tools beside the crop or their names (`sifthinker.nodes.tools`), and further fields of
            `FocusConfig`: budgets, temperature, seed, …

    Raises:
        UsageError: a name or setting that does not exist. PolicyLoadError, DepthError: a model that cannot be had.
    """
    context = focus_context(
        policy, depth=depth, mode=mode, images=images, interrupt_on_focus=interrupt_on_focus, **settings
    )
    compiled = focus_graph(context).compile(checkpointer=checkpointer, store=store, name=name)
    return FocusAgent.of(compiled, context)


def _with(default: FocusContext | None, node: Node) -> BoundNode:
    """The node with the default context where the run brings none, or one of another graph.

    A run that was stopped enters no further node, and what the node at hand came to is not kept: the thread may have
    forgotten the question meanwhile. Only an answer, which was told, stands.
    """

    def bound(state: FocusState, *, runtime: Runtime[FocusContext]) -> dict[str, Any]:
        if not isinstance(runtime.context, FocusContext) and default is not None:
            runtime = runtime.override(context=default)
        if (on_event := runtime.context.on_event) is not None:
            runtime = runtime.override(stream_writer=_both(runtime.stream_writer, on_event))
        end_if_set(runtime.context.stop)
        try:
            made = node(state, runtime)
        except SifthinkerError:
            end_if_set(runtime.context.stop)  # what failed after that is of no interest
            raise
        if node is not answer:
            end_if_set(runtime.context.stop)
        return made

    bound.__name__ = bound.__qualname__ = node.__name__
    bound.__doc__ = node.__doc__
    return bound


def _both(first: StreamWriter, second: StreamWriter) -> StreamWriter:
    def write(event: Any) -> None:
        first(event)
        second(event)

    return write
