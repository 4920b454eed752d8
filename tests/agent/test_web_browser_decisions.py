"""A person decides on the boxes in a real browser, with mouse and keyboard; needs what test_web_browser.py needs."""

from __future__ import annotations

import pytest
from scripted import area, focus_lines

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("playwright.sync_api", exc_type=ImportError)
from browsing import LEFT, RIGHT, agent, ask, take, waiting
from web_serving import serving

pytestmark = pytest.mark.slow


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()


def point(page, x, y):
    around = page.locator("#rgb img").bounding_box()
    return around["x"] + x * around["width"], around["y"] + y * around["height"]


def test_a_box_is_edited_with_the_mouse_before_the_crop(opened, picture):
    with serving(agent(*focus_lines(LEFT))) as address:
        page = opened(address)
        waiting(page, picture)
        assert page.inner_text("#approve") == "Look here"
        drag(page, point(page, 0.3, 0.4), point(page, 0.4, 0.5))  # the whole box: to 0.2, 0.3 – 0.6, 0.7
        drag(page, point(page, 0.6, 0.7), point(page, 0.8, 0.9))  # its lower right corner
        assert page.get_attribute(".edit", "aria-label") == "Box 1: left 20 %, top 30 %, right 80 %, bottom 90 %"
        assert page.inner_text("#approve") == "Look here instead"
        page.click("#approve")
        page.wait_for_selector(".turn[data-state=answered]")
        assert "0.20, 0.30 – 0.80, 0.90" in page.inner_text(".step")
        assert "set by a person" in page.inner_text(".step")
        assert page.locator(".crops img").count() == 1
        assert page.locator(".edit").count() == 0


def test_a_person_goes_back_to_a_step_and_looks_elsewhere_from_there(opened, picture):
    with serving(
        agent(*focus_lines(LEFT, RIGHT, answer="red"), "<text>so</text></think><answer>blue</answer>")
    ) as address:
        page = opened(address)
        take(page, picture)
        ask(page)
        assert page.locator(".back:visible").count() == 0
        page.locator(".step .head").nth(1).click()
        page.click(".back:visible")
        page.wait_for_selector(".turn[data-state=waiting]")
        assert page.locator(".step").count() == 2
        assert page.is_checked("#rest"), "later steps are not asked about"
        page.locator(".edit").focus()
        page.keyboard.press("ArrowLeft")
        page.click("#approve")
        page.wait_for_selector(".turn[data-state=answered]")
        assert page.inner_text(".answer .said") == "blue"
        assert "set by a person" in page.locator(".step").nth(1).inner_text()
        assert page.locator("text=Download the report").is_visible()


def test_a_person_goes_back_to_a_step_and_thinks_better_of_it(opened, picture):
    with serving(agent(*focus_lines(LEFT, RIGHT, answer="red"))) as address:
        page = opened(address)
        take(page, picture)
        ask(page)
        page.locator(".step .head").nth(0).click()
        page.click(".back:visible")
        page.wait_for_selector(".turn[data-state=waiting]")
        assert page.locator(".step").count() == 1
        page.click("#stop")
        page.wait_for_selector(".turn[data-state=answered]")
        assert page.inner_text(".answer .said") == "red"
        assert page.locator(".step").count() == 2
        assert page.locator(".edit").count() == 0
        assert page.locator("#trouble").is_hidden(), "that was no trouble"
        assert page.locator("text=Download the report").is_visible()
        page.reload()
        page.wait_for_selector(".turn[data-state=answered]")
        assert page.inner_text(".answer .said") == "red"


def test_boxes_are_drawn_moved_and_removed_with_mouse_and_keyboard(opened, picture):
    with serving(agent(*focus_lines(LEFT))) as address:
        page = opened(address)
        waiting(page, picture)
        drag(page, point(page, 0.6, 0.65), point(page, 0.9, 0.95))
        assert page.locator(".edit").count() == 2
        page.locator(".edit").nth(0).focus()
        page.keyboard.press("Delete")
        assert page.locator(".edit").count() == 1
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Shift+ArrowUp")
        label = page.get_attribute(".edit", "aria-label")
        assert label == "Box 1: left 59 %, top 65 %, right 89 %, bottom 94 %"
        assert label.removeprefix("Box 1: ") in page.inner_text("#status")
        page.click("text=Boxes in numbers")
        page.fill(".numbers label:nth-of-type(1) input", "10")
        page.keyboard.press("Tab")
        assert "left 10 %" in page.get_attribute(".edit", "aria-label")
        page.click("text=As proposed")
        assert page.inner_text("#approve") == "Look here"
        page.locator(".edit").focus()
        page.keyboard.press("Delete")
        assert page.is_disabled("#approve"), "no box, nothing to look at"


def test_a_person_declines_or_lets_it_go_on_without_asking(opened, picture):
    lines = [f"<think>{area(LEFT)}", f"<text>no</text>{area(RIGHT)}", "<text>it</text></think><answer>red</answer>"]
    asked = agent(*lines)
    with serving(asked) as address:
        page = opened(address)
        waiting(page, picture)
        page.fill("#reason", "There is nothing.")
        page.click("#decline")
        page.wait_for_function("() => document.querySelector('#decision-title')?.textContent.startsWith('Step 2')")
        page.check("#rest")
        page.click("#approve")
        page.wait_for_selector(".turn[data-state=answered]")
        assert "declined" in page.inner_text(".step:first-child .title")
    assert "There is nothing." in asked.context.policy.heard[1][-1].text
