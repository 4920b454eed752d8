"""No words reach a file or an address: not a message's, not a model's, not a file name's. Every open and connection of
the process is watched while they go through."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage
from PIL import Image
from scripted import ScriptedPolicy, area
from trust.inputs import beside

from sifthinker.agent import create_focus_agent
from sifthinker.agent.report import render_report, report_of
from sifthinker.nodes.tools import find_tools
from sifthinker.policy.chat_messages import policy_messages
from sifthinker.policy.errors import SifthinkerError

IMAGE = Image.new("RGB", (64, 48), (20, 90, 160))
_watching: list[list[tuple[str, str]]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"):
        _watching[-1].append((event, str(arguments[:2])))


sys.addaudithook(_hook)


@contextmanager
def watched() -> Iterator[list[tuple[str, str]]]:
    """What the process opens, connects to and starts in the block."""
    seen: list[tuple[str, str]] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.pop()


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A picture that nobody may open."""
    path = tmp_path / "canary.png"
    IMAGE.save(path)
    return path


def wanted(canary: Path) -> list[str]:
    """How words may ask for it, or for an address."""
    return [
        str(canary),
        canary.as_uri(),
        "http://canary.invalid/a.png",
        "http://169.254.169.254/latest/meta-data",
        f"![x]({canary.as_uri()})",
        f"<img src='{canary.as_uri()}'>",
        f"{{{{ ''.__class__.__mro__[1].__subclasses__() }}}} {{% include '{canary}' %}}",
        f"$(cat {canary})",
        f"; cat {canary} #",
    ]


def test_what_a_model_and_a_person_write_opens_nothing(canary: Path) -> None:
    for words in wanted(canary):
        call = f',"tool":"probe_depth","args":{{"path":"{canary}","image":"{canary}","url":"http://canary.invalid"}}}}]'
        lines = [
            f"<think>{area((0, 0, 1, 1)).replace('}]', call)}",
            f"<text>{words}</text></think><answer>{words}</answer>",
        ]
        tools = find_tools(["probe_depth", "rotate", "enhance", "draw"])
        agent = create_focus_agent(ScriptedPolicy(*lines, dialect="native"), depth="none", tools=tools)
        agent.ask("warm up", image=IMAGE)
        policy = ScriptedPolicy(*lines, dialect="native")
        agent = create_focus_agent(policy, depth="none", tools=tools)
        with watched() as seen:
            result = agent.ask(f"What is {words}?", image=IMAGE, options=[words, "b"])
            page = render_report(report_of(result, image_name=words, command=words))
        touched = [what for what in seen if "canary" in what[1] or what[0].startswith(("socket", "subprocess", "os."))]
        assert not touched, words
        assert "__subclasses__" not in page or "__class__" in page  # told as it was written, not evaluated


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "PATH"}},
        {"type": "image_url", "image_url": {"url": "URI"}},
        {"type": "image_url", "image_url": {"url": "http://canary.invalid/a.png"}},
        {"type": "image", "url": "URI"},
        {"type": "image", "file_id": "PATH"},
        {"type": "image", "file_id": "../../canary"},
        {"type": "image", "path": "PATH"},
        {"type": "image", "source": {"type": "url", "url": "URI"}},
        {"type": "image", "base64": "PATH", "mime_type": "image/png"},
    ],
    ids=str,
)
def test_what_a_message_names_is_not_opened(block: dict[str, object], canary: Path) -> None:
    def filled(value: object) -> object:
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        return {"PATH": str(canary), "URI": canary.as_uri()}.get(str(value), value)

    message = HumanMessage([filled(block), {"type": "text", "text": "What?"}])  # type: ignore[list-item]
    agent = create_focus_agent(ScriptedPolicy("<answer>x</answer>"), depth="none", mode="direct")
    with watched() as seen:
        with pytest.raises(SifthinkerError):
            agent.invoke({"messages": [message]})
        with pytest.raises(SifthinkerError):
            policy_messages([message])
    assert not [what for what in seen if "canary" in what[1] or what[0].startswith("socket")]


def test_nothing_is_fetched_while_a_question_is_answered_from_the_shipped_weights() -> None:
    """In a process of its own, from the first import on: no connection, no name looked up."""
    image = Path(__file__).parents[2] / "examples" / "images" / "blocks.png"
    program = f"""
        import sys
        def hook(event, arguments):
            if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
                if not (event == "socket.connect" and isinstance(arguments[1], str)):  # a Unix socket stays here
                    print("REACHED", event, arguments[1:], flush=True)
        sys.addaudithook(hook)
        from sifthinker.agent import ask
        print("answer:", ask({str(image)!r}, "What color is the cube?", mode="direct").answer)
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert "answer:" in done.stdout, done.stderr
    assert "REACHED" not in done.stdout, done.stdout


def test_the_fuzzers_of_other_tests_are_where_the_long_run_looks_for_them() -> None:
    assert beside("policy/test_trace_properties.py").check
    assert beside("nodes/test_images_fuzz.py").run
