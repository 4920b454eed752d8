"""What `sifthinker chat` does: a history opened, a policy loaded, then line after line until the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import cast

from sifthinker.agent.asking import chosen_policy, chosen_tools, files_read, run_settings
from sifthinker.agent.chat import PAUSED_PROMPT, PROMPT, Chat
from sifthinker.agent.console import FocusConsole
from sifthinker.agent.graph import create_focus_agent
from sifthinker.agent.history import NO_SQLITE, History, new_thread, open_history
from sifthinker.agent.typing_aid import completions
from sifthinker.nodes.context import Mode
from sifthinker.policy.base import PolicyProfile


def run_chat(
    *,
    image: str | None,
    policy: str,
    mode: str,
    depth: str | None,
    settings: Sequence[str],
    resume: bool,
    confirm: bool = False,
    tools: Sequence[str] = (),
) -> None:
    """Chat on standard input until it ends.

    Raises:
        UsageError, PolicyError, ImageError, …: what is wrong before the first question.
    """
    console = FocusConsole()
    history = open_history()
    try:
        thread_id = history.last_thread() if resume else new_thread()
        with console.waiting(f"loading {policy}"):
            agent = create_focus_agent(
                chosen_policy(policy, settings),
                depth=depth,
                mode=cast(Mode, mode),
                checkpointer=history.checkpointer,
                images=history.images,
                tools=chosen_tools(tools),
                **run_settings(settings),
            )
        reads = files_read(None, depth)
        chat = Chat(agent, console, thread_id=thread_id, mode=cast(Mode, mode), confirm=confirm, reads=reads)
        _greet(console, history, agent.context.policy.profile)
        if resume:
            chat.go_on()
        if image is not None:
            chat.use_image(image)
        for line in _lines(console, lambda: PROMPT if chat.paused is None else PAUSED_PROMPT, chat.choices):
            chat.answer(line)
            if chat.over:
                return
    finally:
        history.close()


def _greet(console: FocusConsole, history: History, profile: PolicyProfile) -> None:
    console.say("Ask about an image; /help lists what else can be done.")
    if profile.domain is not None:
        console.note(
            f"The policy {profile.name!r} knows the {profile.domain} only: name another with --policy for photographs."
        )
    if not profile.follows_conversations:
        console.note(f"The policy {profile.name!r} takes each question by itself: say again what it is about.")
    if history.folder is None:
        console.note(f"This conversation is forgotten at the end. To keep conversations: {NO_SQLITE}")


def _lines(console: FocusConsole, prompt: Callable[[], str], choices: Callable[[str], Sequence[str]]) -> Iterator[str]:
    """The lines typed, with editing, recall and Tab on a terminal; those of a pipe are repeated, read in place."""
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):
            _edit_lines(choices)
    while True:
        try:
            line = input(prompt()) if typed else next(sys.stdin).rstrip("\n")
        except (EOFError, StopIteration):
            if typed:
                console.say()
            return
        except KeyboardInterrupt:
            console.say()
            console.note("Ctrl-D or /quit leaves.")
            continue
        if not typed:
            console.say(f"{prompt()}{line}")
        yield line


def _edit_lines(choices: Callable[[str], Sequence[str]]) -> None:
    """Give `input` its line editing, its recall of earlier lines, and Tab for commands and paths.

    Raises:
        ImportError: this Python has no readline (Windows).
    """
    import readline

    found: list[str] = []

    def complete(text: str, index: int) -> str | None:
        if index == 0:
            found[:] = completions(readline.get_line_buffer()[: readline.get_endidx()], choices)
        return found[index] if index < len(found) else None

    readline.set_completer_delims("")  # the whole line is completed: a path may hold spaces
    readline.set_completer(complete)
    # macOS's Python is built on editline, which has another language for this.
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
