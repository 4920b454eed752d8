"""`sifthinker web`: serves the page until it is interrupted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from sifthinker.agent.extras import needing
from sifthinker.agent.listening import (
    BY_OTHERS,
    EVERY_ADDRESS,
    ServerNames,
    is_loopback,
    listen,
    quiet_server,
    shown_address,
)
from sifthinker.agent.web.settings import WebSettings
from sifthinker.policy.errors import SifthinkerError, UsageError

if TYPE_CHECKING:
    from sifthinker.nodes.tools import VisualTool

AUTH_VARIABLE = "SIFTHINKER_AUTH"
"""Environment variable that holds `user:password`, which on the command line every user of this machine could read."""

_PATIENCE_S = 1.5
"""A policy that fails to load within this time ends the command; what fails later is told on the page. Wrong use ends
the command whenever it is found."""


def run_web(
    *,
    host: str,
    port: int,
    auth: str | None,
    no_auth: bool,
    names: Sequence[str],
    policy: str,
    mode: str,
    depth: str | None,
    settings: Sequence[str],
    open_browser: bool,
    tools: Sequence[str] = (),
) -> None:
    """Serve the page.

    Raises:
        UsageError: wrong use, a missing package, an address that cannot be listened on, no such policy or tool.
    """
    allowed = _allowed(host, auth or os.environ.get(AUTH_VARIABLE) or None, no_auth, names)
    with needing("web", "web"):
        import uvicorn

        from sifthinker.agent.web.app import create_app
    from sifthinker.agent.asking import chosen_tools
    from sifthinker.agent.console import FocusConsole
    from sifthinker.agent.web.loading import Loading

    chosen = chosen_tools(tools)
    listening = listen(host, port)
    console = FocusConsole()
    servers: list[uvicorn.Server] = []

    def told(error: SifthinkerError) -> None:
        if servers and isinstance(error, UsageError):
            servers[0].should_exit = True
        elif servers:
            console.trouble(str(error))

    loading = Loading(
        lambda: make_agent(
            policy=policy, mode=mode, depth=depth, settings=settings, tools=chosen, image_bytes=allowed.image_bytes
        ),
        told,
    )
    with listening:
        app = create_app(loading, allowed)
        loading.wait(_PATIENCE_S)
        if loading.error is not None:
            raise loading.error
        address = shown_address(host, listening.getsockname()[1])
        console.say(f"sifthinker is at {address} (Ctrl-C ends it)")
        if host in EVERY_ADDRESS:
            console.say(BY_OTHERS)
        if allowed.credentials is None and not is_loopback(host):
            console.note("Whoever can reach this machine can use it: no password was set (--no-auth).")
        if open_browser:
            import webbrowser

            webbrowser.open(address)
        server = quiet_server(app, connections=256)
        servers.append(server)
        if loading.error is not None:  # it came in between
            raise loading.error
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            console.say("Ended.")
        if isinstance(loading.error, UsageError):
            raise loading.error


def make_agent(
    *,
    policy: str,
    mode: str,
    depth: str | None,
    settings: Sequence[str],
    image_bytes: int,
    tools: Sequence[VisualTool] = (),
) -> Any:
    """The agent that answers the page, its conversations in memory."""
    from langgraph.checkpoint.memory import InMemorySaver

    from sifthinker.agent.asking import chosen_policy, run_settings
    from sifthinker.agent.graph import create_focus_agent
    from sifthinker.nodes.context import Mode
    from sifthinker.nodes.images import MemoryImageStore

    return create_focus_agent(
        chosen_policy(policy, settings),
        depth=depth,
        mode=cast(Mode, mode),
        checkpointer=InMemorySaver(),
        images=MemoryImageStore(image_bytes),
        tools=tools,
        **run_settings(settings),
    )


def _allowed(host: str, auth: str | None, no_auth: bool, names: Sequence[str]) -> WebSettings:
    """Who may come."""
    if auth is not None:
        user, separator, password = auth.partition(":")
        if not separator or not user or not password:
            raise UsageError("Expected --auth USER:PASSWORD, both of them not empty.")
        if no_auth:
            raise UsageError("Expected either --auth or --no-auth, got both.")
    elif not is_loopback(host) and not no_auth:
        raise UsageError(
            f"{host} can be reached from other machines: set a password with --auth USER:PASSWORD (or in "
            f"{AUTH_VARIABLE}), or say --no-auth."
        )
    known = ServerNames.of(host, names)
    return WebSettings(credentials=auth, hosts=frozenset(known.hosts), any_address=known.any_address)
