"""Boxes, depths and costs in words."""

from __future__ import annotations

from sifthinker.agent.words import box_words, counted, depth_words, plain, step_title


def test_a_box_is_the_whole_image_or_its_corners() -> None:
    assert box_words((0, 0, 1, 1)) == "whole image"
    assert box_words((0.1, 0.2, 0.345, 1)) == "0.10, 0.20 – 0.34, 1.00"


def test_a_step_is_named_by_what_it_looks_at() -> None:
    assert step_title([(0, 0, 1, 1)]) == "the whole image"
    assert step_title([(0, 0, 0.5, 0.5)]) == "one region"
    assert step_title([(0, 0, 0.5, 0.5)] * 2) == "2 regions"
    assert step_title([]) == "no box"


def test_depths_are_told_as_far_as_they_are_known() -> None:
    assert depth_words(0.4, 0.45) == "depth 0.40, measured 0.45"
    assert depth_words(None, 0.45) == "measured 0.45"
    assert depth_words(None, None) == ""


def test_one_step_is_not_steps() -> None:
    assert [counted(number, "step") for number in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]


def test_a_policys_words_cannot_steer_the_terminal() -> None:
    assert plain("a\x1b[31mred\x07\x9b2J\r\nb\tc") == "a[31mred2J\nb\tc"
