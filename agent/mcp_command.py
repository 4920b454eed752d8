"""What `sifthinker mcp` does: names and options checked first, then the server until its client leaves."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sifthinker.agent.asking import chosen_policy, chosen_tools, run_settings
from sifthinker.agent.config import focus_config
from sifthinker.agent.extras import needing
from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.agent.graph import create_focus_agent
from sifthinker.agent.listening import BY_OTHERS, EVERY_ADDRESS, ServerNames, is_loopback, listen, shown_address
from sifthinker.nodes.context import Mode
from sifthinker.policy.errors import UsageError

if TYPE_CHECKING:
    from sifthinker.agent.mcp_http import HttpAccess

TOKEN_VARIABLE = "SIFTHINKER_MCP_TOKEN"
"""Environment variable that holds the token, which on the command line every user of this machine could read."""
HOST, PORT = "127.0.0.1", 8766


@dataclass(frozen=True)
class HttpOptions:
    """How to serve over HTTP, as the command line says it."""

    host: str = HOST
    port: int = PORT
    auth: str | None = None
    no_auth: bool = False
    names: Sequence[str] = ()


def run_mcp(
    *,
    folders: Sequence[Path],
    policy: str,
    mode: str,
    depth: str | None,
    settings: Sequence[str],
    tools: Sequence[str],
    http: HttpOptions | None = None,
) -> None:
    """Serve until standard input closes; with `http`, on a port until the program is interrupted.

    Raises:
        UsageError: the MCP SDK is not installed; a mode, tool or folder that does not exist; an address that cannot be
            listened on, or that other machines can reach without a token.
    """
    with needing("mcp", "mcp"):
        from sifthinker.agent.mcp_server import focus_server
    focus_config(mode=mode)
    chosen = chosen_tools(tools)

    def make() -> FocusAgent:
        asked = chosen_policy(policy, settings)
        return create_focus_agent(asked, depth=depth, mode=cast(Mode, mode), tools=chosen, **run_settings(settings))

    server = focus_server(make, folders=folders)
    if http is not None:
        _serve_http(server, http)
        return
    if sys.stdin.isatty():
        logging.getLogger(__name__).warning("Waiting for an MCP client on standard input; Ctrl-C ends it.")
    server.run()


def _serve_http(server: Any, http: HttpOptions) -> None:
    with needing("mcp", "mcp"):
        from sifthinker.agent.mcp_http import PATH, http_app, serve
    from sifthinker.agent.console import FocusConsole

    access = _access(http)
    console = FocusConsole()
    with listen(http.host, http.port) as listening:
        address = shown_address(http.host, listening.getsockname()[1]).rstrip("/")
        console.say(f"sifthinker serves MCP at {address}{PATH} (Ctrl-C ends it)")
        if http.host in EVERY_ADDRESS:
            console.say(BY_OTHERS)
        if access.token is None and not is_loopback(http.host):
            console.note("Whoever can reach this machine can use it: no token was set (--no-auth).")
        try:
            serve(http_app(server, access), listening)
        except KeyboardInterrupt:
            console.say("Ended.")


def _access(http: HttpOptions) -> HttpAccess:
    """Who may call."""
    from sifthinker.agent.mcp_http import HttpAccess

    token = http.auth or os.environ.get(TOKEN_VARIABLE) or None
    if token is not None:
        if http.no_auth:
            raise UsageError("Expected either --auth or --no-auth, got both.")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError("Expected a token of letters, digits and signs, without spaces.")
    elif not is_loopback(http.host) and not http.no_auth:
        raise UsageError(
            f"{http.host} can be reached from other machines: set a token with --auth TOKEN (or in {TOKEN_VARIABLE}), "
            "or say --no-auth."
        )
    return HttpAccess(token, ServerNames.of(http.host, http.names))
