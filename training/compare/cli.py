"""`sifthinker compare`: what does focusing buy, with tools and without?"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)

_CACHE_BYTES = 250_000_000
"""Of a local policy's prefix cache without a GPU: what is under way, not everything that was asked. Photographs of a
large model need more, and a GPU's memory says how much there is."""
_DEFAULT_MODES = "direct,internal,tools,adaptive"


@app.command()
def compare(
    data: Annotated[
        str,
        typer.Option(
            help="A folder made by `sifthinker world make`, a .jsonl file, or a benchmark: NAME or NAME:PATH.",
            metavar="DATA",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder for answers and report. With answers in it the comparison goes on."),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", "-p", help="embedded, a hub id, ./folder or openai:MODEL@URL; once for each.", metavar="NAME"
        ),
    ] = None,
    modes: Annotated[
        str, typer.Option(help="Some of direct, internal, tools, adaptive, with commas between.", metavar="MODES")
    ] = _DEFAULT_MODES,
    controls: Annotated[
        str | None,
        typer.Option(
            help="Boxes in place of the policy's, in mode tools: oracle,random,centre,wrong, or all.", metavar="NAMES"
        ),
    ] = None,
    faithfulness: Annotated[
        bool,
        typer.Option("--faithfulness", help="Ask again with the cited region changed, and with another one changed."),
    ] = False,
    edits: Annotated[
        str, typer.Option(help="How regions are changed: mean (colour), blur, recolour.", metavar="NAMES")
    ] = "mean,blur,recolour",
    faithfulness_modes: Annotated[
        str | None, typer.Option(help="Modes asked again; by default all that leave a trace.", metavar="MODES")
    ] = None,
    faithfulness_limit: Annotated[
        int | None, typer.Option(min=1, help="Questions asked again; by default all.", metavar="N")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many questions, the families in turn.", metavar="N")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Orders of the options, each asked.", metavar="0,1,2")] = "0",
    timed: Annotated[
        int, typer.Option(min=0, help="Questions asked once more alone, for the seconds; 0: none.", metavar="N")
    ] = 20,
    depth: Annotated[
        str | None,
        typer.Option(help="Where depth comes from, as in `ask`; exact: the data's own.", metavar="SPEC"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An option of the policies or a setting of the runs: device=cuda:1, call_timeout_s=300, …",
            metavar="KEY=VALUE",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of all modes alike; 0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one question, in all modes alike.")] = 4096,
    max_steps: Annotated[int, typer.Option(min=0, help="Areas looked at in mode tools.")] = 8,
    engine: Annotated[
        str, typer.Option(help="auto, threads, processes or ray (this machine, or RAY_ADDRESS).", metavar="NAME")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one a core, with Ray one a GPU.", metavar="N")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Questions under way at once in a process, or at a server.", metavar="N")
    ] = 16,
    json: Annotated[bool, typer.Option("--json", help="Print results.json, and nothing else.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Ask the same questions in several modes, and report what focusing buys: accuracy, cost, faithfulness.

    A call may take 60 seconds and a run 300 (--set call_timeout_s=…, deadline_s=…); how many were cut short is told.

    Every answer is on disk before the next is asked for: the same command again goes on where it was broken off, and
    with further modes, seeds, policies or a higher limit asks what is new.
    """
    from typing import get_args

    from sifthinker.agent.asking import run_settings
    from sifthinker.training.compare.records import CONTROLS, EDITS, Asking
    from sifthinker.training.compare.run import Comparison, EngineName, Plan

    if engine not in get_args(EngineName):
        raise _usage(f"Expected --engine auto, threads, processes or ray, got {engine!r}.")
    chosen_modes = read_modes(modes, "--modes")
    edited = [mode for mode in chosen_modes if mode != "direct"]
    plan = Plan(
        policies=tuple(policy or ["embedded"]),
        modes=tuple(chosen_modes),
        controls=tuple(_listed(controls, "--controls", CONTROLS)) if controls else (),
        seeds=tuple(_numbers(seeds)),
        limit=limit,
        edits=tuple(_listed(edits, "--edits", EDITS)) if faithfulness else (),
        edited_modes=tuple(read_modes(faithfulness_modes, "--faithfulness-modes") if faithfulness_modes else edited),
        edited=faithfulness_limit,
        timed=timed,
        exact_depth=depth == "exact",
    )
    comparison = Comparison(
        data=data,
        out=out,
        plan=plan,
        asking=Asking(
            depth=depth,
            options=_options(setting, plan.policies, batch),
            settings={
                "temperature": temperature,
                "max_new_tokens": max_new_tokens,
                "max_steps": max_steps,
                **run_settings(setting or []),
            },
            concurrency=batch,
        ),
        engine=engine,  # type: ignore[arg-type]
        workers=workers,
        command=shlex.join(["sifthinker", *_arguments()]),
    )
    _run(comparison, as_json=json)


def _run(comparison: Any, *, as_json: bool) -> None:
    from rich.console import Console

    from sifthinker.agent.console import write_json
    from sifthinker.training.compare.console import show, watching
    from sifthinker.training.compare.report import write_report
    from sifthinker.training.compare.run import compare
    from sifthinker.training.folders import unwritable

    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' own bars would break into this one
    told = Console(stderr=True, highlight=False)
    try:
        with watching(told) as watch:
            finished = compare(comparison, on_start=watch.start, on_answer=watch.answer)
    except KeyboardInterrupt:
        told.print(f"Stopped. What is answered is kept in {comparison.out}: the same command goes on from there.")
        raise
    try:
        report = write_report(comparison.out, finished)
    except OSError as error:
        raise unwritable(error, comparison.out, f"All {len(finished.rows)} answers are kept. ") from error
    if finished.repaired:
        told.print("An earlier run was broken off in the middle of a line: that question was asked again.")
    if as_json:
        write_json(finished.results.model_dump(mode="json"))
        return
    show(Console(highlight=False), finished.results)
    known = len(finished.rows) - finished.new
    told.print(f"{finished.new} answers in this run, {known} before it. The report: {report}")


def _arguments() -> list[str]:
    """The command line as it was typed, for the report; names of folders only by their last part, no keys."""
    from sifthinker.agent.asking import without_secret

    parts = [without_secret(part) for part in sys.argv[1:]] if sys.argv[1:2] == ["compare"] else ["compare"]
    return [Path(part).name if Path(part).is_absolute() else part for part in parts if part != "--debug"]


def read_modes(text: str, option: str) -> list[Any]:
    """The modes of an option, with commas between, or all of them.

    Raises:
        UsageError: one that does not exist, or one twice.
    """
    from typing import get_args

    from sifthinker.nodes.context import Mode

    return _listed(text, option, get_args(Mode))


def _listed(text: str, option: str, known: tuple[str, ...]) -> list[Any]:
    names = list(known) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in known:
            raise _usage(f"{option}: there is no {name!r}, expected some of {', '.join(known)}.")
    if not names or len(set(names)) < len(names):
        raise _usage(f"{option}: expected some of {', '.join(known)}, each once, got {text!r}.")
    return names


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise _usage(f"--seeds: expected whole numbers with commas between, got {text!r}.") from None
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise _usage(f"--seeds: expected numbers from 0 on, each once, got {text!r}.")
    return numbers


def _options(settings: list[str] | None, policies: tuple[str, ...], batch: int) -> dict[str, Any]:
    """Options of `load_policy`, those that are no settings of a run; as many questions at once as are under way, unless
    something else is said."""
    from sifthinker.agent.asking import RUN_SETTINGS, read_settings

    options = {key: value for key, value in read_settings(settings or []).items() if key not in RUN_SETTINGS}
    remote = [name.startswith("openai:") for name in policies]
    if all(remote):
        options.setdefault("max_concurrent", batch)
    elif not any(remote):
        import torch

        options.setdefault("max_batch", batch)
        if options.get("device") == "cpu" or not torch.cuda.is_available():
            options.setdefault("cache_bytes", _CACHE_BYTES)
    return options


def _usage(message: str) -> Exception:
    from sifthinker.policy.errors import UsageError

    return UsageError(message)
