"""Who may come to the page's server, and what a page elsewhere can do there: nothing."""

from __future__ import annotations

import base64
from importlib import resources

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
import httpx
from web_serving import error, scripted_agent, serving


@pytest.fixture(scope="module")
def address():
    """A server whose policy answers x."""
    with serving(scripted_agent("<answer>x</answer>", mode="direct")) as at:
        yield at


def test_a_name_that_was_rebound_to_this_machine_is_refused(address):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1", ""):
        refused = httpx.get(f"{address}/api/offer", headers={"Host": host})
        assert refused.status_code in (400, 421)
        assert refused.status_code == 400 or "or start it with --name HOST" in error(refused)
    assert httpx.get(f"{address}/api/offer", headers={"Host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Sifthinker": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_can_change_nothing(address, headers):
    refused = httpx.post(f"{address}/api/sessions", headers={"X-Sifthinker": "1", **headers})
    assert refused.status_code == 403
    assert error(refused) == "This request came from another page: it is not served."


def test_another_site_can_read_and_embed_nothing_but_may_link_here(address):
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert httpx.get(f"{address}/api/offer", headers=cross).status_code == 403
    assert httpx.get(f"{address}/", headers={**cross, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert httpx.get(f"{address}/", headers={**cross, "Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert httpx.options(f"{address}/api/sessions", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_password_is_asked_for_everywhere():
    def basic(text):
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    with serving(scripted_agent("x"), credentials="ann:pässword:1") as at:
        for path in ("/", "/assets/page.js", "/api/offer"):
            asked = httpx.get(at + path)
            assert asked.status_code == 401
            assert asked.headers["www-authenticate"].startswith("Basic ")
            assert httpx.get(at + path, headers=basic("ann:pässword:1")).status_code == 200
        for wrong in (
            basic("ann:"),
            basic("ann:password"),
            {"Authorization": "Basic !"},
            {"Authorization": "Bearer x"},
        ):
            assert httpx.get(f"{at}/api/offer", headers=wrong).status_code == 401


def test_every_answer_carries_the_headers_that_keep_the_page_safe(address):
    for path in ("/", "/assets/page.js", "/api/offer", "/nothing"):
        headers = httpx.get(address + path).headers
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in headers["content-security-policy"]
        assert "require-trusted-types-for 'script'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert httpx.get(f"{address}/api/offer").headers["cache-control"] == "no-store"


def test_the_page_loads_nothing_from_elsewhere(address):
    page = httpx.get(f"{address}/").text
    names = [part.split('"')[0] for part in page.split('"assets/')[1:]]
    assert {"page.css", "page.js"} <= set(names)
    scripts = [file.name for file in resources.files("sifthinker.agent.web").joinpath("assets").iterdir()]
    for name in {*names, *(name for name in scripts if name.endswith(".js"))}:
        text = httpx.get(f"{address}/assets/{name}").raise_for_status().text
        assert "https://" not in text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert not any(word in text for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval("))
    assert "style=" not in page
    assert " on" + "click" not in page
    again = httpx.get(f"{address}/", headers={"If-None-Match": httpx.get(f"{address}/").headers["etag"]})
    assert again.status_code == 304
