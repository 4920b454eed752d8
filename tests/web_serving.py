"""A real server of the page on a free port of this machine, and a client that speaks with it as the page does."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image
from scripted import ScriptedPolicy

from sifthinker.agent import FocusAgent, create_focus_agent
from sifthinker.agent.web.app import create_app
from sifthinker.agent.web.loading import Loading
from sifthinker.agent.web.settings import WebSettings


def scripted_agent(*lines: Any, depth: Any = "none", seconds: float = 0.0, **settings: Any) -> FocusAgent:
    """An agent whose policy says these lines."""
    policy = ScriptedPolicy(*lines, seconds=seconds)
    return create_focus_agent(policy, depth=depth, checkpointer=InMemorySaver(), **settings)


def png(colour: str | tuple[int, int, int] = "teal", size: tuple[int, int] = (80, 60)) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def serving(agent: FocusAgent | Loading, **settings: Any) -> Iterator[str]:
    """The address at which the page is served."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(32)
    config = uvicorn.Config(create_app(agent, WebSettings(**settings)), log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


class Tab:
    """What a browser tab does: a conversation of its own."""

    def __init__(self, address: str, **headers: str) -> None:
        self.client = httpx.Client(base_url=f"{address}/api/", headers={"X-Sifthinker": "1", **headers}, timeout=30)
        self.id = self.client.post("sessions").json()["id"]

    def upload(self, data: bytes, name: str = "cups.png") -> httpx.Response:
        return self.client.post(f"sessions/{self.id}/image", params={"name": name}, content=data)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(f"sessions/{self.id}/{path}", json=body)

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.client.get(f"sessions/{self.id}/{path}".rstrip("/"), **arguments)

    def events(self, number: int, after: int = 0) -> list[dict[str, Any]]:
        """The events from then on, until the run comes to rest."""
        text = self.get(f"questions/{number}/events", params={"after": after}).text
        return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]

    def ask(self, question: str, **body: Any) -> list[dict[str, Any]]:
        """Ask, and wait for the events until the run comes to rest."""
        answer = self.post("questions", question=question, **body)
        assert answer.status_code == 202, answer.text
        return self.events(answer.json()["number"])


def error(answer: httpx.Response) -> str:
    """The sentence with which something was refused."""
    told = answer.json()
    assert set(told) == {"error"}
    return str(told["error"])


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """What kind each event is of."""
    return [event["kind"] for event in events]
