"""The command line as a user meets it: quick help, exit codes, one sentence for every error."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sifthinker.agent import cli
from sifthinker.training.world.dataset import make_world

PROGRAM = [sys.executable, "-c", "from sifthinker.agent.cli import main; main()"]


def sifthinker(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **environ}
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, env=env, timeout=120, stdin=subprocess.DEVNULL
    )


def test_help_lists_every_command_and_loads_none_of_them() -> None:
    code = "import sys; from sifthinker.agent.cli import run; run(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    for command in ("ask", "chat", "world", "train", "doctor"):
        assert f" {command} " in done.stdout
    for heavy in ("torch", "transformers", "langgraph", "numpy", "PIL", "sifthinker.training"):
        assert f"'{heavy}'" not in done.stdout


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    def used() -> float:
        before = os.times()
        sifthinker("--help")
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert min(used() for _ in range(3)) <= 0.5


def test_version() -> None:
    done = sifthinker("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("sifthinker 0.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing command. See `sifthinker --help`."),
        (["look"], "No such command 'look'. See `sifthinker --help`."),
        (["ask"], "See `sifthinker ask --help`."),
        (
            ["ask", "a.png", "What?", "--nothing-like-it"],
            "No such option: --nothing-like-it. See `sifthinker ask --help`.",
        ),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_two(arguments: list[str], said: str) -> None:
    done = sifthinker(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("sifthinker: ")
    assert done.stderr.endswith(f"{said}\n")
    assert done.stderr.count("\n") == 1


def test_a_group_whose_packages_are_missing_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'trl'", name="trl")

    monkeypatch.setattr(cli, "import_module", missing)
    assert cli.run(["train", "sft"]) == 2
    assert capsys.readouterr().err == (
        "sifthinker: `sifthinker train` needs trl, which is not installed: pip install 'sifthinker[train]'.\n"
    )


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("pyarrow", ["compare", "--data", "{world}", "--out", "{out}", "--modes", "direct"], "data"),
        ("pyarrow", ["data", "stats", "{world}"], "data"),
        ("pyarrow", ["distil", "{out}", "--source", "world:{world}"], "data"),
    ],
)
def test_a_package_that_is_missing_is_named_before_anything_is_asked(
    package: str, arguments: list[str], extra: str, tmp_path: Path
) -> None:
    world, out = tmp_path / "world", tmp_path / "out"
    list(make_world(world, split="test", count=1, seed=3, size=64))
    words = [word.format(world=world, out=out) for word in arguments]
    code = f"import sys; sys.modules[{package!r}] = None\nfrom sifthinker.agent.cli import run\n"
    code += f"sys.exit(run({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 2, done.stderr
    needs = f"`sifthinker {arguments[0]}` needs {package}, which is not installed"
    assert done.stderr.splitlines()[-1] == f"sifthinker: {needs}: pip install 'sifthinker[{extra}]'."
    assert not list(out.rglob("*.jsonl"))


def test_a_reader_that_leaves_early_sees_no_error() -> None:
    with subprocess.Popen(
        [*PROGRAM, "ask", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        time.sleep(0.1)
        assert process.stderr.read() == b""


def test_a_fault_in_the_program_is_one_sentence_without_debug() -> None:
    code = (
        "import sys; from sifthinker.agent import cli\n"
        "def broken(argv): raise ZeroDivisionError('division\\nby zero')\n"
        "cli.run = broken; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        "sifthinker: unexpected ZeroDivisionError: division by zero (run again with --debug to see where)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "--debug"], capture_output=True, text=True, timeout=60)
    assert "Traceback" in done.stderr
    wanting = {**os.environ, "SIFTHINKER_DEBUG": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=wanting)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
