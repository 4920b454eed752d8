"""The terminal chat: follow-ups, commands, an interrupt that stops the answer alone, and going on another day."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image
from rich.console import Console
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import cli, config, create_focus_agent
from sifthinker.agent.chat import Chat
from sifthinker.agent.console import FocusConsole
from sifthinker.agent.typing_aid import completions
from sifthinker.policy.base import Policy
from sifthinker.policy.errors import PolicyUnavailable

LEFT, RIGHT = (0.1, 0.2, 0.4, 0.6), (0.5, 0.2, 0.9, 0.6)
DIRECT = "<answer>yes</answer>"


def photo(path: Path, colour: str = "teal") -> Path:
    Image.new("RGB", (120, 80), colour).save(path)
    return path


class Typed:
    """A chat and what it printed since one last looked."""

    def __init__(self, policy: Policy, mode: str = "direct") -> None:
        self.out = io.StringIO()
        console = FocusConsole(Console(file=self.out, width=100, highlight=False))
        agent = create_focus_agent(policy, depth="none", mode=mode, checkpointer=InMemorySaver())  # type: ignore[arg-type]
        self.chat = Chat(agent, console, thread_id="one", mode=mode)  # type: ignore[arg-type]

    def __call__(self, line: str) -> str:
        self.out.seek(0)
        self.out.truncate()
        self.chat.answer(line)
        return self.out.getvalue()


def test_a_follow_up_sees_the_question_before_and_its_regions(tmp_path: Path) -> None:
    policy = ScriptedPolicy(*focus_lines(LEFT, answer="the left"), *focus_lines(RIGHT, answer="the right"))
    typed = Typed(policy, "tools")
    typed(f"/image {photo(tmp_path / 'a.png')}")
    assert "Answer  the left" in typed("Which is closer?")
    assert "Answer  the right" in typed("And the one behind it?")
    told = "".join(turn.text for turn in policy.heard[-1])
    assert "Which is closer?" in told
    assert "0.100,0.200,0.400,0.600" in told


def test_a_new_image_starts_a_new_look(tmp_path: Path) -> None:
    policy = ScriptedPolicy(DIRECT)
    typed = Typed(policy)
    typed(f"/image {photo(tmp_path / 'a.png')}")
    typed("Is it teal?")
    assert "Now about b c.png, 120 × 80." in typed(f"/image '{photo(tmp_path / 'b c.png', 'red')}'")
    typed("Is it red?")
    assert "Is it teal?" not in "".join(turn.text for turn in policy.heard[-1])
    assert policy.heard[-1][0].images[0].getpixel((0, 0)) == (255, 0, 0)


def test_a_picture_dropped_into_the_terminal_is_the_one_to_ask_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = photo(tmp_path / "my photo (1).png")
    typed = Typed(ScriptedPolicy(DIRECT))
    escaped = str(path).replace(" ", "\\ ").replace("(", "\\(").replace(")", "\\)")
    for dropped in (str(path), f"'{path}' ", escaped, path.as_uri(), "~/my photo (1).png", "/image ~/my photo (1).png"):
        assert "Now about my photo (1).png, 120 × 80." in typed(dropped), dropped
    assert "Answer  yes" in typed(f"What does {path} show?")
    assert "Answer  yes" in typed("Is there a nowhere.png")
    assert "No image can be read" in typed("/image ~/nowhere.png")
    assert "Addresses are not fetched" in typed("/image https://example.org/a.png")


def test_a_home_of_nobody_ends_nothing(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(DIRECT))
    assert "no image yet" in typed("~nobody-of-this-name/x.png")
    assert "No image can be read at '~nobody-of-this-name/x.png'" in typed("/image ~nobody-of-this-name/x.png")
    assert completions("/image ~nobody-of-this-name/x", typed.chat.choices) == []


def test_tab_goes_on_with_commands_their_words_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "cups.png")
    photo(tmp_path / ".hidden.png")
    (tmp_path / "cups").mkdir()
    (tmp_path / "cups.txt").touch()
    chat = Typed(ScriptedPolicy(DIRECT)).chat
    assert completions("/st", chat.choices) == ["/steps ", "/stop "]
    assert completions("/mode t", chat.choices) == ["/mode tools"]
    assert completions("/image cu", chat.choices) == ["/image cups/", "/image cups.png"]
    assert completions("/image ", chat.choices) == ["/image cups/", "/image cups.png"]
    assert completions("/save c", chat.choices) == ["/save cups/"]
    assert completions("/image nowhere/a", chat.choices) == []
    assert completions("What", chat.choices) == []


def test_a_question_without_an_image_asks_for_one() -> None:
    assert "/image PATH" in Typed(ScriptedPolicy(DIRECT))("What is it?")


def test_undo_forgets_the_last_question_and_keeps_the_image(tmp_path: Path) -> None:
    policy = ScriptedPolicy(DIRECT)
    typed = Typed(policy)
    typed(f"/image {photo(tmp_path / 'a.png')}")
    typed("First?")
    typed("Second?")
    assert "1 question left" in typed("/undo")
    assert "0 questions left" in typed("/undo")
    assert "nothing to undo" in typed("/undo")
    assert "Answer  yes" in typed("Third?")
    told = "".join(turn.text for turn in policy.heard[-1])
    assert "First?" not in told
    assert "Second?" not in told


def test_after_undo_the_answer_before_is_the_last_one(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(*focus_lines(LEFT, answer="first"), *focus_lines(RIGHT, answer="second")), "tools")
    typed(f"/image {photo(tmp_path / 'a.png')}")
    typed("First?")
    typed("Second?")
    typed("/undo")
    assert "0.10, 0.20 – 0.40, 0.60" in typed("/steps")
    typed(f"/save {tmp_path / 'run'}")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["answer"] == "first"
    typed("/undo")
    assert "no answer yet" in typed("/steps")


def test_an_interrupt_stops_the_answer_and_not_the_chat(tmp_path: Path) -> None:
    def interrupted(messages: object) -> str:
        raise KeyboardInterrupt

    policy = ScriptedPolicy(interrupted, DIRECT)
    typed = Typed(policy)
    typed(f"/image {photo(tmp_path / 'a.png')}")
    assert "Stopped." in typed("What is it?")
    assert "Answer  yes" in typed("Is it teal?")
    assert "What is it?" not in "".join(turn.text for turn in policy.heard[-1])


def test_a_policy_that_fails_is_told_and_the_question_forgotten(tmp_path: Path) -> None:
    policy = ScriptedPolicy(PolicyUnavailable("The server refused."), DIRECT)
    typed = Typed(policy)
    typed(f"/image {photo(tmp_path / 'a.png')}")
    assert typed("What is it?") == "The server refused.\n"
    assert "Answer  yes" in typed("Is it teal?")
    assert "What is it?" not in "".join(turn.text for turn in policy.heard[-1])


def test_the_mode_can_be_changed_between_questions(tmp_path: Path) -> None:
    policy = ScriptedPolicy(DIRECT, *focus_lines(LEFT, answer="the left"))
    typed = Typed(policy)
    typed(f"/image {photo(tmp_path / 'a.png')}")
    assert "0 steps" in typed("What is it?")
    assert typed("/mode tools") == "Mode: tools.\n"
    assert "1 step" in typed("Which?")
    assert "direct, internal, tools" in typed("/mode zoom")
    assert typed("/mode") == "Mode: tools.\n"


def test_options_hold_for_the_next_question_alone(tmp_path: Path) -> None:
    policy = ScriptedPolicy("<answer>red</answer>")
    typed = Typed(policy)
    typed(f"/image {photo(tmp_path / 'a.png')}")
    assert "red or light blue" in typed("/options red; light blue;")
    typed("Which colour?")
    assert policy.heard[-1][-1].text.count("red; light blue") == 1
    typed("Which shape?")
    assert "red; light blue" not in policy.heard[-1][-1].text


def test_steps_shows_the_last_answer_once_more(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(*focus_lines(LEFT, RIGHT, answer="the left")), "tools")
    typed(f"/image {photo(tmp_path / 'a.png')}")
    first = typed("Which is closer?")
    again = typed("/steps")
    assert first.startswith(again)
    assert "2.  0.50, 0.20 – 0.90, 0.60" in again


def test_save_writes_the_last_answer(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(DIRECT))
    assert "no answer yet" in typed(f"/save {tmp_path / 'run'}")
    typed(f"/image {photo(tmp_path / 'a.png')}")
    typed("Is it teal?")
    assert typed(f"/save {tmp_path / 'run'}") == f"Saved: {tmp_path / 'run' / 'report.html'}\n"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["answer"] == "yes"
    assert "a.png" in (tmp_path / "run" / "report.html").read_text()


def test_save_writes_over_no_picture_that_was_asked_about(tmp_path: Path) -> None:
    typed, folder = Typed(ScriptedPolicy(DIRECT)), tmp_path / "run"
    typed(f"/image {photo(tmp_path / 'a.png')}")
    typed("Is it teal?")
    typed(f"/save {folder}")
    typed(f"/image {folder / 'annotated.png'}")
    typed("And this?")
    before = (folder / "annotated.png").read_bytes()
    assert "saving would write over it: name another folder" in typed(f"/save {folder}")
    assert (folder / "annotated.png").read_bytes() == before
    photo(tmp_path / "depth.png")
    assert "holds a depth.png that no saved run left there" in typed(f"/save {tmp_path}")


def test_a_name_and_a_question_that_are_not_utf_8_are_answered_and_saved(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(DIRECT))
    odd = photo(tmp_path / "caf\udce9.png")
    typed(f"/image {odd}")
    assert "Answer  yes" in typed("Is it \udce9?")
    assert "Saved: " in typed(f"/save {tmp_path / 'run'}")
    assert "caf\ufffd.png" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_an_unknown_command_and_a_bad_image_do_not_end_the_chat(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(DIRECT))
    assert "There is no /zoom" in typed("/zoom in")
    (tmp_path / "text.png").write_text("no picture")
    assert "PNG, JPEG or WebP" in typed(f"/image {tmp_path / 'text.png'}")
    assert typed("   ") == ""
    for command in ("/image", "/mode", "/options", "/steps", "/save", "/undo", "/quit"):
        assert command in typed("/help")
    typed("/quit")
    assert typed.chat.over


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs `sifthinker chat` with lines from a pipe, and returns what it printed."""
    monkeypatch.setenv("SIFTHINKER_HOME", str(tmp_path / "home"))

    def chat(*arguments: str, lines: str, policy: Policy) -> str:
        monkeypatch.setattr(config, "load_policy", lambda name, **options: policy)
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        assert cli.run(["chat", *arguments, "--depth", "none"]) == 0
        return capsys.readouterr().out

    return chat


def test_a_conversation_goes_on_another_day(chat: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("langgraph.checkpoint.sqlite")
    chat(str(photo(tmp_path / "a.png")), "-m", "direct", lines="First?\n", policy=ScriptedPolicy(DIRECT))
    (tmp_path / "a.png").unlink()
    policy = ScriptedPolicy("<answer>no</answer>")
    out = chat("--resume", "-m", "direct", lines="Second?\n/undo\n/undo\n", policy=policy)
    assert "Resumed after 1 question." in out
    assert "The answer was: yes" in out
    assert "Answer  no" in out
    assert "0 questions left" in out
    assert "First?" in "".join(turn.text for turn in policy.heard[-1])


def test_a_killed_answer_is_finished_when_the_conversation_is_resumed(chat: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("langgraph.checkpoint.sqlite")

    def killed(messages: object) -> str:
        raise SystemExit(137)

    lines = focus_lines(LEFT, RIGHT, answer="the left")
    with pytest.raises(SystemExit):
        chat(str(photo(tmp_path / "a.png")), lines="Which?\n", policy=ScriptedPolicy(lines[0], lines[1], killed))
    policy = ScriptedPolicy(lines[2])
    out = chat("--resume", lines="", policy=policy)
    assert "going on with it" in out
    assert "Answer  the left" in out
    assert policy.calls == 1


def test_a_policy_that_is_away_when_a_conversation_is_resumed_shuts_nobody_out(
    chat: Callable[..., str], tmp_path: Path
) -> None:
    pytest.importorskip("langgraph.checkpoint.sqlite")

    def killed(messages: object) -> str:
        raise SystemExit(137)

    def unreachable(messages: object) -> str:
        raise PolicyUnavailable("The policy could not be reached.")

    lines = focus_lines(LEFT, RIGHT, answer="the left")
    with pytest.raises(SystemExit):
        chat(str(photo(tmp_path / "a.png")), lines="Which?\n", policy=ScriptedPolicy(lines[0], lines[1], killed))
    out = chat("--resume", lines="", policy=ScriptedPolicy(unreachable))
    assert "could not be reached" in out
    assert "It stays unanswered" in out
    out = chat("--resume", lines="", policy=ScriptedPolicy(lines[2]))  # the steps before are kept
    assert "Answer  the left" in out

    with pytest.raises(SystemExit):
        chat("--resume", lines="Sure?\n", policy=ScriptedPolicy(lines[0], killed))
    policy = ScriptedPolicy(unreachable, DIRECT)
    out = chat("--resume", "-m", "direct", lines="Another?\n", policy=policy)
    assert "It stays unanswered" in out
    assert "Answer  yes" in out
    assert "Sure?" not in "".join(turn.text for turn in policy.heard[-1])
    assert "Resumed after 2 questions." in chat("--resume", lines="", policy=ScriptedPolicy())


def test_the_image_of_a_question_that_failed_is_at_hand_when_the_conversation_is_resumed(
    chat: Callable[..., str], tmp_path: Path
) -> None:
    """Without a network the first question fails; another day it is asked again, about the picture it was about."""
    pytest.importorskip("langgraph.checkpoint.sqlite")

    def unreachable(messages: object) -> str:
        raise PolicyUnavailable("The policy could not be reached.")

    def colours(policy: ScriptedPolicy) -> list[tuple[int, ...]]:
        return [image.getpixel((5, 5)) for turn in policy.heard[-1] for image in turn.images]  # type: ignore[misc]

    teal, red = photo(tmp_path / "a.png"), photo(tmp_path / "b.png", "red")
    assert "could not be reached" in chat(str(teal), lines="What?\n", policy=ScriptedPolicy(unreachable))
    teal.unlink()
    policy = ScriptedPolicy(DIRECT, unreachable)
    out = chat("--resume", "-m", "direct", lines=f"What?\n/image {red}\nAnd here?\n", policy=policy)
    assert "Resumed after 0 questions.\nThe image is the one that was named last." in out
    assert "Answer  yes" in out
    red.unlink()
    policy = ScriptedPolicy(DIRECT)
    out = chat("--resume", "-m", "direct", lines="And here?\n", policy=policy)
    assert "The image is the one that was named last." in out
    assert colours(policy) == [(255, 0, 0)]
    policy = ScriptedPolicy(DIRECT)
    assert "named last" not in chat("--resume", "-m", "direct", lines="Sure?\n", policy=policy)
    assert colours(policy) == [(255, 0, 0)]


def test_what_the_policy_cannot_do_is_said_at_the_start(chat: Callable[..., str], tmp_path: Path) -> None:
    policy = ScriptedPolicy(DIRECT, domain="block world", follows_conversations=False)
    out = chat(lines="", policy=policy)
    assert "knows the block world only" in out
    assert "takes each question by itself" in out


def test_there_is_nothing_to_resume_at_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SIFTHINKER_HOME", str(tmp_path))
    assert cli.run(["chat", "--resume"]) == 2
    assert "resume" in capsys.readouterr().err


def test_without_sqlite_the_chat_works_and_says_that_it_forgets(
    chat: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "langgraph.checkpoint.sqlite", None)
    out = chat(str(photo(tmp_path / "a.png")), "-m", "direct", lines="Is it teal?\n", policy=ScriptedPolicy(DIRECT))
    assert "forgotten at the end" in out
    assert "Answer  yes" in out
    assert not (tmp_path / "home").exists()
