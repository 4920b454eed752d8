"""`sifthinker mcp --http`: asked by the official SDK's client over a real port, and by whoever should not come in."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

pytest.importorskip("mcp", reason="needs the extra mcp")
import httpx2  # the HTTP client that the SDK brings
import uvicorn
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from sifthinker.agent import cli, create_focus_agent
from sifthinker.agent.listening import ServerNames
from sifthinker.agent.mcp_http import HttpAccess, http_app
from sifthinker.agent.mcp_server import focus_server

IMAGES = Path(__file__).parents[2] / "examples" / "images"
LEFT = (0.1, 0.2, 0.5, 0.6)
TOKEN = "a-token-of-some-length"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


@contextmanager
def serving(access: HttpAccess | None = None, *lines: str, folder: Path = IMAGES) -> Iterator[str]:
    """The address at which a scripted agent is served."""
    policy = ScriptedPolicy(*(lines or focus_lines(LEFT, answer="red") * 4))
    server = focus_server(lambda: create_focus_agent(policy, depth="none"), folders=[folder])
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(http_app(server, access), log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    finally:
        running.should_exit = True
        thread.join(10)
        listening.close()


def with_client(address: str, work: Callable[[Any], Awaitable[None]], **headers: str) -> None:
    async def run() -> None:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(address, http_client=http)) as client,
        ):
            await work(client)

    asyncio.run(run())


def test_a_client_asks_over_http_and_is_told_of_each_step() -> None:
    told: list[str | None] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async def work(client: Any) -> None:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["ask", "look"]
        asked = {"question": "What colour?", "image": "signs.png"}
        answer = await client.call_tool("ask", asked, progress_callback=progress)
        assert answer.structured_content["answer"] == "red"
        again = await client.call_tool("ask", {"question": "And now?", "image": answer.structured_content["image"]})
        assert not again.is_error

    with serving() as address:
        with_client(address, work)
    assert told == ["step 1: 0.10, 0.20 – 0.50, 0.60"]


def test_several_clients_are_answered_at_once() -> None:
    async def ask(address: str) -> str:
        async with Client(address) as client:
            answer = await client.call_tool("ask", {"question": "What?", "image": "signs.png"})
            return str(answer.structured_content["answer"])

    async def all_of_them(address: str) -> list[str]:
        return await asyncio.gather(*(ask(address) for _ in range(6)))

    line = '<think><area>[{"bbox_2d":[0,0,1,1],"depth":0.5}]</area><text>a</text></think><answer>red</answer>'

    def says(messages: Any) -> str:
        return line

    with serving(None, says) as address:  # type: ignore[arg-type]
        assert asyncio.run(all_of_them(address)) == ["red"] * 6


def test_a_large_photograph_goes_up_and_what_comes_back_fits_into_a_message(tmp_path: Path) -> None:
    photograph = Image.effect_noise((2600, 2000), 90).convert("RGB")
    file = io.BytesIO()
    photograph.save(file, "PNG")
    assert len(file.getvalue()) > 4_200_000  # more than the SDK takes by default

    async def work(client: Any) -> None:
        sent = base64.b64encode(file.getvalue()).decode()
        answer = await client.call_tool("look", {"box": [0, 0, 1, 1], "image_base64": sent})
        assert not answer.is_error
        [picture] = [block for block in answer.content if block.type == "image"]
        shown = base64.b64decode(picture.data)
        assert len(shown) <= 700_000
        assert picture.mime_type == "image/jpeg"
        assert max(Image.open(io.BytesIO(shown)).size) >= 500

    with serving() as address:
        with_client(address, work)


def test_with_a_token_only_who_brings_it_is_answered() -> None:
    async def work(client: Any) -> None:
        assert (await client.list_tools()).tools

    with serving(HttpAccess(TOKEN)) as address:
        with_client(address, work, authorization=f"Bearer {TOKEN}")
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": f"Basic {TOKEN}"}):
            refused = httpx2.post(address, json=INITIALIZE, headers={**ACCEPT, **headers})
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert "token is needed" in refused.json()["error"]
        with pytest.raises(BaseException):  # noqa: B017, PT011 - the SDK's client fails as it does
            with_client(address, work)
    assert TOKEN not in repr(HttpAccess(TOKEN))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),  # its name was rebound to this address
        ({"host": "evil.example:8766"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:8766"}, 200),
        ({"origin": "http://localhost:6274"}, 200),  # a page on this machine, as MCP's inspector is
    ],
)
def test_it_answers_to_its_own_names_and_to_no_page_elsewhere(headers: dict[str, str], status: int) -> None:
    with serving() as address:
        answer = httpx2.post(address, json=INITIALIZE, headers={**ACCEPT, **headers})
        assert answer.status_code == status, answer.text
        if status == 421:
            assert "start it with --name HOST" in answer.json()["error"]
        if status != 200:
            assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_server_for_other_machines_is_called_by_address_or_by_the_names_it_was_given() -> None:
    names = ServerNames.of("0.0.0.0", ["Pictures.example.org"])
    assert [names.know(host) for host in ("192.168.1.7:8766", "[::1]:80", "pictures.example.org", "localhost")] == [
        True
    ] * 4
    assert not any(names.know(host) for host in ("evil.example", "", "192.168.1.7.evil.example", "[::1"))
    assert "call it by this machine's IP address, or start it with --name HOST" in names.refusal
    assert "call it by the address it printed, or start it with --name HOST" in ServerNames().refusal
    assert ServerNames.of("box.lan").know("box.lan:80")
    assert not ServerNames.of("box.lan").know("192.168.1.7")


def test_a_file_outside_the_folders_is_not_read_over_http_either() -> None:
    async def work(client: Any) -> None:
        for name in ("../ORIGIN.md", "/etc/passwd", "../../pyproject.toml"):
            answer = await client.call_tool("look", {"box": [0, 0, 1, 1], "image": name})
            assert answer.is_error
            assert "There is no image" in answer.content[0].text

    with serving() as address:
        with_client(address, work)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "80"], "go with --http"),
        (["--auth", "x"], "go with --http"),
        (["--http", "--host", "0.0.0.0"], "can be reached from other machines: set a token with --auth TOKEN"),
        (["--http", "--auth", "x", "--no-auth"], "either --auth or --no-auth"),
        (["--http", "--auth", "two words"], "Expected a token"),
        (["--http", "--host", "no-such-host.invalid", "--no-auth"], "cannot be found"),
    ],
)
def test_wrong_use_is_one_sentence(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIFTHINKER_MCP_TOKEN", raising=False)
    assert cli.run(["mcp", *options]) == 2
    assert said in capsys.readouterr().err


def test_the_command_serves_over_http_until_it_is_interrupted() -> None:
    program = [sys.executable, "-c", "from sifthinker.agent.cli import main; main()", "mcp", "--http", "--port", "0"]
    command = [*program, "--folder", str(IMAGES), "--depth", "none", "--policy", "openai:none@http://127.0.0.1:9/v1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            told = re.search(r"http://127\.0\.0\.1:\d+/mcp", line)
            assert told, line

            async def work(client: Any) -> None:
                answer = await client.call_tool("look", {"box": [0.5, 0.5, 0.9, 1], "image": "signs.png"})
                assert json.loads(answer.model_dump_json())["structured_content"]["size"] == [154, 192]

            with_client(told[0], work)
            running.send_signal(signal.SIGINT)
            rest, _ = running.communicate(timeout=60)
            assert running.returncode == 0
            assert "Traceback" not in rest
        finally:
            running.kill()
