"""The HTML report: one file, everything in it, and text that stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from sifthinker.agent.report import Report, ReportBox, ReportFinding, ReportStep, render_report

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


def picture(colour: str = "teal", size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.fixture
def report() -> Report:
    whole = ReportStep([ReportBox((0, 0, 1, 1), 0.5, 0.55)], "Two cups on a table.")
    near = ReportStep(
        [ReportBox((0.1, 0.2, 0.4, 0.6), 0.2, 0.25), ReportBox((0.5, 0.2, 0.9, 0.6), None, 0.6)],
        "The left one is nearer.",
        [picture("red", (20, 16)), picture("blue", (30, 16))],
        "0.7 s",
        [
            ReportFinding("read_text()", "TEA", box=2),
            ReportFinding("rotate(degrees=90)", picture=picture("green", (16, 20))),
        ],
    )
    return Report(
        question="Which cup is closer?",
        answer="the left one",
        image=picture(),
        steps=[whole, near],
        options=["the left one", "the right one"],
        depth_picture=picture("violet"),
        image_name="cups.png",
        warnings=["It was dark."],
        facts=[("mode", "tools"), ("seconds", "2.1")],
        command="sifthinker ask cups.png 'Which cup is closer?'",
        trace_text="<think>…</think>",
    )


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **having: str) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_"): value for name, value in having.items()}
        return [attrs for name, attrs in self.tags if name == tag and wanted.items() <= attrs.items()]


def test_everything_that_was_found_is_on_the_page(report: Report) -> None:
    page = Page(render_report(report))
    for text in (report.question, report.answer, *report.options, *report.warnings, report.command, report.trace_text):
        assert text in page.text
    for step in report.steps:
        assert step.text in page.text
    assert "read_text() box 2 TEA" in page.text
    [turned] = [image for image in page.all("img") if "rotate(degrees=90)" in (image["alt"] or "")]
    assert turned["alt"] == "picture made by rotate(degrees=90) at step 2"
    assert "16 × 20 px" in page.text
    assert "0.25" in page.text  # measured
    assert "0.20" in page.text  # said
    assert len(page.all("li", class_="step")) == 2


def test_the_page_stands_alone(report: Report) -> None:
    html = render_report(report)
    page = Page(html)
    assert all((attrs["src"] or "").startswith("data:image/") for attrs in page.all("img"))
    assert len(page.all("img")) == 5  # image, depth, two crops, what a tool made
    assert not page.all("link", rel="stylesheet")
    assert all("src" not in attrs for attrs in page.all("script"))
    assert not re.search(r"url\((?!#)", html)
    assert "http" not in html.replace("http-equiv", "")


def test_a_script_in_any_text_stays_text(report: Report) -> None:
    hostile = replace(
        report,
        question=HOSTILE,
        answer=HOSTILE,
        options=[HOSTILE],
        warnings=[HOSTILE],
        image_name=HOSTILE,
        command=HOSTILE,
        trace_text=HOSTILE,
        facts=[(HOSTILE, HOSTILE)],
        steps=[
            ReportStep([ReportBox((0, 0, 1, 1))], HOSTILE, [], HOSTILE, [ReportFinding(HOSTILE, HOSTILE, picture())])
        ],
    )
    page = Page(render_report(hostile))
    assert len(page.all("script")) == 1
    assert not page.all("img", src="x")
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert page.text.count(HOSTILE) >= 11


def test_no_script_but_the_pages_own_is_allowed_to_run(report: Report) -> None:
    html = render_report(report)
    script = html.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = Page(html).all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert f"script-src 'sha256-{digest}'" in (policy["content"] or "")
    assert "default-src 'none'" in (policy["content"] or "")


def test_boxes_are_drawn_over_both_pictures_at_their_place(report: Report) -> None:
    page = Page(render_report(report))
    lines = page.all("rect", class_="edge line")
    assert len(lines) == 6  # three boxes, on image and depth
    left = next(attrs for attrs in lines if attrs["x"] == "100.0")
    assert float(left["width"] or 0) == pytest.approx(300)
    assert float(left["y"] or 0) == pytest.approx(0.2 * 1000 * 40 / 60, abs=0.1)


def test_without_depth_there_is_one_picture_and_no_depth_column(report: Report) -> None:
    step = ReportStep([ReportBox((0.1, 0.1, 0.5, 0.5))], "A cup.")
    page = Page(render_report(replace(report, depth_picture=None, steps=[step])))
    assert len(page.all("figure", class_="picture")) == 1
    assert "measured" not in page.text.split("Step by step")[1].split("The run")[0]


def test_a_run_without_steps_or_answer_is_still_a_page(report: Report) -> None:
    page = Page(render_report(replace(report, steps=[], answer="", options=[], warnings=[])))
    assert "none" in page.text
    assert not page.all("input")


def test_a_large_photograph_does_not_make_a_large_page(report: Report) -> None:
    noise = Image.effect_noise((3000, 2000), 90).convert("RGB")
    assert len(render_report(replace(report, image=noise))) < 4_000_000
