"""The node that asks the policy: one call, streamed, within what is left of the budgets."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from langgraph.runtime import Runtime
from langgraph.types import StreamWriter

from sifthinker.nodes.context import FocusContext, RunStopped
from sifthinker.nodes.conversation import (
    Spent,
    conversation,
    named_so_far,
    said_so_far,
    shown_depth,
    spent,
    the_look,
    used_up,
)
from sifthinker.nodes.events import AreaProposed, TextWritten, Warned
from sifthinker.nodes.parts import this_part
from sifthinker.nodes.reading import Reading, read_turn
from sifthinker.nodes.state import AskTurn, FocusState, PolicyTurn, Turn
from sifthinker.policy.base import Completion, PolicyProfile
from sifthinker.policy.boxes import Size
from sifthinker.policy.confidence import answer_confidence
from sifthinker.policy.errors import PolicyTimeout
from sifthinker.policy.trace import AreaBox, AreaEvent, TextEvent, TraceStream

ANSWER_TOKENS = 256
"""Tokens that an answer asked for at the end may have, whatever is left of the budget."""

ANSWER_SECONDS = 15.0
"""Seconds it may take, whatever is left of the deadline."""


def reason(state: FocusState, runtime: Runtime[FocusContext]) -> dict[str, list[Turn]]:
    """Ask the policy for its next turn, and decide where the run goes from there.

    An answer ends the run; an area goes to the focus node while the budgets last. A policy that has used one up is
    asked once for its answer; one that said nothing of use is asked once more. The completion of mode adaptive is
    weighed, also one without an answer.

    Raises:
        PolicyTimeout: the server did not answer in time, not even when asked for its answer, and nothing had been said
            before.
        PolicyUnavailable: the server failed or is gone, whatever had been said: the thread goes on from there once it
            is back (`FocusAgent.resume`), and nothing is counted as an answer.
        RunStopped: `context.stop` or `context.abandoned` was set. What the policy said last is then given up.
    """
    context, look, turns = runtime.context, the_look(state), state["turns"]
    end_if_set(context.stop, context.abandoned)
    part = this_part(look, turns)
    named = named_so_far(part.turns)
    to_weigh = look["mode"] == "adaptive" and part.mode == "internal"
    view = context.view(look["image"])
    depth_shown = shown_depth(view, context) is not None
    before = spent(look, turns, depth_shown=depth_shown)
    final = "answer_now" in before.asked
    teller = _Teller(runtime.stream_writer, context.policy.profile, view.image.size, step=named)

    turn, over = _call(state, context, before, final=final, teller=teller, to_weigh=to_weigh)
    end_if_set(context.stop)
    cut = over is not None
    reading = read_turn(context.dialect, turn["said"], image_size=view.image.size, mode=part.mode, final=final, cut=cut)
    if cut:
        turn["cut"] = True
    teller.tell(reading)
    warnings = [*turn.get("warnings", ()), *reading.warnings]
    turn["then"] = "focus" if reading.boxes else "weigh" if to_weigh else "answer"
    turn["steps"] = named + len(reading.steps) + bool(reading.boxes)
    new: list[Turn] = [turn]
    if not reading.answer and not final:
        after = spent(look, [*turns, turn], depth_shown=depth_shown)
        budget = used_up(after, context.config, step_wanted=bool(reading.boxes) or to_weigh)
        if to_weigh and budget is None:  # tools are tried next, so nothing more is asked of this completion
            warnings += [f"{over}."] if over is not None else []
        else:
            again = context.policy.profile.dialect == "native" and "retry" not in before.asked
            ask = _ask_besides(reading, over or budget, again=again)
            if ask is not None:
                turn["then"] = "ask"
                new.append(ask)
    elif not reading.answer:
        warnings.append("The policy gave no answer, not even when asked for it.")
    if warnings:
        turn["warnings"] = warnings
    for warning in (warning for entry in new for warning in entry.get("warnings", ())):
        runtime.stream_writer(Warned(message=warning))
    return {"turns": new}


def end_if_set(*events: threading.Event | None) -> None:
    """Raise `RunStopped` where one of these events (`FocusContext.stop`, `FocusContext.abandoned`) is set."""
    if any(event is not None and event.is_set() for event in events):
        raise RunStopped("The run was stopped.")


def _call(
    state: FocusState, context: FocusContext, before: Spent, *, final: bool, teller: _Teller, to_weigh: bool
) -> tuple[PolicyTurn, str | None]:
    """One call of the policy; beside its turn, what budget cut it off."""
    config = context.config
    mode = this_part(the_look(state), state["turns"]).mode
    policy = getattr(context.policy, "with_logprobs", context.policy) if to_weigh else context.policy
    seconds_left = max(config.deadline_s - before.seconds, ANSWER_SECONDS if final else 1.0)
    tokens_left = max(config.max_new_tokens - before.tokens, ANSWER_TOKENS if final else 1)
    timeout = min(config.call_timeout_s, seconds_left)
    started = time.perf_counter()
    turn = PolicyTurn(kind="policy", said="", then="answer", steps=0, tokens=[0, 0, 0], seconds=0.0)
    over = None
    listener = _Listener(context, None if final else teller)
    try:
        completion = policy.generate(
            conversation(state, context),
            stop=context.dialect.stop_strings("direct" if final else mode),
            max_new_tokens=tokens_left,
            temperature=config.temperature,
            seed=config.seed,
            timeout=timeout,
            on_token=listener if listener.needed else None,
        )
    except PolicyTimeout as error:
        end_if_set(context.stop)
        if final and not said_so_far(state["turns"]):
            raise
        over = str(error).rstrip(".")
    except _Flooded:
        completion = Completion("".join(listener.pieces), completion_tokens=len(listener.pieces))
    if over is None:
        turn["said"] = _within(completion.text, config.max_completion_bytes)
        turn["tokens"] = [completion.prompt_tokens, completion.completion_tokens, completion.images]
        if to_weigh and completion.token_logprobs:
            turn["confidence"] = answer_confidence(completion)
        if len(turn["said"]) < len(completion.text):
            over = f"The policy wrote more than {config.max_completion_bytes} bytes in one turn; the rest was cut off"
        elif completion.finish_reason == "length":
            over = f"The budget of {config.max_new_tokens} new tokens is used up"
        elif completion.finish_reason == "deadline":
            over = f"The policy did not finish within {timeout:.3g} s"
    turn["seconds"] = time.perf_counter() - started
    if final and over is not None:
        turn["warnings"] = [f"{over}."]
    return turn, over


def _ask_besides(reading: Reading, over: str | None, *, again: bool) -> AskTurn | None:
    """What the policy is asked when its turn brought no answer; None when it brought an area to look at.

    `again`: whether it may be told what could not be read. A trained policy knows no talk about its mistakes.
    """
    if over is not None:
        return AskTurn(kind="ask", what="answer_now", warnings=[f"{over}: the policy was asked for its answer."])
    if reading.boxes:
        return None
    if again:
        problems = list(reading.problems) or ["It holds neither an area nor an answer."]
        warning = f"The policy's turn could not be used ({' '.join(problems)}); it was asked once more."
        return AskTurn(kind="ask", what="retry", problems=problems, warnings=[warning])
    warning = "The policy gave neither an area nor an answer that could be read: it was asked for its answer."
    return AskTurn(kind="ask", what="answer_now", warnings=[warning])


def _within(text: str, max_bytes: int) -> str:
    """The beginning of a text, at most `max_bytes` long in UTF-8; lone surrogates become question marks."""
    encoded = text.encode("utf-8", errors="replace")
    return encoded[:max_bytes].decode("utf-8", errors="ignore")


class _Flooded(Exception):
    """The policy wrote more than a turn may hold."""


class _Listener:
    """Hears each piece of text as it is written: passes it on, and ends the call when it must end."""

    def __init__(self, context: FocusContext, teller: _Teller | None) -> None:
        self._stop, self._max_bytes = context.stop, context.config.max_completion_bytes
        self._teller = teller if teller is not None and teller.live else None
        self._bytes = 0
        self.pieces: list[str] = []

    @property
    def needed(self) -> bool:
        """Whether there is anything to listen for: a server tries a broken call again only if nobody listens."""
        return self._stop is not None or self._teller is not None

    def __call__(self, piece: str) -> None:
        end_if_set(self._stop)
        if self._teller is not None:
            self._teller.heard(piece)
        self.pieces.append(piece)
        self._bytes += len(piece.encode("utf-8", errors="replace"))
        if self._bytes > self._max_bytes:
            raise _Flooded


class _Teller:
    """Tells areas and texts as events: while they are written where the policy keeps to the grammar, else once read."""

    def __init__(self, writer: StreamWriter, profile: PolicyProfile, image_size: Size, *, step: int) -> None:
        self._writer = writer
        self._step = step  # steps told so far
        self._stream = None
        if profile.dialect == "sif":
            self._stream = TraceStream(
                space=profile.box_space,
                image_size=profile.shown_size(image_size),
                resized_size=profile.resized_size(image_size),
            )

    @property
    def live(self) -> bool:
        """Whether it tells while the policy writes."""
        return self._stream is not None

    def heard(self, piece: str) -> None:
        """Take in a piece of text."""
        if self._stream is None:
            return
        for event in self._stream.feed(piece):
            match event:
                case AreaEvent():
                    self._area(event.boxes)
                case TextEvent():
                    self._text(event.text)

    def tell(self, reading: Reading) -> None:
        """Tell a turn that was read as a whole."""
        if self._stream is not None:
            return
        if reading.text:
            self._text(reading.text)
        for step in reading.steps:
            self._area(step.boxes)
            self._text(step.text)
        if reading.boxes:
            self._area(reading.boxes)

    def _area(self, boxes: Sequence[AreaBox]) -> None:
        self._step += 1
        self._writer(AreaProposed(step=self._step, boxes=tuple(boxes)))

    def _text(self, text: str) -> None:
        self._writer(TextWritten(step=max(self._step, 1), text=text))
