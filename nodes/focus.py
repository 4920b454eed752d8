"""The node that looks: it measures the depth of the proposed boxes and crops them from the full-resolution image."""

from __future__ import annotations

import time
from collections.abc import Sequence

from langgraph.runtime import Runtime
from langgraph.types import StreamWriter

from sifthinker.nodes.context import FocusConfig, FocusContext, View
from sifthinker.nodes.conversation import as_box, focus_turns, policy_turns, shown_depth, spent, the_look
from sifthinker.nodes.events import CropTaken, DepthMeasured, Warned
from sifthinker.nodes.person import FocusRequest, ask_person
from sifthinker.nodes.reading import read_turn
from sifthinker.nodes.state import AskTurn, BoxRecord, FocusState, FocusTurn, ToolRecord, Turn, Xyxy
from sifthinker.nodes.tool_use import ToolUser
from sifthinker.policy.boxes import Box, area
from sifthinker.policy.trace import AreaBox


def focus(state: FocusState, runtime: Runtime[FocusContext]) -> dict[str, list[Turn]]:
    """Look at the area that the policy proposed: measure the depth of each box, crop it, reply.

    No crop is taken of a box that covers nearly the whole image, nor again of what a crop has shown: the policy has
    those pixels. When a crop does not fit into the conversation any more, the policy is asked for its answer.
    """
    context, look, turns = runtime.context, the_look(state), state["turns"]
    config, view = context.config, context.view(look["image"])
    turn = policy_turns(turns)[-1]
    step = turn["steps"]
    reading = read_turn(context.dialect, turn["said"], image_size=view.image.size, mode="tools", final=False)
    proposed, warnings = _allowed(reading.boxes, step, config)
    reply = FocusTurn(kind="focus", boxes=[], crops=[], seconds=0.0)
    calls = {call.box: call for call in reading.calls}
    if config.interrupt_on_focus or context.pause_at == step:
        named = [(number, calls.get(box.bbox_2d)) for number, box in enumerate(proposed, 1)]
        asked = tuple(f"{call.name} on box {number}" for number, call in named if call is not None)
        decision = ask_person(FocusRequest(step=step, image=look["image"], boxes=proposed, tools=asked))
        if decision.action != "approve":
            reply["person"], reply["note"] = decision.action, decision.reason
        if decision.action == "edit":
            proposed, more = _allowed(decision.edited(), step, config)
            warnings += [f"The boxes of step {step} were set by a person.", *more]
        elif decision.action == "reject":
            proposed = ()
            warnings.append(f"The boxes of step {step} were declined by a person.")

    started = time.perf_counter()
    most = min(config.max_images, context.policy.profile.max_images)
    used = spent(look, turns, depth_shown=shown_depth(view, context) is not None).images
    looker = _Looker(view, config, runtime.stream_writer, step=step, room=most - used, seen=_seen(turns))
    user = ToolUser(context, view, runtime.stream_writer, step=step)
    found: list[ToolRecord] = []
    for index, box in enumerate(proposed):
        record, shown = looker.look_at(box)
        reply["boxes"].append(record)
        reply["crops"].append(shown)
        found += user.use(box.bbox_2d, calls.get(box.bbox_2d), index=index, room=looker)
    if found:
        reply["tools"] = found
        warnings += user.warnings
    new: list[Turn] = [reply]
    if looker.left_out:
        warning = (
            f"The budget of {most} image{'' if most == 1 else 's'} is used up: the policy was asked for its answer."
        )
        new.append(AskTurn(kind="ask", what="answer_now", warnings=[warning]))
        runtime.stream_writer(Warned(message=warning))
    if warnings:
        reply["warnings"] = warnings
    for warning in warnings:
        runtime.stream_writer(Warned(message=warning))
    reply["seconds"] = time.perf_counter() - started
    return {"turns": new}


class _Looker:
    """Looks at the boxes of one area, one after another."""

    def __init__(
        self, view: View, config: FocusConfig, writer: StreamWriter, *, step: int, room: int, seen: set[Box]
    ) -> None:
        self.view, self.config, self.writer, self.step = view, config, writer, step
        self.room = room
        """Images that the conversation still takes."""
        self.seen = seen
        """What crops have shown so far."""
        self.left_out = 0
        """Crops, and pictures of tools, that no longer fitted."""

    def look_at(self, box: AreaBox) -> tuple[BoxRecord, Xyxy | None]:
        """The record of a box with its measured depth, and what its crop shows (None: no crop)."""
        xyxy = box.bbox_2d
        depth = None if self.view.depth is None else self.view.depth.mean(xyxy)
        if depth is not None:
            self.writer(DepthMeasured(step=self.step, box=xyxy, depth=depth))
        return BoxRecord(bbox_2d=list(xyxy), depth=box.depth, measured_depth=depth), self._crop(xyxy)

    def takes_one_more(self) -> bool:
        """Whether another image fits, which is then counted."""
        if self.room <= 0:
            self.left_out += 1
            return False
        self.room -= 1
        return True

    def _crop(self, xyxy: Box) -> Xyxy | None:
        if area(xyxy) >= self.config.whole_share:
            return None
        picture, shown = self.view.crop(xyxy, min_px=self.config.min_crop_px)
        if shown in self.seen:
            return None
        if not self.takes_one_more():
            return None
        self.seen.add(shown)
        self.writer(CropTaken(step=self.step, box=xyxy, shown=shown, size=picture.size).with_picture(picture))
        return list(shown)


def _seen(turns: Sequence[Turn]) -> set[Box]:
    return {as_box(shown) for turn in focus_turns(turns) for shown in turn["crops"] if shown is not None}


def _allowed(boxes: Sequence[AreaBox], step: int, config: FocusConfig) -> tuple[tuple[AreaBox, ...], list[str]]:
    """The boxes that are looked at, and what is said about the others."""
    if len(boxes) <= config.max_boxes:
        return tuple(boxes), []
    return tuple(boxes[: config.max_boxes]), [
        f"Step {step} named {len(boxes)} boxes: the first {config.max_boxes} were looked at, as many as are allowed."
    ]
