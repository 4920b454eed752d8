"""The shape of the package: who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("policy", "nodes", "agent", "training")  # each may import those before it
LAZY_DOORS = {"agent/cli.py"}  # mounts training's commands inside functions
HEAVY = {"torch", "torchvision", "transformers", "timm", "trl", "peft", "scipy", "datasets"}


def modules() -> list[Path]:
    return sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported(tree: ast.AST, *, inside_functions: bool = True) -> Iterator[str]:
    """The names that a module imports, dotted."""
    nodes = ast.walk(tree) if inside_functions else _outside_functions(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        yield from _outside_functions(node)


def layer_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "sifthinker" and len(parts) > 1 and parts[1] in LAYERS else None


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only_and_never_by_a_bare_name(path):
    relative = path.relative_to(ROOT).as_posix()
    own = LAYERS.index(relative.split("/")[0])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name in imported(tree, inside_functions=relative not in LAZY_DOORS):
        layer = layer_of(name)
        assert layer is None or LAYERS.index(layer) <= own, f"{relative} imports {name}, which lies above it"
        assert name.split(".")[0] not in LAYERS, f"{relative} imports {name} by its bare name: write sifthinker.{name}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_import_the_installed_names(path):
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        assert name.split(".")[0] not in LAYERS, f"{name} is a bare name: write sifthinker.{name}"


def test_every_package_is_listed_and_mapped():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in modules() if path.name == "__init__.py"}
    with_code = {path.parent.relative_to(ROOT) for path in modules()}
    assert with_code <= folders, f"without __init__.py: {with_code - folders}"
    expected = {f"sifthinker.{'.'.join(folder.parts)}": folder.as_posix() for folder in folders}
    assert set(setuptools["packages"]) == set(expected)
    assert setuptools["package-dir"] == expected


def loaded_by(statement: str) -> set[str]:
    """The top-level packages in memory after a statement, in a fresh interpreter."""
    program = (
        f"{statement}\nimport sys, json\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def test_importing_the_agent_costs_next_to_nothing():
    loaded = loaded_by("import sifthinker.agent")
    assert not loaded & (HEAVY | {"langgraph", "langchain_core", "PIL", "numpy", "pydantic"})


@pytest.mark.parametrize(
    "statement",
    [
        "from sifthinker.agent import ask, aask, ask_stream, create_focus_agent, build_focus_graph, FocusResult",
        "import sifthinker.agent.graph, sifthinker.agent.events",
        "import sifthinker.policy.load, sifthinker.policy.dialect, sifthinker.policy.trace",
        "import sifthinker.nodes.images, sifthinker.nodes.depth",
        "import sifthinker.agent.cli",
    ],
)
def test_no_model_library_is_loaded_before_a_model(statement):
    assert not loaded_by(statement) & HEAVY


def test_the_public_names_are_there():
    import sifthinker.agent as agent

    assert set(agent.__all__) <= set(dir(agent))
    for name in agent.__all__:
        assert getattr(agent, name).__doc__, f"{name} is not documented"
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        agent.nothing_of_this_name  # noqa: B018


def test_ask_stays_a_function_after_its_module_was_imported():
    import sifthinker.agent.api
    from sifthinker.agent import ask

    assert ask is sifthinker.agent.api.ask
