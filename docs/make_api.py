"""Writes docs/api.md: the public names with their docstrings, read from the source without importing it.

python docs/make_api.py
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"

SECTIONS: list[tuple[str, str, list[str]]] = [
    ("Asking", "agent/api.py", ["ask", "ask_stream", "aask"]),
    ("The agent", "agent/graph.py", ["create_focus_agent", "build_focus_graph"]),
    ("", "agent/focus_agent.py", ["FocusAgent"]),
    ("", "agent/config.py", ["focus_context"]),
    ("", "nodes/context.py", ["FocusConfig", "FocusContext"]),
    ("Results", "agent/result.py", ["FocusResult", "FocusStep", "LookedAtBox", "ToolFinding"]),
    (
        "Events",
        "nodes/events.py",
        [
            "Perceived",
            "AreaProposed",
            "DepthMeasured",
            "CropTaken",
            "ToolUsed",
            "TextWritten",
            "Warned",
            "Weighed",
            "AnswerGiven",
            "FocusPaused",
        ],
    ),
    ("Messages and people", "nodes/questions.py", ["question_message"]),
    ("", "nodes/person.py", ["FocusRequest", "FocusDecision"]),
    ("In other applications", "agent/tool.py", ["focus_tool", "FocusTool"]),
    ("", "policy/chat_model.py", ["FocusChatModel"]),
    ("", "agent/mcp_server.py", ["focus_server"]),
    ("", "agent/mcp_http.py", ["http_app", "HttpAccess"]),
    ("", "agent/listening.py", ["ServerNames"]),
    ("", "agent/sources.py", ["ImageSources"]),
    ("Visual tools", "nodes/tools.py", ["visual_tool", "find_tools", "Region", "Found", "VisualTool", "ToolFailed"]),
    ("Images", "nodes/images.py", ["load_image", "crop"]),
    ("", "nodes/image_store.py", ["ImageStore", "MemoryImageStore", "FolderImageStore"]),
    ("Depth", "nodes/depth.py", ["DepthMap", "DepthEstimator", "load_depth"]),
    ("Policies", "policy/load.py", ["load_policy"]),
    ("", "policy/base.py", ["Policy", "PolicyProfile", "Completion"]),
    ("Traces and boxes", "policy/trace_model.py", ["AreaBox", "Step", "Trace", "render"]),
    ("", "policy/trace_strict.py", ["parse"]),
    ("", "policy/trace_lenient.py", ["parse_lenient"]),
    ("", "policy/trace_stream.py", ["TraceStream"]),
    ("", "policy/boxes.py", ["BoxSpace", "to_unit", "from_unit", "iou", "hiou"]),
    ("Rewards", "training/rewards/format.py", ["format_reward"]),
    ("", "training/rewards/answer.py", ["answer_reward", "AnswerReward"]),
    ("", "training/rewards/grounding.py", ["grounding_reward"]),
    ("", "training/rewards/depth.py", ["depth_reward"]),
    (
        "Errors",
        "policy/errors.py",
        [
            "SifthinkerError",
            "UsageError",
            "ImageError",
            "TraceError",
            "DepthError",
            "DataError",
            "PolicyError",
            "PolicyLoadError",
            "PolicyTimeout",
            "PolicyUnavailable",
        ],
    ),
]
"""Heading, file, names. An empty heading goes on with the one before."""

FRONTS = ["agent/__init__.py", "agent/events.py", "nodes/images.py", "policy/trace.py", "training/rewards/__init__.py"]
"""Files whose `__all__` says from where a name is to be imported, wherever it is defined."""


def page() -> str:
    """The page as it should be."""
    parts = ["# API", "", "Written by `python docs/make_api.py` from the docstrings.", ""]
    fronts = {name: _module(file) for file in reversed(FRONTS) for name in _public(file)}
    for heading, file, names in SECTIONS:
        if heading:
            parts += [f"## {heading}", ""]
        found = {node.name: node for node in _definitions(file)}
        for name in names:
            parts += _entry(found[name], fronts.get(name) or _module(file))
    return "\n".join(parts).rstrip() + "\n"


def _module(file: str) -> str:
    return "sifthinker." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _public(file: str) -> list[str]:
    """The names in a file's `__all__`."""
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _definitions(file: str) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _entry(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, module: str) -> list[str]:
    parts = [f"### {node.name}", "", f"`from {module} import {node.name}`", ""]
    if not isinstance(node, ast.ClassDef):
        return [*parts, "```text", _signature(node), "```", "", *_doc(node)]
    parts += _doc(node)
    fields = list(_fields(node))
    if fields:
        parts += ["| field | type | |", "|---|---|---|"]
        parts += [f"| `{name}` | `{kind}` | {words} |" for name, kind, words in fields]
        parts.append("")
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_"):
            words = " ".join((ast.get_docstring(method) or "").split("\n\n")[0].split())
            is_property = any("property" in ast.unparse(decorator) for decorator in method.decorator_list)
            shown = method.name if is_property else _signature(method, method_of=node.name)
            parts += [f"- `{' '.join(shown.split())}` – {words}"]
    return [*parts, ""] if parts[-1] else parts


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method_of: str = "") -> str:
    """`name(arguments) -> result`, a line for each argument where they are many."""
    given = node.args
    if method_of and given.args and given.args[0].arg in ("self", "cls"):
        given = ast.arguments(**{**vars(given), "args": given.args[1:]})
    listed = ast.unparse(given)
    result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    word = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    line = f"{word}{node.name}({listed}){result}"
    return line if len(line) <= 110 or method_of else "\n".join(textwrap.wrap(line, 110, subsequent_indent="    "))


def _doc(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The docstring as Markdown: its lists of arguments and errors as they stand, examples as code."""
    parts: list[str] = []
    for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
        lines = paragraph.split("\n")
        if lines[0] in ("Args:", "Returns:", "Raises:"):
            body = textwrap.dedent("\n".join(lines[1:]))
            parts += [f"**{lines[0].removesuffix(':')}**", "", *_items(body, listed=lines[0] == "Args:"), ""]
        elif all(line.startswith("    ") for line in lines if line):
            parts += ["```pycon" if ">>>" in paragraph else "```python", textwrap.dedent(paragraph), "```", ""]
        else:
            parts += [" ".join(paragraph.split()), ""]
    return parts


def _items(body: str, *, listed: bool) -> list[str]:
    """`name: what it is` as a list."""
    if not listed:
        return [" ".join(body.split())]
    items: list[str] = []
    for line in body.split("\n"):
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        elif line.strip():
            name, _, words = line.partition(":")
            items.append(f"- `{name}`: {words.strip()}")
    return items


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Name, type and description of each public annotated field."""
    for index, statement in enumerate(node.body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if statement.target.id.startswith("_") or statement.target.id == "kind":
            continue
        after = node.body[index + 1] if index + 1 < len(node.body) else None
        words = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            words = after.value.value
        elif isinstance(statement.value, ast.Call):
            given = {keyword.arg: keyword.value for keyword in statement.value.keywords}
            described = given.get("description")
            words = ast.literal_eval(described) if isinstance(described, ast.Constant) else ""
        kind = ast.unparse(statement.annotation).replace("|", "\\|")
        yield statement.target.id, kind, " ".join(words.split()).replace("|", "\\|")


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
