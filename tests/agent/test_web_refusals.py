"""What the page's server refuses, in one sentence each, and what it never tells."""

from __future__ import annotations

import socket
import time

import pytest
from scripted import focus_lines

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
import httpx
from web_serving import Tab, error, png, scripted_agent, serving

from sifthinker.agent.web.errors import without_paths
from sifthinker.nodes.images import ImageLimits
from sifthinker.policy.errors import DepthError, PolicyError, PolicyUnavailable, UsageError

SECRET = "/srv/secret/models/policy-7"


@pytest.fixture(scope="module")
def address():
    """A server whose policy answers x."""
    with serving(scripted_agent("<answer>x</answer>", mode="direct", limits=ImageLimits(max_bytes=200_000))) as at:
        yield at


# ── pictures ──


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"", 422, "the file is empty"),
        (b"hello", 422, "the content is none of these"),
        (b"GIF89a" + b"\0" * 50, 422, "this is GIF: convert it first"),
        (b"<svg onload=alert(1)>", 422, "this is SVG"),
        (png()[:60], 422, "cut off"),
        (png(size=(9000, 2)), 413, "no edge may exceed 8000 pixels"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 300_000, 413, "more than 0.2 MB"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(address, data, status, said):
    refused = Tab(address).upload(data)
    assert refused.status_code == status
    assert said in error(refused)
    assert "Traceback" not in refused.text


def test_a_file_is_cut_off_while_it_streams_in(address):
    tab, sent = Tab(address), []

    def endless():
        for _ in range(1000):
            sent.append(1)
            yield b"\0" * 50_000

    try:
        refused = tab.client.post(f"sessions/{tab.id}/image", content=endless())
    except httpx.TransportError:  # the server has answered and hung up
        pass
    else:
        assert refused.status_code == 413
    assert len(sent) < 500


def test_a_file_that_dribbles_in_is_given_up():
    with serving(scripted_agent("x"), upload_s=0.3) as at:
        tab, began = Tab(at), time.monotonic()
        host, port = at.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as line:
            head = f"POST /api/sessions/{tab.id}/image HTTP/1.1\r\nHost: {host}:{port}\r\nX-Sifthinker: 1\r\n"
            line.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
            line.settimeout(10)
            assert b" 408 " in line.recv(4096)
        assert time.monotonic() - began < 8


def test_a_picture_s_name_is_never_a_path(address):
    for given in ("../../etc/passwd", "C:\\pictures\\passwd", "a/b\x1b[2J\n/passwd"):
        assert Tab(address).upload(png(), name=given).json()["name"] == "passwd"
    assert Tab(address).upload(png(), name="").json()["name"] == "picture"
    assert len(Tab(address).upload(png(), name="x" * 5000).json()["name"]) == 120


# ── questions ──


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"question": "  \n "}, 400, "The question is empty: say what you want to know about the picture."),
        ({"question": "x" * 4001}, 413, "The question is too long: at most 4000 characters are taken."),
        ({"question": "x" * 70_000}, 413, "That is too long: shorten it."),
        ({"question": "What?", "mode": "magic"}, 400, "Expected one of the modes direct, internal, tools"),
        ({"question": "What?", "options": ["a"] * 33}, 400, "There are too many answers to choose from"),
        ({"question": "What?", "image": "/etc/passwd"}, 400, "This cannot be used: image: Extra inputs"),
        ({"question": 7}, 400, "This cannot be used: question"),
        ({}, 400, "This cannot be used: question: Field required"),
    ],
)
def test_a_bad_question_is_refused_in_one_sentence(address, body, status, said):
    tab = Tab(address)
    tab.upload(png())
    refused = tab.post("questions", **body)
    assert refused.status_code == status
    assert error(refused).startswith(said)


def test_a_question_needs_a_picture_and_a_conversation(address):
    tab = Tab(address)
    assert error(tab.post("questions", question="What?")) == "There is no picture yet: drop one, or choose an example."
    tab.client.delete(f"sessions/{tab.id}")
    for refused in (tab.get(""), tab.post("questions", question="What?"), tab.upload(png())):
        assert refused.status_code == 404
        assert error(refused) == "This conversation is not kept any more: begin a new one."
    assert error(tab.client.get("nothing")) == "There is nothing at this address."


def test_a_conversation_has_an_end():
    with serving(scripted_agent("<answer>x</answer>", mode="direct"), max_questions=2) as at:
        tab = Tab(at)
        tab.upload(png())
        tab.ask("One?")
        tab.ask("Two?")
        assert error(tab.post("questions", question="Three?")) == "This conversation is full: begin a new one."


@pytest.mark.parametrize(
    "fault",
    [
        PolicyError(f"The weights in {SECRET} are broken."),
        PolicyUnavailable("http://10.0.0.7:8000/v1 answered 500."),
        DepthError(f"{SECRET}/depth.safetensors cannot be read."),
        RuntimeError(f"CUDA out of memory in {SECRET}"),
        UsageError(f"The file {SECRET} is missing."),
    ],
)
def test_an_error_of_the_policy_tells_no_path_and_no_address(fault, caplog):
    with serving(scripted_agent(fault, "<answer>y</answer>", mode="direct")) as at:
        tab = Tab(at)
        tab.upload(png())
        [*_, last] = tab.ask("What?")
        assert last["kind"] == "failed"
        assert "/" not in last["message"]
        assert "10.0.0.7" not in last["message"]
        assert last["message"].endswith(".")
        assert tab.ask("What?")[-1]["result"]["answer"] == "y", "the next question is answered"
    assert str(fault) in caplog.text, "the terminal says what it was"


@pytest.mark.parametrize("kind", [PolicyError, RuntimeError])
def test_an_error_s_text_steers_no_terminal(kind, caplog):
    with serving(scripted_agent(kind("refused: \x1b]0;title\x07\x9b2J"), mode="direct")) as at:
        tab = Tab(at)
        tab.upload(png())
        assert tab.ask("What?")[-1]["kind"] == "failed"
    assert "refused: ]0;title" in caplog.text
    assert ("Traceback" in caplog.text) == (kind is RuntimeError)
    assert not any(sign in caplog.text for sign in "\x1b\x07\x9b")


def test_warnings_and_the_policy_s_name_tell_no_path():
    agent = scripted_agent(*focus_lines((0.1, 0.1, 0.5, 0.5)))
    agent.context.policy._profile = agent.context.policy.profile.model_copy(
        update={"name": SECRET, "notes": (f"{SECRET} was trained on little.",)}
    )
    with serving(agent) as at:
        tab = Tab(at)
        tab.upload(png())
        events = tab.ask("What?")
        assert events[-1]["result"]["policy"] == "policy-7"
        told = str(events) + tab.client.get("offer").text
        told += tab.get("questions/1/report.html").text + tab.get("questions/1/result.json").text
    assert "/srv" not in told
    assert "policy-7 was trained on little." in told


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("No image can be read at '/srv/a b/x.png' (gone).", "No image can be read at 'a b/x.png' (gone)."),
        ("The folder ./runs/sft holds no model.", "The folder sft holds no model."),
        ("See ~/.cache/models for it.", "See models for it."),
        (r"Look at C:\Users\me\x.png.", "Look at x.png."),
        ("Name a real policy: Qwen/Qwen3-VL-4B-Instruct.", "Name a real policy: Qwen/Qwen3-VL-4B-Instruct."),
        ("https://10.0.0.1:80/v1 answered 500", "its address answered 500"),
        ("It lacks </think> and/or 1/2 of it.", "It lacks </think> and/or 1/2 of it."),
    ],
)
def test_paths_are_cut_to_their_last_part(text, shown):
    assert without_paths(text) == shown
