"""`sifthinker chat`: several questions, about one image or more, answered as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from langchain_core.messages import AnyMessage, HumanMessage
from PIL import Image

from sifthinker.agent.console import FocusConsole
from sifthinker.agent.deciding import FORMS, typed_decision
from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.agent.forgetting import forget_question, forget_unanswered, forgotten_image
from sifthinker.agent.pictures import annotate
from sifthinker.agent.result import FocusResult
from sifthinker.agent.typing_aid import is_picture, typed_path
from sifthinker.agent.words import counted
from sifthinker.nodes.context import Mode
from sifthinker.nodes.events import AreaProposed, FocusEvent, FocusPaused
from sifthinker.nodes.images import load_image
from sifthinker.policy.errors import SifthinkerError, UsageError

PROMPT = "> "
PAUSED_PROMPT = "look? "
_BLINK_S = 0.1
WHILE_PAUSED = {"stop", "help", "quit", "confirm"}
"""Commands that may come in place of a decision."""


class Chat:
    """One conversation. `answer` takes a line as it was typed: a question, or a command that begins with `/`."""

    def __init__(
        self,
        agent: FocusAgent,
        console: FocusConsole,
        *,
        thread_id: str,
        mode: Mode,
        confirm: bool = False,
        reads: Iterable[Path] = (),
    ) -> None:
        self.agent = asking_first(agent, confirm)
        self.console = console
        self.mode = mode
        self.over = False
        self.paused: FocusPaused | None = None
        """What waits for a decision: the next line is one."""
        self._config: Any = {"configurable": {"thread_id": thread_id}}
        self._thread_id = thread_id
        self._new_image: Image.Image | None = None  # named, but not asked about yet
        self._image_name = ""
        self._reads = list(reads)  # files that nothing is saved over: the depth image, the pictures named here
        self._options: Sequence[str] = ()
        self._unanswered = False  # a question of an earlier chat, which could not be gone on with
        self._stands_again = False  # an answer that a fork had left, which was given up; to be told
        self._commands: dict[str, Callable[[str], None]] = {
            "image": self.use_image,
            "mode": self.use_mode,
            "options": self.use_options,
            "steps": self.show_steps,
            "save": self.save,
            "undo": self.undo,
            "confirm": self.use_confirm,
            "fork": self.fork,
            "stop": self.stop,
            "help": self.help,
            "quit": self.quit,
        }

    def answer(self, line: str) -> None:
        """Do what a line says. Errors are told, and the chat goes on; Ctrl-C stops the answer alone."""
        words = line.strip()
        if not words and self.paused is None:
            return
        try:
            if words.startswith("/") and not is_picture(words):
                name, _, rest = words[1:].partition(" ")
                if name not in self._commands:
                    raise UsageError(f"There is no /{name}: /help lists what there is.")
                if self.paused is not None and name not in WHILE_PAUSED:
                    raise UsageError(f"A decision is waited for. {FORMS}.")
                self._commands[name](rest.strip())
            elif self.paused is not None:
                self.decide(words)
            elif is_picture(words):
                self.use_image(words)
            else:
                self.ask(words)
        except (SifthinkerError, OSError) as error:
            self.console.trouble(str(error))
        except KeyboardInterrupt:
            self.console.say()
            self.console.note("Stopped.")
        if self._stands_again:
            self._stands_again = False
            self.console.note("The answer from before stands.")

    def ask(self, question: str) -> None:
        """Answer a question about the image at hand, showing each step; an unfinished one is not remembered."""
        if self._new_image is None and not self._messages():
            raise UsageError("There is no image yet: name one with /image PATH.")
        if self._unanswered:
            self._forget_unanswered()
        parts = self.agent.ask_stream(
            question, image=self._new_image, options=self._options, thread_id=self._thread_id, mode=self.mode
        )
        self._answer(parts)

    def decide(self, words: str) -> None:
        """Go on with a run that waits for a person. Where the words decide nothing, it goes on waiting."""
        decision = typed_decision(words)
        if decision.action == "edit" and self.paused is not None:
            self.console.show(AreaProposed(step=self.paused.step, boxes=decision.edited()))
        self.paused = None
        self._answer(self.agent.resume(self._thread_id, decision, mode=self.mode))

    def go_on(self) -> None:
        """Take up a conversation again: tell what it came to, and finish the question that was left unfinished."""
        messages = self._messages()
        asked = [message for message in messages if isinstance(message, HumanMessage)]
        self.console.say(f"Resumed after {counted(len(asked), 'question')}.")
        if asked:
            self.console.say(f"The last was: {asked[-1].text}")
        if self.agent.get_state(self._config).next:
            self.console.say("It was not answered yet; going on with it.")
            self._finish_unanswered()
        elif (result := self.last_result()) is not None:
            self.console.say(f"The answer was: {result.answer or 'none'}")
        if self._take_forgotten_image():
            self.console.say("The image is the one that was named last.")

    def _finish_unanswered(self) -> None:
        """Go on with a question that an earlier chat left; one that fails again is left as it was."""
        try:
            self._show(self.agent.resume(self._thread_id))
            return
        except (SifthinkerError, OSError) as error:
            self.console.trouble(str(error))
        except KeyboardInterrupt:
            self.console.say()
        self._unanswered = True
        self.console.note("It stays unanswered: --resume tries again later, the next question takes its place.")

    def last_result(self) -> FocusResult | None:
        """What the last question came to."""
        record = self.agent.get_state(self._config).values.get("result")
        if record is None:
            return None
        context = self.agent.context
        return FocusResult.from_record(record, context.view(record["image"]), context.images)

    def choices(self, command: str) -> list[str]:
        """The words that a command takes, to be completed; for "": the commands."""
        if not command:
            return [f"/{name}" for name in self._commands]
        return {"/mode": list(get_args(Mode)), "/confirm": ["on", "off"]}.get(command, [])

    # ── commands ──

    def use_image(self, path: str) -> None:
        """/image PATH: ask about another image; a picture dropped into the terminal will do as well."""
        if not path:
            raise UsageError("Expected /image PATH.")
        file = typed_path(path)
        is_address = "://" in path and not path.lower().startswith("file:")  # refused, in words of its own
        loaded = load_image(path if is_address else file, limits=self.agent.context.config.limits)
        self._new_image, self._image_name = loaded.image, file.name
        self._reads.append(file)
        self.console.say(f"Now about {self._image_name}, {loaded.size[0]} × {loaded.size[1]}.")
        self.console.picture(loaded.image)
        for warning in loaded.warnings:
            self.console.note(f"Note: {warning}")

    def use_mode(self, mode: str) -> None:
        """/mode MODE: direct, internal, tools or adaptive; without a name: which it is."""
        if mode and mode not in get_args(Mode):
            raise UsageError(f"Expected one of the modes {', '.join(get_args(Mode))}, got {mode!r}.")
        self.mode = cast(Mode, mode or self.mode)
        self.console.say(f"Mode: {self.mode}.")

    def use_options(self, options: str) -> None:
        """/options A; B; …: the answers to choose from, for the next question."""
        self._options = [option.strip() for option in options.split(";") if option.strip()]
        self.console.say(f"For the next question: {' or '.join(self._options) or 'any answer'}.")

    def show_steps(self, _: str) -> None:
        """/steps: the last answer's steps once more."""
        self.console.replay(self._needed_result())

    def save(self, folder: str) -> None:
        """/save DIR: write the last answer's report, pictures and JSON into a folder."""
        from sifthinker.agent.saving import save_run, writable_folder

        if not folder:
            raise UsageError("Expected /save DIR.")
        result = self._needed_result()
        with writable_folder(typed_path(folder), reads=self._reads) as path:
            name = self._image_name if self._new_image is None else ""  # another image may have been named since
            self.console.say(f"Saved: {save_run(result, path, image_name=name)}")

    def undo(self, _: str) -> None:
        """/undo: forget the last question and its answer."""
        if not forget_question(self.agent, self._thread_id):
            raise UsageError("There is nothing to undo.")
        self._take_forgotten_image()
        left = sum(isinstance(message, HumanMessage) for message in self._messages())
        self.console.say(f"Forgotten; {counted(left, 'question')} left.")

    def use_confirm(self, words: str) -> None:
        """/confirm on|off: ask before each look, to approve, edit or decline the boxes."""
        if words not in ("", "on", "off"):
            raise UsageError("Expected /confirm on or /confirm off.")
        if words:
            self.agent = asking_first(self.agent, words == "on")
        on = self.agent.context.config.interrupt_on_focus
        self.console.say(f"Before each look you are {'' if on else 'not '}asked.")

    def fork(self, words: str) -> None:
        """/fork N [BOXES]: go back to step N of the last answer, before its look, and go on otherwise."""
        number, _, rest = words.partition(" ")
        if not number.isdigit():
            raise UsageError("Expected /fork N, the number of a step, or /fork N x1,y1,x2,y2; …")
        decision = typed_decision(rest) if rest.strip() else None
        parts = self.agent.fork(self._thread_id, int(number), decision)
        if decision is not None and decision.action == "edit":  # which the run does not tell: it was not asked
            parts = _led_by(AreaProposed(step=int(number), boxes=decision.edited()), parts)
        self._answer(parts)

    def stop(self, _: str) -> None:
        """/stop: drop the question that waits for a decision."""
        if self.paused is None:
            raise UsageError("No question waits for a decision.")
        self._forget_unanswered()
        self.console.note("Stopped.")

    def help(self, _: str) -> None:
        """/help: this list."""
        for command in self._commands.values():
            self.console.say(f"  {command.__doc__}")
        self.console.say("Anything else is a question. Ctrl-C stops an answer, Ctrl-D or /quit leaves.")

    def quit(self, _: str) -> None:
        """/quit: leave."""
        self.over = True

    # ── inside ──

    def _answer(self, parts: Iterator[FocusEvent | FocusResult]) -> None:
        """Show a run to its end, or to where it waits for a person. One that fails is not remembered."""
        self._wait_for_the_stopped()
        try:
            self._show(parts)
        except (SifthinkerError, OSError, KeyboardInterrupt):
            self._forget_unanswered()
            raise
        self._new_image, self._options = None, ()

    def _wait_for_the_stopped(self) -> None:
        """Wait until the policy has let go of a stopped answer: a server may take long to say its first word."""
        if self.agent.answering(self._thread_id):
            with self.console.waiting("the stopped answer is still ending"):
                while self.agent.answering(self._thread_id):
                    time.sleep(_BLINK_S)

    def _show(self, parts: Iterator[FocusEvent | FocusResult]) -> None:
        with self.console.waiting("looking"):
            for part in parts:
                if isinstance(part, FocusResult):
                    self.console.finish(part)
                    self.console.say()
                    continue
                self.console.show(part)
                if isinstance(part, FocusPaused):
                    self.paused = part
        if self.paused is not None:
            image = self.agent.context.view(self.paused.image).image
            self.console.picture(annotate(image, [[box.bbox_2d for box in self.paused.boxes]]))
            self.console.say(f"Look there? {FORMS}.")

    def _messages(self) -> list[AnyMessage]:
        return list(self.agent.get_state(self._config).values.get("messages", []))

    def _needed_result(self) -> FocusResult:
        result = self.last_result()
        if result is None:
            raise UsageError("There is no answer yet: ask a question first.")
        return result

    def _forget_unanswered(self) -> None:
        """Give up a question that failed or was stopped."""
        self.paused, self._unanswered = None, False
        self._stands_again = forget_unanswered(self.agent, self._thread_id)
        self._take_forgotten_image()

    def _take_forgotten_image(self) -> bool:
        """Have the image of the question that was forgotten last at hand, also when it was the only one.

        Returns:
            Whether that is another than before.
        """
        image = forgotten_image(self.agent, self._thread_id)
        if image is None or self._new_image is not None:
            return False
        self._new_image = self.agent.context.images.get(image)
        return True


def _led_by(event: FocusEvent, parts: Iterator[FocusEvent | FocusResult]) -> Iterator[FocusEvent | FocusResult]:
    """The parts of a run with an event before the first: nothing, where the run does not begin."""
    for place, part in enumerate(parts):
        if not place:
            yield event
        yield part


def asking_first(agent: FocusAgent, confirm: bool) -> FocusAgent:
    """The agent as one that asks a person before each look, or does not."""
    config = agent.context.config.model_copy(update={"interrupt_on_focus": confirm})
    return agent.copy({"context": replace(agent.context, config=config)})
