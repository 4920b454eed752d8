"""What a person sees in the terminal: the steps as they come, with their crops, then the answer and what it cost.

The only place in the package that prints. Whatever a policy says is shown as plain text: neither rich's markup nor a
terminal's control characters in it have any effect.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image
from rich.console import Console
from rich.status import Status
from rich.text import Text

from sifthinker.agent.inline import Graphics, Inline, graphics_of
from sifthinker.agent.pictures import step_colour
from sifthinker.agent.words import box_words, cost_words, depth_words, plain, step_title
from sifthinker.nodes.events import (
    AnswerGiven,
    AreaProposed,
    CropTaken,
    DepthMeasured,
    FocusEvent,
    FocusPaused,
    Perceived,
    TextWritten,
    ToolUsed,
    Weighed,
)
from sifthinker.policy.trace import AreaBox

if TYPE_CHECKING:
    from sifthinker.agent.result import FocusResult
    from sifthinker.policy.boxes import Box

_INDENT = 4
_CELLS, _CELLS_OF_BLOCKS = (28, 8), (40, 12)
"""Columns and rows of a picture at most; of half blocks more, for a cell shows but two pixels."""


class FocusConsole:
    """Shows runs of the focus agent on a terminal, or as plain text where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=False)
        self.graphics = graphics_of(self.console, os.environ)
        self._status: Status | None = None
        self._waiting_boxes: list[AreaBox] = []  # of the area at hand, not printed yet
        self._waiting_badge: int | None = None

    @contextmanager
    def waiting(self, words: str) -> Iterator[None]:
        """A turning wheel with these words until the block ends; nothing where there is no terminal."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(Text(words, style="dim")) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def now(self, words: str) -> None:
        """Change the words beside the wheel."""
        if self._status is not None:
            self._status.update(Text(words, style="dim"))

    def show(self, event: FocusEvent) -> None:
        """One event of a run, as it comes."""
        match event:
            case Perceived():
                self._waiting_boxes, self._waiting_badge = [], None  # of a run that was broken off
                self.now("looking at the whole image")
            case AreaProposed():
                self._finish_area()
                self._begin_area(event)
            case DepthMeasured():
                self._print_box(event.box, event.depth)
            case CropTaken():
                self._print_box(event.box)
                self._print_crop(event.picture)
            case ToolUsed():
                self._print_box(event.box)
                self._print(Text(plain(f"{event.call}  {event.text}".rstrip()), style="cyan"), indent=_INDENT)
                self._print_crop(event.picture)
            case TextWritten():
                self._finish_area()
                self._print_text(event.text)
                self.now("looking further")
            case Weighed():
                self._finish_area()
                if event.went_on:
                    self._print(Text(plain(event.why), style="dim"))
            case FocusPaused():
                if not self._waiting_boxes:
                    self._begin_area(AreaProposed(step=event.step, boxes=event.boxes))
                self._finish_area()
                for words in event.tools:
                    self._print(Text(plain(f"would use {words}"), style="cyan"), indent=_INDENT)
            case AnswerGiven():
                self._finish_area()
                self._print_answer(event.answer)

    def picture(self, picture: Image.Image) -> None:
        """A picture, where the terminal can show one."""
        self._print_crop(picture)

    def replay(self, result: FocusResult) -> None:
        """The steps and the answer of a finished run, as they were shown when they came."""
        for number, step in enumerate(result.steps, 1):
            boxes = tuple(AreaBox(bbox_2d=box.bbox_2d, depth=box.depth) for box in step.boxes)
            self.show(AreaProposed(step=number, boxes=boxes))
            crops = iter(step.crops)
            for box, shown in zip(step.boxes, step.shown, strict=True):
                if box.measured_depth is not None:
                    self.show(DepthMeasured(step=number, box=box.bbox_2d, depth=box.measured_depth))
                if shown is not None and (crop := next(crops, None)) is not None:
                    taken = CropTaken(step=number, box=box.bbox_2d, shown=shown, size=crop.size)
                    self.show(taken.with_picture(crop))
            for found in step.findings:
                used = ToolUsed(step=number, box=step.boxes[found.box].bbox_2d, call=found.call, text=found.text)
                self.show(used.with_picture(found.picture))
            self.show(TextWritten(step=number, text=step.text))
        self.show(AnswerGiven(answer=result.answer))

    def finish(self, result: FocusResult) -> None:
        """What stands below the answer: what it cost, and what to know before trusting it."""
        self._finish_area()
        self._print(Text(plain(" · ".join(cost_words(result))), style="dim"))
        if result.adaptive is not None and not result.adaptive.went_on:
            self._print(Text(plain(result.adaptive.why), style="dim"))
        for warning in result.warnings:
            self.note(f"Note: {warning}")

    def note(self, words: str) -> None:
        """A sentence that stands out."""
        self._print(Text(plain(words), style="yellow"))

    def check(self, name: str, state: str, words: str) -> None:
        """A line of the doctor's: a mark, what was looked at, what was found."""
        mark, style = {"ok": ("✓", "green"), "missing": ("–", "dim")}.get(state, ("✗", "bold red"))
        self.console.print(Text.assemble((mark, style), f" {name:<28} ", plain(words)), soft_wrap=True)

    def say(self, words: str = "") -> None:
        """A plain sentence."""
        self._print(Text(plain(words)))

    def trouble(self, words: str) -> None:
        """A sentence about something that went wrong while the program goes on."""
        self._print(Text(plain(words), style="red"))

    def _begin_area(self, event: AreaProposed) -> None:
        self._waiting_boxes = list(event.boxes)
        self._waiting_badge = event.step
        self.now(f"step {event.step}: looking at {step_title([entry.bbox_2d for entry in event.boxes])}")

    def _print_box(self, box: Box, measured: float | None = None) -> None:
        """The line of a box of the area at hand, once: its depth is measured before its crop comes."""
        entry = next((entry for entry in self._waiting_boxes if entry.bbox_2d == box), None)
        if entry is None:
            return
        self._waiting_boxes.remove(entry)
        margin = Text(" " * _INDENT) if self._waiting_badge is None else self._badge(self._waiting_badge)
        self._waiting_badge = None
        depth = depth_words(entry.depth, measured)
        words = Text.assemble(margin, (box_words(box), "bold"), (f"   {depth}" if depth else "", "dim"))
        self.console.print(words, soft_wrap=True)

    def _finish_area(self) -> None:
        """Print the boxes of which nothing was measured."""
        for entry in list(self._waiting_boxes):
            self._print_box(entry.bbox_2d)

    def _print_crop(self, picture: Image.Image | None) -> None:
        if picture is not None and self.graphics is not Graphics.NONE:
            columns, rows = _CELLS_OF_BLOCKS if self.graphics is Graphics.BLOCKS else _CELLS
            self.console.print(Inline(picture, self.graphics, columns=columns, rows=rows, indent=_INDENT), end="")

    def _print_text(self, text: str) -> None:
        """A text below its boxes."""
        if text.strip():
            self._print(Text(plain(text.strip())), indent=_INDENT)

    def _print(self, words: Text, *, indent: int = 0) -> None:
        """Words, wrapped for a terminal; left in one piece for a file or a pipe, where a wrapped path is no path."""
        if not self.console.is_terminal:
            lines = words.split("\n")
        else:
            lines = words.wrap(self.console, max(20, self.console.width - indent))
        for line in lines:
            line.rstrip()
            self.console.print(Text(" " * indent) + line, soft_wrap=True)

    def _print_answer(self, answer: str) -> None:
        self.console.print()
        words = Text.assemble(("Answer", "bold green"), "  ", (plain(answer) or "none", "bold"))
        self.console.print(words, soft_wrap=not self.console.is_terminal)  # a pipe gets it on one line

    def _badge(self, number: int) -> Text:
        if self.console.no_color or not self.console.is_terminal:
            return Text(f"{number}.".ljust(_INDENT))
        return Text.assemble((f" {number} ", f"bold white on {step_colour(number - 1)}"), " ")


def write_json(value: Mapping[str, object]) -> None:
    """One JSON object on standard output, for another program: on one line, unless a person reads it."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, ensure_ascii=encoding != "utf8", indent=indent) + "\n")
