"""What stands before every request: the right name, the right password, the right page; and the headers of the answer.

- Host: only names under which this server is known. A page elsewhere whose name was rebound to this machine's address
  still sends its own name.
- Password: HTTP Basic, compared in constant time.
- Origin: what changes anything must carry a header that no form and no other site can send, and come from this page.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sifthinker.agent.listening import ServerNames
from sifthinker.agent.web.settings import WebSettings

OWN_HEADER = "x-sifthinker"
"""Sent by the page with everything that changes something. Another site cannot send it: nothing here allows it to."""

_SAFE = ("GET", "HEAD")
_WRONG_PASSWORD_S = 0.5

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
    "cache-control": "no-store",
}
"""Set on every answer, unless the answer brings its own."""


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self.app = app
        self._names = ServerNames(settings.hosts, settings.any_address)
        self._password = None if settings.credentials is None else settings.credentials.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = await self._refusal(scope)
        await (refusal or self.app)(scope, receive, with_headers)

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._names.know(headers.get("host", "")):
            return _told(scope, 421, self._names.refusal)
        if self._password is not None and not self._knows_password(headers.get("authorization", "")):
            if "authorization" in headers:
                await anyio.sleep(_WRONG_PASSWORD_S)
            told = _told(scope, 401, "A name and a password are needed.")
            told.headers["www-authenticate"] = 'Basic realm="sifthinker", charset="UTF-8"'
            return told
        if _from_elsewhere(scope, headers):
            return _told(scope, 403, "This request came from another page: it is not served.")
        return None

    def _knows_password(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return False
        return scheme.lower() == "basic" and hmac.compare_digest(given, self._password or b"")


def _from_elsewhere(scope: Scope, headers: Headers) -> bool:
    """Whether another site is behind a request. Following a link to the page itself is fine."""
    site = headers.get("sec-fetch-site", "none")
    if scope["method"] in _SAFE:
        opened = headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
        return site not in ("same-origin", "none") and not opened
    origin = headers.get("origin")
    strange = origin is not None and urlsplit(origin).netloc != headers.get("host")
    return strange or site not in ("same-origin", "none") or headers.get(OWN_HEADER) != "1"


def _told(scope: Scope, status: int, sentence: str) -> Response:
    headers = {} if scope["method"] in _SAFE else {"connection": "close"}  # its body is not waited for
    if scope["path"].startswith("/api/"):
        return JSONResponse({"error": sentence}, status, headers=headers)
    return PlainTextResponse(f"{sentence}\n", status, headers=headers)
