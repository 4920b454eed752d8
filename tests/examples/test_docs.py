"""What the documentation says is so: its Python runs, its links lead somewhere, its API page is current."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

from sifthinker.agent.cli import LAZY_GROUPS, app
from sifthinker.policy.load import EMBEDDED

ROOT = Path(__file__).parents[2]
RUN = ("quick-start", "concepts", "how-to", "extending")
"""Pages whose Python is run, each from top to bottom."""
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("README", *RUN, "api")]
"""The pages of this guide; what else lies there has its own tests."""
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
needs_weights = pytest.mark.skipif(
    not (EMBEDDED / "config.json").is_file(), reason="the embedded policy's weights are not there"
)


def blocks(page: Path) -> list[str]:
    """The Python of a page that is meant to run."""
    return [code for left_out, code in BLOCK.findall(page.read_text(encoding="utf-8")) if not left_out]


def test_there_is_something_to_run() -> None:
    assert all(blocks(ROOT / "docs" / f"{name}.md") for name in RUN)


@needs_weights
@pytest.mark.parametrize("name", RUN)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    page = ROOT / "docs" / f"{name}.md"
    before = set(ROOT.iterdir())
    names: dict[str, object] = {"__name__": f"docs_{name.replace('-', '_')}"}
    for number, code in enumerate(blocks(page), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec", dont_inherit=True), names)
    assert capsys.readouterr().out
    assert set(ROOT.iterdir()) == before, "nothing is written into the folder of whoever reads along"


@pytest.mark.parametrize("name", RUN)
def test_what_is_not_run_at_least_compiles(name: str) -> None:
    for _, code in BLOCK.findall((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")):
        compile(code, name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, link


@pytest.mark.parametrize("name", RUN)
def test_every_command_it_shows_is_understood(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    typed = [line for code in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in code.splitlines()]
    group = typer.main.get_command(app)
    for command in typed + re.findall(r"`(sifthinker [^`]+)`", text):
        if command.startswith("sifthinker "):
            _, called, *arguments = shlex.split(command)
            if called in LAZY_GROUPS:
                continue  # other packages' commands: their own tests
            group.commands[called].make_context(called, arguments)  # type: ignore[attr-defined]


def test_the_api_page_tells_of_every_public_name_as_it_is() -> None:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    told = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")

    def facts(page: str) -> list[str]:
        """Headings, imports, signatures, methods and fields, without the words about them."""
        fenced = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        return [*re.findall(r"^#+ .+$|^`from .+`$|^- `[^`]+`|^\| `[^`]+`", page, re.MULTILINE), *fenced]

    # Not word for word: a better sentence in a docstring should not fail whoever wrote it.
    assert facts(told) == facts(script.page()), "run: python docs/make_api.py"

    import sifthinker.agent as agent

    assert {f"### {name}" for name in agent.__all__} <= set(facts(told))


def test_every_name_of_the_api_page_can_be_imported_from_where_it_says() -> None:
    told = re.findall(
        r"^`from (\S+) import (\w+)`$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(told) > 60
    for module, name in told:
        if "mcp" in module and importlib.util.find_spec("mcp") is None:
            continue
        assert hasattr(importlib.import_module(module), name), f"from {module} import {name}"


APPLICATION = """
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image
from sifthinker.agent import create_focus_agent, question_message
from sifthinker.agent.events import AreaProposed

focus = create_focus_agent(policy="embedded", mode="tools")

def greet(state):
    return {"messages": [{"role": "assistant", "content": "Let me look."}]}

graph = StateGraph(MessagesState)
graph.add_node("greet", greet)
graph.add_node("focus", focus)
graph.add_edge(START, "greet")
graph.add_edge("greet", "focus")
graph.add_edge("focus", END)
app = graph.compile(checkpointer=InMemorySaver())
image = focus.context.images.put(Image.open("examples/images/blocks.png").convert("RGB"))
question = question_message("What color is the nearest object?", image=image)
thread = {"configurable": {"thread_id": "1"}}
boxes = [box.bbox_2d for _, event in app.stream({"messages": [question]}, thread, stream_mode="custom", subgraphs=True)
         if isinstance(event, AreaProposed) for box in event.boxes]
"""


@needs_weights
def test_an_application_written_from_these_pages_alone_streams_the_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len([line for line in APPLICATION.splitlines() if line]) <= 25
    names: dict[str, object] = {}
    exec(compile(APPLICATION, "a new application", "exec", dont_inherit=True), names)
    boxes = names["boxes"]
    assert isinstance(boxes, list)
    assert boxes[0] == (0.0, 0.0, 1.0, 1.0)
    app, thread = names["app"], names["thread"]
    messages = app.get_state(thread).values["messages"]  # type: ignore[attr-defined]
    assert [message.type for message in messages] == ["human", "ai", "ai"]
