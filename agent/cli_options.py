"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
PolicyOption = Annotated[
    str, typer.Option("--policy", "-p", help="embedded, a hub id, ./folder, or openai:MODEL@URL.", metavar="NAME")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An option of the policy or of the run, once for each: device=cuda:1, dtype=bfloat16, adapter=./lora, "
        "max_steps=4, call_timeout_s=300, extra_body='{top_k: 20}', …",
        metavar="KEY=VALUE",
    ),
]
ModeOption = Annotated[
    str, typer.Option("--mode", "-m", help="How to focus: direct, internal, tools or adaptive.", metavar="MODE")
]
DepthOption = Annotated[
    str | None,
    typer.Option(
        help="Where depth comes from: embedded, none, small, base, large, a folder, file or hub id, or "
        "image:PATH:near=dark (or bright). Default: what suits the policy.",
        metavar="SPEC",
    ),
]
ToolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tool",
        help="A visual tool beside the crop, once for each: rotate, enhance, probe_depth, draw, read_text, "
        "or MODULE:TOOL (a module that is installed, or of this folder).",
        metavar="NAME",
    ),
]
