"""The command line, `sifthinker COMMAND`: the agent's own commands, and those of training by name (`LAZY_GROUPS`).

Nothing heavy is imported here: every command imports what it needs when it runs, so that `--help` is quick.
Exit codes: 0 answered, 1 could not answer, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from sifthinker.agent.cli_options import Debug, DepthOption, ModeOption, PolicyOption, SetOption, ToolOption
from sifthinker.agent.cli_serving import serve_mcp, serve_web
from sifthinker.agent.extras import missing_extra
from sifthinker.policy.errors import SifthinkerError, UsageError

LAZY_GROUPS = {
    "world": ("sifthinker.training.world.cli", "Make scenes and questions of the block world."),
    "train": ("sifthinker.training.cli", "Train a policy."),
    "distil": ("sifthinker.training.distil.cli", "Make training data of the agent's own good runs."),
    "merge": ("sifthinker.training.merge_cli", "Put an adapter into its weights, to be shipped."),
    "data": ("sifthinker.training.data.cli", "Build training data, check it, look at it."),
    "rewards": ("sifthinker.training.rewards.cli", "What completions earn in training, and why."),
    "benchmarks": ("sifthinker.training.benchmarks.cli", "Benchmarks to compare on: what they are, how to get them."),
    "compare": ("sifthinker.training.compare.cli", "Compare ways of focusing on the same questions."),
}
"""Commands, single or in groups, that live elsewhere: name -> module with a Typer `app`, one line of help."""

# An error may quote a server or a file: nothing in it steers the terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# The parser's errors. Typer brings its own copy of click or uses the one installed, so they are reached through Typer.
_ParserError = cast("type[Exception]", typer.BadParameter.__mro__[2])


class LazyGroups(TyperGroup):
    """A group of commands some of which are imported only when they are called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` name; a lazy one is loaded now."""
        if args and args[0] in LAZY_GROUPS:
            return args[0], _load_group(args[0]), args[1:]
        return super().resolve_command(ctx, args)


def _load_group(name: str) -> Any:
    group = typer.main.get_command(import_module(LAZY_GROUPS[name][0]).app)
    group.name = name
    return group


app = typer.Typer(
    cls=LazyGroups,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Answer questions about an image by looking closer, and show where it looked.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sifthinker {version('sifthinker')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    """Options that stand before any command."""


@app.command()
def ask(
    image: Annotated[str, typer.Argument(help="A PNG, JPEG or WebP; - reads it from standard input.", metavar="IMAGE")],
    question: Annotated[str, typer.Argument(help="The question, in quotes.", metavar="QUESTION")],
    policy: PolicyOption = "embedded",
    mode: ModeOption = "tools",
    depth: DepthOption = None,
    setting: SetOption = None,
    tool: ToolOption = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="A possible answer; give it once for each.", metavar="TEXT"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write report.html, annotated.png, depth.png, crops/, tools/ and result.json into this folder.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Answer one question about an image, and show each step of looking."""
    from sifthinker.agent.asking import Request, answer_request

    answer_request(
        Request(
            image=image,
            question=question,
            options=option or [],
            policy=policy,
            mode=mode,
            depth=depth,
            settings=setting or [],
            tools=tool or [],
        ),
        as_json=json,
        save=save,
    )


@app.command()
def chat(
    image: Annotated[str | None, typer.Argument(help="The image to begin with.", metavar="[IMAGE]")] = None,
    policy: PolicyOption = "embedded",
    mode: ModeOption = "tools",
    depth: DepthOption = None,
    setting: SetOption = None,
    tool: ToolOption = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Ask before each look, to approve, edit or decline the boxes.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last conversation.")] = False,
    debug: Debug = False,
) -> None:
    """Ask several questions, about one image or more; /help lists what else can be done."""
    from sifthinker.agent.chatting import run_chat

    run_chat(
        image=image,
        policy=policy,
        mode=mode,
        depth=depth,
        settings=setting or [],
        resume=resume,
        confirm=confirm,
        tools=tool or [],
    )


@app.command()
def calibrate(
    policy: Annotated[str, typer.Argument(help="embedded, a hub id, ./folder, or openai:MODEL@URL.", metavar="POLICY")],
    data: Annotated[
        str,
        typer.Option(help="Validation questions: a folder of `world make`, a .jsonl file, or a benchmark NAME:SOURCE."),
    ],
    depth: DepthOption = None,
    setting: SetOption = None,
    cost: Annotated[str, typer.Option(help="What is to be saved: tokens, seconds or images.")] = "tokens",
    limit: Annotated[int | None, typer.Option(help="Only so many questions, the families in turn.")] = None,
    seed: Annotated[int, typer.Option(help="Shuffles the options and draws the folds.")] = 0,
    workers: Annotated[int, typer.Option(help="Questions under way at once.")] = 16,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what was learnt, and keep nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Learn when a policy's answer in one completion is enough, for `--mode adaptive`.

    Each question is answered in one completion and then looked into with tools. The rule of the least cost within one
    point of the best accuracy is kept in the policy's sifthinker.json; for policies that cannot be written to, in the
    user's own folder. The same command goes on where a run was broken off.
    """
    from sifthinker.training.calibrate.command import run_calibrate

    run_calibrate(
        policy=policy,
        data=data,
        depth=depth,
        cost=cost,
        limit=limit,
        seed=seed,
        workers=workers,
        settings=setting or [],
        keep=not dry_run,
        as_json=json,
    )


app.command(name="mcp")(serve_mcp)
app.command(name="web")(serve_web)


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Say what is installed, on which device it runs, and whether the embedded policy answers."""
    from sifthinker.agent.doctor import run_doctor

    raise typer.Exit(run_doctor(as_json=json))


def _stand_in(name: str, text: str) -> None:
    """List a lazy group in the help; `LazyGroups` puts the real one in its place when it is called."""

    @app.command(name, help=text, add_help_option=False)
    def listed() -> None: ...


for _name, (_module, _text) in LAZY_GROUPS.items():
    _stand_in(_name, _text)


def run(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code.

    Errors of use and of the run become one sentence on standard error. With `--debug`, or SIFTHINKER_DEBUG set, the
    error itself is raised.
    """
    debug = _wants_debug(argv)
    try:
        code = typer.main.get_command(app)(args=list(argv), prog_name="sifthinker", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (SifthinkerError, _ParserError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            return _leave_quietly()
        if debug:
            raise
        return _complain(error)
    except ImportError as error:
        told = missing_extra(error, next((word for word in argv if not word.startswith("-")), ""))
        if told is None or debug:
            raise
        return _complain(told)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\n")
        return 130


def main() -> None:
    """The `sifthinker` program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end the run
    if not _wants_debug(sys.argv[1:]):
        sys.excepthook = _one_sentence
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what it says of odd files is said in our notes
    sys.exit(run(sys.argv[1:]))


def _wants_debug(argv: Sequence[str]) -> bool:
    """Whether errors are shown with their traceback."""
    return "--debug" in argv or bool(os.environ.get("SIFTHINKER_DEBUG"))


def _complain(error: Exception) -> int:
    """Say on standard error what was wrong, in one sentence, and return the exit code."""
    if isinstance(error, SifthinkerError):
        text, code = str(error), error.exit_code
    elif isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        text, code = f"{error.strerror or error}{where}.", 1
    else:
        text, code = _misuse(error), UsageError.exit_code
    sys.stderr.write(f"sifthinker: {_one_line(text)}\n")
    return code


def _one_line(text: str) -> str:
    """A message as one line: a list below it is strung together, its columns set apart by dashes."""
    lines = [re.sub(r"\s{2,}|\t", " – ", line.strip()) for line in text.splitlines() if line.strip()]
    return _CONTROL.sub("", "; ".join(lines).replace(":; ", ": "))


def _misuse(error: Any) -> str:
    """What the command line's parser found wrong, and where to read how it is right."""
    context = getattr(error, "ctx", None)
    text = str(error.format_message()).rstrip(".") or "Missing command"
    return f"{text}. See `{context.command_path if context else 'sifthinker'} --help`."


def _leave_quietly() -> int:
    """Whoever read our output has gone: write the rest into nothing, so that no error follows at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _one_sentence(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """What is said of a fault in the program itself."""
    text = _CONTROL.sub("", " ".join(str(error).split())) or "no further word"
    sys.stderr.write(f"sifthinker: unexpected {kind.__name__}: {text} (run again with --debug to see where)\n")
