"""`sifthinker mcp`, asked by the official SDK's client: in this process, and over standard input and output."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import cli, create_focus_agent
from sifthinker.policy.errors import PolicyUnavailable

mcp = pytest.importorskip("mcp", reason="needs the extra mcp")
from mcp.client.client import Client  # noqa: E402
from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: E402

from sifthinker.agent.mcp_server import focus_server  # noqa: E402

IMAGES = Path(__file__).parents[2] / "examples" / "images"
LEFT = (0.1, 0.2, 0.5, 0.6)


def png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = png(Image.new("RGB", (200, 100), (200, 10, 10)))


def with_client(work: Callable[[Any], Awaitable[None]], policy: ScriptedPolicy, folder: Path = IMAGES) -> None:
    async def run() -> None:
        server = focus_server(lambda: create_focus_agent(policy, depth="none"), folders=[folder])
        async with Client(server) as client:
            await work(client)

    asyncio.run(run())


def words(answer: Any) -> str:
    return "\n".join(block.text for block in answer.content if block.type == "text")


def test_a_client_asks_about_a_picture_it_sends_and_again_by_its_id():
    policy = ScriptedPolicy(*focus_lines(LEFT, answer="red") * 2)
    told: list[str | None] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async def work(client: Any) -> None:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["ask", "look"]
        asked = {"question": "What colour?", "image_base64": PICTURE, "options": ["red", "blue"], "show": True}
        answer = await client.call_tool("ask", asked, progress_callback=progress)
        assert not answer.is_error
        assert words(answer).startswith("Answer: red\n1. [0.10, 0.20 – 0.50, 0.60] depth 0.50: a thing 1")
        assert [block.type for block in answer.content] == ["text", "image"]
        crop = Image.open(io.BytesIO(base64.b64decode(answer.content[1].data)))
        assert crop.size == (80, 40)
        facts = answer.structured_content
        assert facts["steps"][0]["boxes"][0]["bbox_2d"] == list(LEFT)
        again = await client.call_tool("ask", {"question": "And now?", "image": facts["image"]})
        assert again.structured_content["answer"] == "red"
        assert [block.type for block in again.content] == ["text"]

    with_client(work, policy)
    assert "Options: red; blue" in policy.heard[0][0].text
    assert told == ["step 1: 0.10, 0.20 – 0.50, 0.60"]


def test_a_client_cuts_out_a_box_itself():
    async def work(client: Any) -> None:
        answer = await client.call_tool("look", {"box": [0.5, 0.5, 0.9, 1.2], "image": "signs.png"})
        assert answer.structured_content["box"][3] == 1.0
        assert answer.structured_content["size"] == [154, 192]
        assert Image.open(io.BytesIO(base64.b64decode(answer.content[1].data))).size == (154, 192)

    with_client(work, ScriptedPolicy(""))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"box": [0, 0, 1, 1], "image": "../ORIGIN.md"}, "There is no image"),
        ({"box": [0, 0, 1, 1], "image": "/etc/passwd"}, "There is no image"),
        ({"box": [0, 0, 1, 1], "image": "ORIGIN.md"}, "PNG, JPEG or WebP"),
        ({"box": [0.5, 0, 0.1, 1], "image": "signs.png"}, "x2 > x1"),
        ({"box": [0, 0, 1, 1]}, "Expected one image"),
        ({"box": [0, 0, 1, 1], "image": "signs.png", "image_base64": PICTURE}, "Expected one image"),
        ({"box": [0, 0, 1, 1], "image_base64": "no picture!"}, "cannot be decoded"),
        ({"box": [0, 0, 1], "image": "signs.png"}, "at least 4 items"),
    ],
)
def test_what_cannot_be_is_a_sentence_for_the_client(arguments, said):
    async def work(client: Any) -> None:
        answer = await client.call_tool("look", arguments)
        assert answer.is_error
        assert said in words(answer)

    with_client(work, ScriptedPolicy(""))


def test_a_policy_that_fails_does_not_end_the_server():
    policy = ScriptedPolicy(PolicyUnavailable("The server refused."), *focus_lines(LEFT, answer="red"))

    async def work(client: Any) -> None:
        asked = {"question": "What?", "image": "signs.png"}
        first = await client.call_tool("ask", asked)
        assert first.is_error
        assert "The server refused." in words(first)
        assert not (await client.call_tool("ask", asked)).is_error
        empty = await client.call_tool("ask", {"question": " ", "image": "signs.png"})
        assert "empty" in words(empty)

    with_client(work, policy)


def test_wrong_use_is_said_before_it_serves(capsys, tmp_path):
    assert cli.run(["mcp", "--folder", str(tmp_path / "nowhere")]) == 2
    assert "folder of images" in capsys.readouterr().err
    assert cli.run(["mcp", "--folder", "~nobody-of-this-name/Pictures"]) == 2
    assert "folder of images" in capsys.readouterr().err
    assert cli.run(["mcp", "--mode", "zoom"]) == 2
    assert cli.run(["mcp", "--tool", "fly"]) == 2
    assert "known are" in capsys.readouterr().err


def test_without_the_sdk_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "sifthinker.agent.mcp_server", raising=False)
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    assert cli.run(["mcp"]) == 2
    assert "pip install 'sifthinker[mcp]'" in capsys.readouterr().err


def test_the_command_serves_the_embedded_policy_over_standard_input_and_output():
    program = [sys.executable, "-c", "from sifthinker.agent.cli import main; main()", "mcp", "--folder", str(IMAGES)]
    parameters = StdioServerParameters(command=program[0], args=program[1:], env=dict(os.environ))

    async def run() -> None:
        async with Client(stdio_client(parameters)) as client:
            asked = {"question": "What does the sign on the red cylinder say?", "image": "signs.png"}
            answer = await client.call_tool("ask", asked)
            assert not answer.is_error, words(answer)
            from sifthinker.agent import ask

            direct = ask(IMAGES / "signs.png", asked["question"])
            assert answer.structured_content["answer"] == direct.answer
            assert len(answer.structured_content["steps"]) == len(direct.steps)

    asyncio.run(run())
