"""The MCP server over streamable HTTP: the SDK's own transport behind a gate that asks for name, origin and token."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sifthinker.agent.listening import ServerNames, quiet_server
from sifthinker.nodes.images import ImageLimits

if TYPE_CHECKING:
    import socket

PATH = "/mcp"
"""Where the server is called."""
MAX_SESSIONS = 256
"""Clients remembered at a time; one that is silent for half an hour is forgotten."""
MAX_CONNECTIONS = 64

_WRONG_TOKEN_S = 0.5


@dataclass(frozen=True)
class HttpAccess:
    """Who may call the server."""

    token: str | None = field(default=None, repr=False)
    """What every request must bring as `Authorization: Bearer TOKEN`; None: nobody is asked."""
    names: ServerNames = field(default_factory=ServerNames)
    """The names that it may be called by."""


def http_app(server: MCPServer[Any], access: HttpAccess | None = None, *, limits: ImageLimits | None = None) -> ASGIApp:
    """The server as an ASGI application that answers at `/mcp`, for `sifthinker mcp --http` or a server of one's own.

    Args:
        server: as `focus_server` makes it.
        access: who may call; by default programs on this machine alone.
        limits: an image sent as base64 may be as large as these allow.
    """
    largest = (limits or ImageLimits()).max_bytes
    application = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=largest * 4 // 3 + 100_000,
        max_sessions=MAX_SESSIONS,
        # The gate looks at Host and Origin itself: the SDK's list of names cannot say "any address of this machine".
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    return Gate(application, access or HttpAccess())


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Answer on this socket until the program is interrupted."""
    quiet_server(app, connections=MAX_CONNECTIONS).run(sockets=[listening])


class Gate:
    """ASGI middleware: refuses what does not call this server by its name, brings another page's origin, or no token.

    - Host: a page elsewhere whose name was rebound to this machine's address still sends its own name.
    - Origin: browsers name the page that a request comes from; programs send none.
    - Token: compared in constant time, before anything of the body is read.
    """

    def __init__(self, app: ASGIApp, access: HttpAccess) -> None:
        self.app = app
        self.access = access
        self._token = None if access.token is None else access.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        refusal = await self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    async def _refusal(self, headers: Headers) -> Response | None:
        if not self.access.names.know(headers.get("host", "")):
            return _told(421, self.access.names.refusal)
        if self._from_another_page(headers):
            return _told(403, "This request came from a web page elsewhere: it is not served.")
        if self._token is not None and not self._knows_token(headers.get("authorization", "")):
            if "authorization" in headers:
                await anyio.sleep(_WRONG_TOKEN_S)
            told = _told(401, "A token is needed, as the header Authorization: Bearer TOKEN.")
            told.headers["www-authenticate"] = 'Bearer realm="sifthinker"'
            return told
        return None

    def _from_another_page(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        return origin is not None and not self.access.names.know(urlsplit(origin).netloc)

    def _knows_token(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token or b"")


def _told(status: int, sentence: str) -> Response:
    # What still comes of the body is not waited for.
    return JSONResponse({"error": sentence}, status, headers={"connection": "close"})
