"""The page in a real browser: what a person does with mouse, keyboard and finger, and what they see.

Needs Playwright (`pip install playwright`) and a Chromium: one that is on the path, or Playwright's own.
"""

from __future__ import annotations

import re
import threading

import pytest
from PIL import Image
from scripted import area, focus_lines

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("playwright.sync_api", exc_type=ImportError)
from browsing import LEFT, RIGHT, SIZE, agent, ask, take, waiting
from web_serving import scripted_agent, serving

from sifthinker.agent.report import Report, ReportBox, ReportStep, render_report
from sifthinker.nodes.tools import Found, Region, visual_tool

pytestmark = pytest.mark.slow

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>"\'&'


def boxes(page, frame="rgb"):
    return page.locator(f"#{frame} .layer .box").count()


@visual_tool(always=True)
def turned(region: Region) -> Found:
    """The crop upside down."""
    return Found("upside down", region.crop.transpose(Image.Transpose.ROTATE_180))


def test_what_a_visual_tool_gave_back_stands_at_its_step(opened, picture):
    lines = [f"<think>{area(LEFT, RIGHT)}", "<text>both</text></think><answer>red</answer>"]
    with serving(agent(*lines, tools=[turned])) as address:
        page = opened(address)
        take(page, picture)
        ask(page)
        found = page.locator(".step .findings li")
        assert [text.strip() for text in found.all_inner_texts()] == [
            "turned() box 1 upside down",
            "turned() box 2 upside down",
        ]
        page.wait_for_function(
            "[...document.querySelectorAll('.findings img')].map((shown) => shown.naturalWidth).join() === '128,128'"
        )
        page.reload()  # and is still there when the page is loaded again
        page.wait_for_selector(".findings img")
        assert found.count() == 2


def test_upload_ask_watch_the_steps_and_go_through_them(opened, picture):
    with serving(agent(*focus_lines(LEFT, RIGHT, answer="red"))) as address:
        page = opened(address)
        assert page.is_visible("text=Ask about a picture, and see where the policy looks")
        take(page, picture)
        assert page.inner_text("#picture-name") == "cups.png · 320 × 240"
        ask(page)
        assert page.inner_text(".answer .said") == "red"
        assert page.locator(".step").count() == 2
        assert page.locator(".step .crops img").count() == 2
        page.wait_for_function(
            "() => [...document.querySelectorAll('.crops img')].every(image => image.naturalWidth > 0)"
        )
        assert "measured 0.3" in page.inner_text(".step:first-child")
        assert re.search(
            r"tools · 2 steps · \d+ images? · [\d,]+ tokens in, \d+ out · [\d.]+ s",
            page.inner_text(".facts").replace("\u00a0", " "),
        )
        assert (boxes(page, "rgb"), boxes(page, "depth")) == (2, 2)

        page.focus("#slider")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#shown") == "Step 1 of 2"
        assert boxes(page) == 1
        assert page.get_attribute(".step:first-child .head", "aria-pressed") == "true"
        page.keyboard.press("End")
        assert page.inner_text("#shown") == "Step 2 of 2"
        assert page.inner_text("#caption") == "a thing 2"
        assert page.get_attribute("#slider", "aria-valuetext") == "Step 2 of 2: one region. a thing 2"
        page.click("#picture-name")  # the keys work from anywhere outside a field
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#shown") == "Step 1 of 2"
        page.keyboard.press("Escape")
        assert boxes(page) == 2


def test_a_box_stands_where_the_policy_put_it_on_both_pictures(opened, picture):
    with serving(agent(*focus_lines(LEFT))) as address:
        page = opened(address)
        take(page, picture)
        ask(page)
        for frame in ("rgb", "depth"):
            around = page.locator(f"#{frame} img").bounding_box()
            box = page.locator(f"#{frame} .layer .box").bounding_box()
            assert box["x"] - around["x"] == pytest.approx(0.1 * around["width"], abs=1)
            assert box["y"] - around["y"] == pytest.approx(0.2 * around["height"], abs=1)
            assert box["width"] == pytest.approx(0.4 * around["width"], abs=1)
            assert box["height"] == pytest.approx(0.4 * around["height"], abs=1)


def test_a_follow_up_goes_on_the_same_thread(opened, picture):
    asked = agent(*focus_lines(LEFT, answer="red"), *focus_lines(RIGHT, answer="blue"))
    with serving(asked) as address:
        page = opened(address)
        take(page, picture)
        ask(page)
        ask(page, "And the one behind it?")
        assert page.locator(".answer .said").all_inner_texts() == ["blue", "red"]
        assert page.evaluate("document.activeElement.id") == "question"
        page.locator(".turn").nth(1).get_by_role("button", name="Show on the picture").click()
        assert page.locator(".turn.current h3").inner_text() == "What colour?"
    assert "What colour?" in asked.context.policy.heard[2][0].text


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("notes.txt", b"hello", "Expected a PNG, JPEG or WebP image, but the content is none of these."),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0", "The PNG file is cut off: fetch or copy it again."),
        ("big.png", b"\0" * 20_000_001, "The file has 20.0 MB; at most 20 MB are taken: reduce it first."),
    ],
)
def test_a_bad_file_is_told_in_one_sentence_and_nothing_is_lost(opened, tmp_path, picture, name, data, said):
    (tmp_path / name).write_bytes(data)
    with serving(agent("<answer>x</answer>", mode="direct")) as address:
        page = opened(address)
        page.set_input_files("#file", str(tmp_path / name))
        page.wait_for_selector("#trouble:not([hidden])")
        assert page.inner_text("#trouble") == said
        take(page, picture)
        assert page.is_hidden("#trouble")
        ask(page)


def test_troubles_are_told_where_the_question_is(opened, picture):
    with serving(agent(RuntimeError("lost in /srv/x"), "<answer>y</answer>", mode="direct")) as address:
        page = opened(address)
        page.fill("#question", "What?")
        page.click("#ask")
        page.wait_for_selector("#trouble:not([hidden])")
        assert page.inner_text("#trouble").startswith("There is no picture yet")
        take(page, picture)
        page.fill("#question", "  ")
        page.click("#ask")
        assert page.inner_text("#trouble").startswith("The question is empty")
        ask(page, "What?", state="failed")
        assert page.inner_text("#trouble") == "Something went wrong on the server; its terminal says more."
        assert page.input_value("#question") == "What?", "to ask again"
        page.click("#ask")
        page.wait_for_selector(".turn[data-state=answered]")
    page.fill("#question", "Still there?")
    page.click("#ask")
    page.wait_for_selector("#trouble:not([hidden])")
    assert page.inner_text("#trouble").startswith("The server cannot be reached")


def test_a_script_in_an_answer_a_text_a_question_or_a_name_stays_text(opened, tmp_path):
    path = tmp_path / "<img src=x onerror=hacked=1>.png"
    Image.new("RGB", SIZE, "teal").save(path)
    lines = focus_lines(LEFT, answer=HOSTILE, text=HOSTILE)
    with serving(agent(*lines)) as address:
        page = opened(address)
        take(page, str(path))
        ask(page, HOSTILE)
        assert page.inner_text(".turn h3") == HOSTILE
        assert HOSTILE[:20] in page.inner_text(".turn")
        assert "<img src=x" in page.inner_text("#picture-name")
        assert page.evaluate("window.hacked") is None
        assert page.locator("main script, main img[src=x]").count() == 0
        with page.expect_download() as report:
            page.click("text=Download the report")
        saved = tmp_path / "report.html"
        report.value.save_as(saved)
        page.goto(saved.as_uri())
        assert page.evaluate("window.hacked") is None
        assert HOSTILE in page.inner_text("h1")
        assert page.locator("img[src=x]").count() == 0


def test_everything_can_be_done_with_the_keyboard(opened):
    with serving(scripted_agent("<answer>x</answer>", mode="direct")) as address:
        page = opened(address)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("Boolean(document.activeElement.closest('#examples'))"):
                break
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.activeElement.id === 'question' && document.activeElement.value")
        page.keyboard.press("Enter")
        page.wait_for_selector(".turn[data-state=answered]")


def test_a_file_can_be_dropped_and_pasted(opened):
    give = """async ({kind}) => {
      const blob = await new Promise(done => {
        const canvas = document.createElement('canvas'); canvas.width = 40; canvas.height = 30; canvas.toBlob(done);
      });
      const carried = new DataTransfer(); carried.items.add(new File([blob], kind + 'ed.png', {type: 'image/png'}));
      document.dispatchEvent(kind === 'dropp' ? new DragEvent('drop', {dataTransfer: carried, cancelable: true})
                                              : new ClipboardEvent('paste', {clipboardData: carried}));
    }"""
    with serving(agent("x")) as address:
        page = opened(address)
        for kind in ("dropp", "past"):
            page.evaluate(give, {"kind": kind})
            page.wait_for_function(
                "name => document.querySelector('#picture-name').textContent.startsWith(name)", arg=f"{kind}ed.png"
            )


def test_a_tab_keeps_its_conversation_and_another_has_its_own(opened, picture):
    with serving(agent(*focus_lines(LEFT, answer="red"))) as address:
        page = opened(address)
        take(page, picture)
        ask(page)
        page.reload()
        page.wait_for_selector(".turn[data-state=answered]")
        assert page.inner_text(".answer .said") == "red"
        assert boxes(page) == 1
        other = opened(address, context=page.context)
        assert other.is_visible("#empty")
        assert other.locator(".turn").count() == 0
        page.click("#fresh")
        assert page.is_visible("#empty")
        page.reload()
        page.wait_for_selector("#policy:not([hidden])")
        assert page.locator(".turn").count() == 0


def test_the_stop_button_stops(opened, picture):
    begun, go = threading.Event(), threading.Event()

    def slow(messages):
        begun.set()
        go.wait(20)
        return "<answer>late</answer>"

    with serving(agent(slow, "<answer>soon</answer>", mode="direct")) as address:
        page = opened(address)
        take(page, picture)
        ask(page, state="running")
        assert begun.wait(10)
        page.click("#stop")
        go.set()
        page.wait_for_selector(".turn[data-state=stopped]")
        assert page.is_visible("#ask")
        ask(page, "Again?")
        assert page.inner_text(".turn:first-child .answer .said") == "soon"


def test_on_a_phone_nothing_is_wider_than_the_screen_and_depth_is_a_tab_away(opened, picture):
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    with serving(agent(*focus_lines(LEFT, answer="w" * 80))) as address:
        page = opened(address, **phone)
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) <= 390
        waiting(page, picture)
        assert page.evaluate(width) <= 390
        page.tap("#approve")
        page.wait_for_selector(".turn[data-state=answered]")
        assert page.evaluate(width) <= 390
        assert page.is_hidden("#depth-figure")
        page.tap("text=Depth")
        assert page.is_visible("#depth-figure")
        assert page.is_hidden("#rgb-figure")
        small = "[...document.querySelectorAll('button')].filter(b => b.offsetParent && b.offsetHeight < 32).length"
        assert page.evaluate(small) == 0


def test_dark_mode_and_reduced_motion_are_kept(opened, picture):
    with serving(agent("<answer>x</answer>", mode="direct")) as address:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = opened(address).evaluate(ground)
        page = opened(address, color_scheme="dark", reduced_motion="reduce")
        assert page.evaluate(ground) != light
        assert page.evaluate("getComputedStyle(document.querySelector('.dim')).transitionDuration") in ("0s", "")


def test_a_saved_report_fits_a_phone_and_its_steps_are_gone_through_with_the_keyboard(browser, tmp_path):
    step = ReportStep(
        [ReportBox(LEFT, 0.2, 0.25), ReportBox(RIGHT, 0.4, None)], "The left one.", [Image.new("RGB", (90, 60))]
    )
    report = Report("Which?", "left", Image.new("RGB", SIZE), [step, step], depth_picture=Image.new("RGB", SIZE, "red"))
    saved = tmp_path / "report.html"
    saved.write_text(render_report(report), encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(saved.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#shown") == "step 1 of 2"
    assert page.inner_text("#caption") == "The left one."
    assert page.locator(".area.on .line").count() == 4, "two boxes on each picture"
    page.keyboard.press("Escape")
    assert page.is_hidden("#caption")
    page.close()
