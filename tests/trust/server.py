"""A model's server that answers questions as a good model would, or fails as servers do, request by request."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import LoopbackServer

FAULTS = ("429", "500", "half", "garbage", "drop", "never")
"""What a server can do instead of answering."""
NEVER_S = 1.2
"""How long a silent server is silent: longer than any client in these tests waits."""

_MARK = re.compile(r"mark-(\d+)")


class FocusServer(LoopbackServer):
    """An OpenAI-compatible server in a thread.

    It looks at the left half, then answers with the mark (`mark-17`) of the question that was asked last. `plan` says
    what it does with each request from the next on ("ok" or one of FAULTS); after its end it does `then`.
    """

    def __init__(self) -> None:
        self.plan: list[str] = []
        self.then = "ok"
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        """What each request was authorised with."""
        self.on_request: Callable[[int], None] | None = None
        """Called with the number of each request (from 1) before it is answered."""
        self._lock = threading.Lock()
        super().__init__(self._answer, protocol="HTTP/1.0")

    def policy(self, **settings: object) -> list[str]:
        """The options of the command line that name this server as the policy."""
        given = {"read_timeout": 0.5, "connect_timeout": 0.5, "call_timeout": 2, "box_space": "unit", **settings}
        words = ["--policy", f"openai:stub@{self.url}", "--depth", "none"]
        return [*words, *(word for key, value in given.items() for word in ("--set", f"{key}={value}"))]

    def reset(self) -> None:
        """As it was when it began."""
        self.plan, self.then, self.requests, self.on_request = [], "ok", [], None

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append(body)
            self.keys.append(handler.headers.get("authorization", ""))
            number = len(self.requests)
            act = self.plan.pop(0) if self.plan else self.then
        if self.on_request is not None:
            self.on_request(number)
        self._do(act, handler, body)

    def _do(self, act: str, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if act in ("429", "500"):
            handler.send_response(int(act))
            handler.send_header("content-length", "0")
            handler.end_headers()
            return
        if act == "escape":
            said = b'{"error": "\x1b]0;taken\x07\x1b[2J\xc2\x9b31m no"}'
            handler.send_response(400)
            handler.send_header("content-length", str(len(said)))
            handler.end_headers()
            handler.wfile.write(said)
            return
        if act == "drop":
            handler.close_connection = True
            return
        if act == "never":
            time.sleep(NEVER_S)
            handler.close_connection = True
            return
        if not body.get("stream"):
            self._judge(act, handler)
            return
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        if act == "garbage":
            handler.wfile.write(b"data: [1, 2\n\n<html>502 Bad Gateway</html>\n\n")
            return
        said = self.said(body)
        pieces = [said[: len(said) // 2]] if act == "half" else [said[: len(said) // 2], said[len(said) // 2 :]]
        for piece in pieces:
            event = {"choices": [{"index": 0, "delta": {"content": piece}}]}
            handler.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        if act != "half":
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9}}
            handler.wfile.write(f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode())

    @staticmethod
    def _judge(act: str, handler: BaseHTTPRequestHandler) -> None:
        """The reply to a judge's question, which is not streamed: half right, whatever was said."""
        reply = json.dumps({"choices": [{"message": {"content": '{"score": 0.5}'}}]}).encode()
        said = b"<html>502 Bad Gateway</html>" if act == "garbage" else reply
        handler.send_response(200)
        handler.send_header("content-length", str(len(said)))
        handler.end_headers()
        handler.close_connection = True
        handler.wfile.write(said[: len(said) // 2] if act == "half" else said)

    @staticmethod
    def said(body: dict[str, Any]) -> str:
        """The next turn of a conversation: a look, then the answer; both at once where it is not to pause."""
        messages = body["messages"]
        texts = [_text(turn) for turn in messages]
        if "Right answer: " in texts[-1]:
            return _written(texts[-1])
        users = [index for index, turn in enumerate(messages) if turn["role"] == "user"]
        asked = max(index for index in users if _MARK.search(texts[index]))
        looked = sum(turn["role"] == "assistant" for turn in messages[asked:])
        mark = _MARK.findall(texts[asked])[-1]
        look = '<think><area>[{"bbox_2d":[0.1,0.2,0.5,0.6]}]</area>'
        answer = f"<text>the left half of {mark}</text></think><answer>{mark}</answer>"
        if "</area>" not in body.get("stop", ["</area>"]):
            return look + answer
        return answer if looked else look


def _written(task: str) -> str:
    """What a good teacher writes of the areas it is given."""
    areas = [line.split("BOXES: ")[1].split("\n")[0] for line in task.split("\nArea ")[1:]]
    answer = task.split("Right answer: ")[1].split("\n")[0]
    steps = "".join(f"<area>{area}</area><text>I look.</text>" for area in areas)
    return f"<think>{steps}</think><answer>{answer}</answer>"


def _text(turn: dict[str, Any]) -> str:
    content = turn["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
