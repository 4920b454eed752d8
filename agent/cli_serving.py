"""The commands that serve: `sifthinker web` for people, `sifthinker mcp` for programs. See `cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sifthinker.agent.cli_options import Debug, DepthOption, ModeOption, PolicyOption, SetOption, ToolOption
from sifthinker.policy.errors import UsageError


def serve_mcp(
    folder: Annotated[
        list[Path] | None,
        typer.Option("--folder", "-f", help="A folder whose images clients may name; once for each.", metavar="DIR"),
    ] = None,
    policy: PolicyOption = "embedded",
    mode: ModeOption = "tools",
    depth: DepthOption = None,
    setting: SetOption = None,
    tool: ToolOption = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve over streamable HTTP at /mcp instead of standard input and output.")
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(
            help="With --http: where to listen (default 127.0.0.1); anything but this machine alone needs --auth or "
            "--no-auth."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="With --http: port (default 8766); 0: any that is free.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(
            help="With --http: a token that every client must send. Or set SIFTHINKER_MCP_TOKEN.", metavar="TOKEN"
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="With --http: let everyone in who can reach the host.")
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="With --http: a further name of this server, as behind a proxy.", metavar="HOST"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve the agent to programs that speak the Model Context Protocol: on standard input and output, or over HTTP."""
    from sifthinker.agent.mcp_command import HOST, PORT, HttpOptions, run_mcp

    if not http and (host is not None or port is not None or auth is not None or no_auth or name):
        raise UsageError("--host, --port, --auth, --no-auth and --name go with --http.")
    over_http = HttpOptions(host or HOST, PORT if port is None else port, auth, no_auth, name or ())
    run_mcp(
        folders=folder or [],
        policy=policy,
        mode=mode,
        depth=depth,
        settings=setting or [],
        tools=tool or [],
        http=over_http if http else None,
    )


def serve_web(
    policy: PolicyOption = "embedded",
    mode: ModeOption = "tools",
    depth: DepthOption = None,
    setting: SetOption = None,
    tool: ToolOption = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; anything but this machine alone needs --auth or --no-auth.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8765,
    auth: Annotated[
        str | None,
        typer.Option(help="Ask everyone for this name and password. Or set SIFTHINKER_AUTH.", metavar="USER:PASSWORD"),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everyone in who can reach the host.")] = False,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A further name of this server, as behind a proxy; once for each.", metavar="HOST"),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Ask in the browser: drop a picture, watch where the policy looks, decide on its boxes."""
    from sifthinker.agent.web.command import run_web

    run_web(
        host=host,
        port=port,
        auth=auth,
        no_auth=no_auth,
        names=name or [],
        policy=policy,
        mode=mode,
        depth=depth,
        settings=setting or [],
        open_browser=open_browser,
        tools=tool or [],
    )
