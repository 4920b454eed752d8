"""What must hold of sifthinker as it is installed: run by .ci/dist in a clean environment, far from the source.

    python smoke.py SOURCE      SOURCE: the unpacked tree from which it was built

Every file of the packages is there, byte for byte; every module can be imported; types are shipped, and mypy knows
them; the command line answers a question about the README's scene from the weights inside, the hub switched off.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

log = logging.getLogger("smoke")

QUESTION = "Which is closer to the camera, the purple cylinder or the yellow cylinder?"
ANSWER = "purple cylinder"
TOP = ("policy", "nodes", "agent", "training")
SHIPPED = {
    ".py", ".typed", ".safetensors", ".json", ".jinja", ".html", ".css", ".js", ".yaml", ".png", ".webp", ".svg",
}  # fmt: skip
"""Endings of what belongs to an installation; a folder's README does not, a model card does."""
CONSUMER = """
from sifthinker.agent import ask

result = ask("a.png", "What?")
answer: str = result.answer
ask("a.png")  # wrong: no question
"""


def packages(source: Path) -> dict[str, str]:
    """Every package and its folder in the source."""
    settings = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    return dict(settings["package-dir"])


def installed() -> Path:
    """Where the packages lie."""
    import sifthinker.agent

    return Path(sifthinker.agent.__file__).parents[1]


def files(source: Path) -> None:
    """Nothing of the packages is missing or another."""
    count = 0
    for folder in TOP:
        for path in (source / folder).rglob("*"):
            if path.suffix not in SHIPPED or path.is_dir():
                continue
            there = installed() / path.relative_to(source)
            assert there.is_file(), f"{there} is missing"
            assert there.read_bytes() == path.read_bytes(), f"{there} is another"
            count += 1
    for model in ("policy", "depth"):
        for name in ("model.safetensors", "README.md"):
            assert (installed() / "policy" / "embedded" / model / name).is_file(), (model, name)
    log.info(f"files: {count}, as they are in the source; weights and their cards inside")


def modules(source: Path) -> None:
    """Each one by its name."""
    count = 0
    for name, folder in packages(source).items():
        for path in (source / folder).glob("*.py"):
            if path.stem not in ("__main__", "lmms_model"):  # the latter is imported by lmms-eval alone
                importlib.import_module(name if path.stem == "__init__" else f"{name}.{path.stem}")
                count += 1
    log.info(f"modules: {count} imported")


def types() -> None:
    """The distribution says that it is typed, and mypy finds the types."""
    for name in TOP:
        assert (installed() / name / "py.typed").is_file(), name
    page = Path("consumer.py")
    page.write_text(CONSUMER, encoding="utf-8")
    words = ["--strict", "--follow-imports=silent", "--no-incremental", "--no-error-summary", str(page)]
    done = subprocess.run([sys.executable, "-m", "mypy", *words], capture_output=True, text=True, check=False)
    assert "call-arg" in done.stdout, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1, done.stdout
    log.info("types: known to mypy, which finds the one mistake of a user's file")


def command_line(source: Path) -> None:
    """Help, version, an answer, and an error."""
    program = str(Path(sys.executable).with_name("sifthinker"))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        alone = {**os.environ, "HF_HUB_OFFLINE": "1"}
        return subprocess.run([program, *words], capture_output=True, text=True, check=False, env=alone)

    told = run("--help")
    assert told.returncode == 0, told.stderr
    assert all(name in told.stdout for name in ("ask", "chat", "web", "compare", "data", "train")), told.stdout
    image = str(source / "examples" / "images" / "blocks.png")
    asked = run("ask", image, QUESTION, "--json", "--save", "saved")
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)["answer"]
    assert answer == ANSWER, answer
    assert Path("saved", "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    missing = run("ask", "nowhere.png", QUESTION)
    assert missing.returncode in (1, 2), missing
    assert "Traceback" not in missing.stderr, missing.stderr
    log.info(f"command line: {answer}")


def licences() -> None:
    """They travel with the distribution."""
    found = {Path(str(path)).name for path in metadata.files("sifthinker") or []}
    assert {"LICENSE", "LICENSES.md"} <= found, found
    log.info(f"sifthinker {metadata.version('sifthinker')}, licences inside")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = Path(sys.argv[1]).resolve()
    assert given not in installed().parents, "this is the source, and not what was installed"
    licences()
    files(given)
    command_line(given)
    modules(given)
    types()
