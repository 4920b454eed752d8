"""A real browser, for the tests of the page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", exc_type=ImportError)
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    with playwright.sync_playwright() as play:
        try:
            started = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Opens the page; at the end no script may have failed and nothing may have broken the content policy."""
    contexts, complaints = [], []

    def open_page(address, *, context=None, **settings):
        if context is None:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda told: (
                complaints.append(told.text) if "Content Security" in told.text or "Trusted" in told.text else None
            ),
        )
        page.goto(address)
        page.wait_for_selector("#policy:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def picture(tmp_path: Path) -> str:
    from browsing import SIZE  # not before: what serves the page may not be installed

    path = tmp_path / "cups.png"
    Image.new("RGB", SIZE, "teal").save(path)
    return str(path)
