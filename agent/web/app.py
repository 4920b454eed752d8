"""The application: every address that the page calls, and who answers it."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.agent.web.desk import Desk
from sifthinker.agent.web.errors import sentence_for, status_of
from sifthinker.agent.web.examples import EXAMPLES
from sifthinker.agent.web.guard import Guard
from sifthinker.agent.web.loading import Loading
from sifthinker.agent.web.settings import WebSettings
from sifthinker.policy.errors import SifthinkerError

_ASSETS = (
    "page.css",
    "page.js",
    "conversation.js",
    "elements.js",
    "server.js",
    "stage.js",
    "editor.js",
    "decision.js",
    "runs.js",
    "thread.js",
    "icon.svg",
)
_KINDS = {"js": "text/javascript", "webp": "image/webp"}


def create_app(agent: FocusAgent | Loading, settings: WebSettings | None = None) -> Starlette:
    """The page's server as an ASGI application, for `sifthinker web` or for a server of one's own.

    Args:
        agent: with a checkpointer, in which each browser tab has a thread; or one that is still being loaded.
        settings: who may call, and how much is kept.
    """
    settings = settings or WebSettings()
    if isinstance(agent, Loading):
        loading = agent
        loading.start()
    else:
        loading = Loading.of(agent)
    desk = Desk(loading, settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(desk.sweep_now_and_then)
            try:
                yield
            finally:
                desk.runner.stop_all()
                tasks.cancel_scope.cancel()

    session = "/api/sessions/{session}"
    question = f"{session}/questions/{{number:int}}"
    routes = [
        Route("/", _asset("index.html")),
        *(Route(f"/assets/{name}", _asset(name)) for name in _ASSETS),
        *(Route(f"/assets/examples/{example.file}", _asset(f"examples/{example.file}")) for example in EXAMPLES),
        Route("/api/offer", desk.offer),
        Route("/api/load", desk.load, methods=["POST"]),
        Route("/api/sessions", desk.open, methods=["POST"]),
        Route(session, desk.tell),
        Route(session, desk.close, methods=["DELETE"]),
        Route(f"{session}/image", desk.take_image, methods=["POST"]),
        Route(f"{session}/example", desk.take_example, methods=["POST"]),
        Route(f"{session}/images/{{sha256}}/{{kind}}", desk.picture),
        Route(f"{session}/questions", desk.ask, methods=["POST"]),
        Route(f"{question}/events", desk.events),
        Route(f"{question}/decision", desk.decide, methods=["POST"]),
        Route(f"{question}/fork", desk.fork, methods=["POST"]),
        Route(f"{question}/stop", desk.stop, methods=["POST"]),
        Route(f"{question}/report.html", desk.report),
        Route(f"{question}/result.json", desk.result),
    ]
    handlers: Any = {SifthinkerError: _refuse, HTTPException: _not_found, Exception: _fault}
    guard = Middleware(Guard, settings=settings)
    return Starlette(routes=routes, lifespan=lifespan, middleware=[guard], exception_handlers=handlers)


def _asset(name: str) -> Callable[[Request], Awaitable[Response]]:
    """A file of the page, read once."""
    data = resources.files("sifthinker.agent.web").joinpath("assets", *name.split("/")).read_bytes()
    headers = {"etag": f'"{hashlib.sha256(data).hexdigest()[:24]}"', "cache-control": "no-cache"}
    kind = _KINDS.get(name.rsplit(".", 1)[1]) or mimetypes.guess_type(name)[0]

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=kind, headers=headers)

    return serve


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, SifthinkerError)
    status = status_of(error)
    # What still comes of a body that was cut off is not waited for.
    headers = {"connection": "close"} if status in (408, 413) else None
    return JSONResponse({"error": sentence_for(error)}, status, headers=headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": "There is nothing at this address."}, error.status_code)


async def _fault(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": sentence_for(error)}, 500)
