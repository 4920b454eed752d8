"""The person in the loop, in the terminal: approving, editing, declining, going back to an earlier step."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image
from rich.console import Console
from scripted import ScriptedPolicy, area, focus_lines

from sifthinker.agent import cli, config, create_focus_agent
from sifthinker.agent.chat import Chat
from sifthinker.agent.console import FocusConsole
from sifthinker.agent.deciding import typed_decision
from sifthinker.policy.errors import PolicyUnavailable, UsageError

LEFT, RIGHT, SMALL = (0.1, 0.2, 0.4, 0.6), (0.5, 0.2, 0.9, 0.6), (0.2, 0.3, 0.3, 0.5)


class Typed:
    """A chat about one image that asks before each look; what it printed since the last line."""

    def __init__(self, policy: ScriptedPolicy, path: Path, *, confirm: bool = True) -> None:
        self.policy = policy
        self.out = io.StringIO()
        console = FocusConsole(Console(file=self.out, width=100, highlight=False))
        agent = create_focus_agent(policy, depth="none", checkpointer=InMemorySaver())
        self.chat = Chat(agent, console, thread_id="one", mode="tools", confirm=confirm)
        Image.new("RGB", (120, 80), "teal").save(path / "a.png")
        self(f"/image {path / 'a.png'}")

    def __call__(self, line: str) -> str:
        self.out.seek(0)
        self.out.truncate()
        self.chat.answer(line)
        return self.out.getvalue()


def test_each_look_waits_until_it_is_approved(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(*focus_lines(LEFT, RIGHT, answer="the left")), tmp_path)
    asked = typed("Which is closer?")
    assert "1.  0.10, 0.20 – 0.40, 0.60" in asked
    assert "Look there?" in asked
    assert typed.policy.calls == 1
    assert "2.  0.50, 0.20 – 0.90, 0.60" in typed("")
    assert "Answer  the left" in typed("y")
    assert typed.policy.calls == 3


def test_other_boxes_can_be_typed(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(*focus_lines(LEFT, answer="the left")), tmp_path)
    typed("Which is closer?")
    out = typed("0.5,0.2,0.9,0.6; 0.2 0.3 0.3 0.5")
    assert "0.50, 0.20 – 0.90, 0.60" in out
    assert "Answer  the left" in out
    assert "[0.500,0.200,0.900,0.600]" in typed.policy.heard[-1][-1].text
    assert [box.bbox_2d for box in typed.chat.last_result().steps[0].boxes] == [RIGHT, SMALL]


def test_a_look_can_be_declined_with_a_reason(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(f"<think>{area(LEFT)}", "<answer>x</answer>"), tmp_path)
    typed("Which is closer?")
    assert "Answer  x" in typed("n that is private")
    assert typed.policy.heard[-1][-1].text.startswith("that is private ")


@pytest.mark.parametrize("words", ["what?", "0.5,0.2,0.4,0.6", "0.1,0.2", "1;2;3;4", "0,0,0,nan", "yes please"])
def test_what_decides_nothing_goes_on_waiting(tmp_path: Path, words: str) -> None:
    typed = Typed(ScriptedPolicy(*focus_lines(LEFT, answer="the left")), tmp_path)
    typed("Which is closer?")
    assert typed(words).startswith(("Not understood", "Expected"))
    assert "A decision is waited for" in typed("/mode direct")
    assert "Answer  the left" in typed("")


def test_the_question_can_be_dropped(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(f"<think>{area(LEFT)}", *focus_lines(RIGHT, answer="x")), tmp_path)
    typed("Which is closer?")
    assert typed("/stop") == "Stopped.\n"
    assert "No question" in typed("/stop")
    assert "Look there?" in typed("Which is farther?")
    assert "Which is closer?" not in typed.policy.heard[-1][0].text
    assert "Answer  x" in typed("")


def test_asking_is_turned_on_and_off(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy(*focus_lines(LEFT, answer="x"), *focus_lines(LEFT, answer="y")), tmp_path)
    assert "you are not asked" in typed("/confirm off")
    assert "Answer  x" in typed("Which is closer?")
    assert "you are asked" in typed("/confirm on")
    assert "Look there?" in typed("And now?")
    assert "Expected" in typed("/confirm perhaps")


@pytest.mark.parametrize("confirm", [False, True])
def test_an_answer_forks_from_an_earlier_step(tmp_path: Path, confirm: bool) -> None:
    lines = focus_lines(LEFT, RIGHT, answer="first")
    policy = ScriptedPolicy(*lines, "<text>else</text></think><answer>second</answer>")
    typed = Typed(policy, tmp_path, confirm=confirm)
    for line in ("Which?", "", "") if confirm else ("Which?",):
        out = typed(line)
    assert "Answer  first" in out

    assert "Look there?" in typed("/fork 2")
    assert policy.calls == 3
    assert "Answer  second" in typed("0.2,0.3,0.3,0.5")
    assert policy.calls == 4
    result = typed.chat.last_result()
    assert [step.boxes[0].bbox_2d for step in result.steps] == [LEFT, SMALL]
    assert result.steps[1].edited
    assert "first" not in "".join(turn.text for turn in policy.heard[-1])


def test_a_fork_can_bring_its_boxes_and_goes_back_further_than_the_one_before(tmp_path: Path) -> None:
    lines = focus_lines(LEFT, RIGHT, answer="first")
    policy = ScriptedPolicy(*lines, "<text>x</text></think><answer>second</answer>")
    typed = Typed(policy, tmp_path, confirm=False)
    typed("Which?")
    out = typed("/fork 1 0.2,0.3,0.3,0.5")
    assert "1.  0.20, 0.30 – 0.30, 0.50" in out
    assert "Answer  second" in out
    assert "from 1 to 1" in typed("/fork 2")
    assert "Answer  second" in typed("/fork 1 y")
    assert [step.boxes[0].bbox_2d for step in typed.chat.last_result().steps] == [LEFT]
    assert "Expected /fork N" in typed("/fork back")


def test_a_fork_that_is_given_up_leaves_the_answer_before_it(tmp_path: Path) -> None:
    policy = ScriptedPolicy(*focus_lines(LEFT, RIGHT, answer="first"), TimeoutError("silent"), TimeoutError("silent"))
    typed = Typed(policy, tmp_path, confirm=False)
    typed("Which?")
    assert "Look there?" in typed("/fork 2")
    assert typed("/stop").splitlines()[-2:] == ["Stopped.", "The answer from before stands."]
    assert typed.chat.last_result().answer == "first"
    out = typed("/fork 1 y")
    assert "silent" in out
    assert "The answer from before stands." in out
    assert typed.chat.last_result().answer == "first"
    assert "1 question" not in typed("/fork 7"), "and can be gone back into again"


def test_a_run_that_broke_off_leaves_no_box_for_the_next(tmp_path: Path) -> None:
    lines = focus_lines(LEFT, answer="the left")
    typed = Typed(ScriptedPolicy(lines[0], PolicyUnavailable("away"), *lines), tmp_path, confirm=False)
    assert "away" in typed("Which?")
    assert typed("And now?").count("1. ") == 1


def test_there_is_nothing_to_fork_before_a_look(tmp_path: Path) -> None:
    typed = Typed(ScriptedPolicy("<answer>x</answer>"), tmp_path)
    assert "no step to go back to" in typed("/fork 1")
    typed("/mode direct")
    typed("Which?")
    assert "no step to go back to" in typed("/fork 1")


def test_words_read_as_decisions() -> None:
    assert typed_decision("Y").action == "approve"
    assert typed_decision("edit [0.1, 0.2, 0.4, 0.6]").boxes == (LEFT,)
    with pytest.raises(UsageError, match="Not understood"):
        typed_decision("e somewhere")


def test_a_chat_left_while_it_waits_asks_again_another_day(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("langgraph.checkpoint.sqlite")
    monkeypatch.setenv("SIFTHINKER_HOME", str(tmp_path / "home"))
    Image.new("RGB", (120, 80), "teal").save(tmp_path / "a.png")

    def chat(*arguments: str, lines: str, policy: ScriptedPolicy) -> str:
        monkeypatch.setattr(config, "load_policy", lambda name, **options: policy)
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        assert cli.run(["chat", *arguments, "--depth", "none"]) == 0
        return capsys.readouterr().out

    said = focus_lines(LEFT, answer="the left")
    first = ScriptedPolicy(said[0])
    assert "Look there?" in chat(str(tmp_path / "a.png"), "--confirm", lines="Which?\n/quit\n", policy=first)
    again = ScriptedPolicy(said[1])
    out = chat("--resume", lines="y\n", policy=again)  # without --confirm: what waits is asked all the same
    assert "Look there?" in out
    assert "look? y" in out
    assert "Answer  the left" in out
    assert (first.calls, again.calls) == (1, 1)
