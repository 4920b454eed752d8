"""The terminal: steps as they come, fine on a terminal, in a pipe, without colour, whatever the policy says."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from PIL import Image
from rich.console import Console

from sifthinker.agent.console import FocusConsole
from sifthinker.nodes.events import (
    AnswerGiven,
    AreaProposed,
    CropTaken,
    DepthMeasured,
    FocusEvent,
    Perceived,
    TextWritten,
)
from sifthinker.policy.trace import AreaBox

WHOLE, NEAR = (0.0, 0.0, 1.0, 1.0), (0.1, 0.2, 0.4, 0.6)


def run_of_two_steps(text: str = "The left one.", answer: str = "left") -> list[FocusEvent]:
    crop = CropTaken(step=2, box=NEAR, shown=NEAR, size=(20, 16)).with_picture(Image.new("RGB", (20, 16), "red"))
    return [
        Perceived(image="hash", size=(60, 40), depth="embedded"),
        AreaProposed(step=1, boxes=(AreaBox(bbox_2d=WHOLE, depth=0.5),)),
        DepthMeasured(step=1, box=WHOLE, depth=0.55),
        TextWritten(step=1, text="Two cups."),
        AreaProposed(step=2, boxes=(AreaBox(bbox_2d=NEAR, depth=0.2),)),
        DepthMeasured(step=2, box=NEAR, depth=0.25),
        crop,
        TextWritten(step=2, text=text),
        AnswerGiven(answer=answer),
    ]


def shown(events: Sequence[FocusEvent], *, terminal: bool = False, width: int = 80, **options: object) -> str:
    out = io.StringIO()
    settings = {"color_system": "truecolor" if terminal else None, **options}
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False, **settings)  # type: ignore[arg-type]
    focus = FocusConsole(console)
    for event in events:
        focus.show(event)
    return out.getvalue()


def test_a_pipe_gets_each_step_and_the_answer_as_plain_text() -> None:
    assert shown(run_of_two_steps()) == (
        "1.  whole image   depth 0.50, measured 0.55\n"
        "    Two cups.\n"
        "2.  0.10, 0.20 – 0.40, 0.60   depth 0.20, measured 0.25\n"
        "    The left one.\n"
        "\n"
        "Answer  left\n"
    )


def test_a_pipe_gets_a_long_text_in_one_line() -> None:
    text = "word " * 100
    assert text.strip() in shown(run_of_two_steps(text))


def test_a_terminal_gets_the_crop_in_half_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("SIFTHINKER_PICTURES", raising=False)
    for name in ("KITTY_WINDOW_ID", "LC_TERMINAL", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    assert "▀" in shown(run_of_two_steps(), terminal=True)


def test_without_colour_there_is_no_colour_and_no_picture() -> None:
    out = shown(run_of_two_steps(), terminal=True, no_color=True)
    assert "▀" not in out
    assert "38;2" not in out
    assert "2.  " in out


def test_a_narrow_terminal_wraps_below_the_step() -> None:
    lines = shown(run_of_two_steps("one two three four five six"), terminal=True, width=24, no_color=True).splitlines()
    start = next(i for i, line in enumerate(lines) if "one two" in line)
    assert lines[start + 1].startswith("    ")


@pytest.mark.parametrize("hostile", ["[bold]x[/bold] [/]", "\x1b]0;title\x07\x1b[2J", "a\r\nb", "[link=x]"])
def test_what_a_policy_says_is_shown_and_has_no_effect(hostile: str) -> None:
    out = shown(run_of_two_steps(hostile, hostile))
    assert "\x1b" not in out
    assert "\x07" not in out
    if hostile.startswith("["):
        assert out.count(hostile) == 2


def test_boxes_without_any_depth_are_listed_all_the_same() -> None:
    area = AreaProposed(step=1, boxes=(AreaBox(bbox_2d=WHOLE), AreaBox(bbox_2d=NEAR)))
    out = shown([area, TextWritten(step=1, text="Both."), AnswerGiven(answer="yes")])
    assert out.startswith("1.  whole image\n    0.10, 0.20 – 0.40, 0.60\n    Both.\n")


def test_no_answer_is_said_as_such() -> None:
    assert "Answer  none" in shown([AnswerGiven(answer="")])
