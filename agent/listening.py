"""Where a server of this program listens, and by which names it may be called: the page and the MCP server alike."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sifthinker.policy.errors import UsageError

if TYPE_CHECKING:
    import uvicorn

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""How programs on this machine call it."""

EVERY_ADDRESS = ("", "0.0.0.0", "::")
"""Hosts to listen on that mean all addresses of this machine."""

BY_OTHERS = "Other machines call it by this machine's IP address, or by a name that is given with --name HOST."
"""Said to whoever listens on every address, since the address printed is good for this machine alone."""


@dataclass(frozen=True)
class ServerNames:
    """The names that a request may call a server by. A page elsewhere, whose own name was rebound to this machine's
    address, sends that name and is refused."""

    hosts: Collection[str] = LOOPBACK_NAMES
    """Without port, in small letters."""
    any_address: bool = False
    """Whether any IP address will do as well. A rebound name is never one."""

    @classmethod
    def of(cls, host: str, more: Iterable[str] = ()) -> ServerNames:
        """Those of a server that listens on `host`; `more`: further names, as behind a proxy."""
        known = {name.lower() for name in more} | LOOPBACK_NAMES
        everywhere = is_everywhere(host)
        return cls(frozenset(known if everywhere else known | {host.lower()}), everywhere)

    def know(self, host: str) -> bool:
        """Whether a Host header (a name, perhaps with a port) calls this server."""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and (name in self.hosts or (self.any_address and is_address(name)))

    @property
    def refusal(self) -> str:
        """What somebody is told who calls this server by another name."""
        by = "this machine's IP address" if self.any_address else "the address it printed"
        return f"This server is not known by that name: call it by {by}, or start it with --name HOST."


def is_loopback(host: str) -> bool:
    """Whether a host to listen on can be reached from this machine alone."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(host: str) -> bool:
    """Whether a host is an IP address, rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_everywhere(host: str) -> bool:
    """Whether a host to listen on is an address that other machines may know by other addresses still."""
    return host in EVERY_ADDRESS or (is_address(host) and not is_loopback(host))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; the port is taken before anything is loaded.

    Raises:
        UsageError: there is no such host, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"The host {host!r} cannot be found ({error.strerror}): name another with --host.") from error
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"{host}, port {port} cannot be listened on ({error.strerror}): name another with --port, 0 for any."
        ) from error
    return listening


def shown_address(host: str, port: int) -> str:
    """The address to call, as it is told to the person who started the server."""
    shown = "127.0.0.1" if host in EVERY_ADDRESS else host
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def quiet_server(app: Any, *, connections: int) -> uvicorn.Server:
    """A server that says nothing of itself, and believes no proxy's word about who calls.

    Args:
        app: the ASGI application.
        connections: most at a time; more are refused.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=connections,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
