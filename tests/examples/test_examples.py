"""Every example runs as it is, on the embedded policy, and says what it should: what, not whether it is right."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sifthinker.policy.load import EMBEDDED

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.skipif(
    not (EMBEDDED / "config.json").is_file(), reason="the embedded policy's weights are not there"
)
Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example's `main` in this process, so that the policy is loaded once for all, and returns what it said."""

    def run(name: str, *arguments: str) -> str:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main(*arguments)
        return capsys.readouterr().out

    return run


def test_a_question(run: Run) -> None:
    said = run("ask")
    assert re.search(r"^Answer: \w+", said, re.MULTILINE)
    assert "measured 0." in said


def test_its_events(run: Run) -> None:
    assert "step 1: looks at [(0.0, 0.0, 1.0, 1.0)]" in run("stream")


def test_a_chat_agent(run: Run) -> None:
    said = run("chat_agent")
    assert said.count("> ") == 2
    assert "4 messages are remembered" in said


def test_a_subgraph_of_a_supervisor_with_a_state_of_its_own(run: Run) -> None:
    said = run("subgraph")
    assert "looks at [(0.0, 0.0, 1.0, 1.0)]" in said
    assert re.search(r"nearest object\? \w+ \(\d+ regions\)", said)
    assert "Please send a picture." in said


def test_a_tool_of_a_chat_model(run: Run) -> None:
    pytest.importorskip("langchain.agents", reason="needs langchain")
    said = run("tool")
    assert "tool: Answer: " in said
    assert "crops of [" in said


def test_a_policy_of_one_s_own(run: Run) -> None:
    said = run("custom_policy")
    assert said.count("Is there anything") == 3
    assert re.search(r"\? yes\n   \(0\.\d+, .*depth 0\.\d\d", said)


def test_a_node_and_a_visual_tool_of_one_s_own(run: Run) -> None:
    said = run("custom_node")
    assert re.search(r"step 1: depth_profile\(\) 0\.\d\d 0\.\d\d 0\.\d\d 0\.\d\d 0\.\d\d", said)
    assert "doubts: " in said


def test_a_person_in_the_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115 - nobody sits at a terminal
    said = run("person")
    assert said.count("may it look at") >= 2
    assert "1 step set by a person" in said


def test_a_batch_over_a_folder(run: Run, tmp_path: Path) -> None:
    for name in ("blocks.png", "chelsea.jpg"):
        (tmp_path / name).write_bytes((EXAMPLES / "images" / name).read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    lines = run("batch", str(tmp_path)).splitlines()
    assert lines[0] == "image,answer,steps,seconds,problem"
    assert [line.split(",")[0] for line in lines[1:]] == ["blocks.png", "chelsea.jpg"]
    assert "knows the block world only" in lines[2]


def test_a_batch_tells_what_failed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    assert "PNG, JPEG or WebP" in run("batch", str(tmp_path))


def test_reading_a_small_sign(run: Run) -> None:
    pytest.importorskip("rapidocr", reason="needs the extra ocr")
    pytest.importorskip("onnxruntime", reason="needs the extra ocr")
    assert "Answer: OPEN 9-17" in run("read_text")


def test_every_example_is_here() -> None:
    for_us = {"make_readme", "make_comparison"}  # they write the README
    listed = {path.stem for path in EXAMPLES.glob("*.py")} - for_us - {"train_embedded"}  # test_chain.py runs it
    tested = set(re.findall(r'run\("(\w+)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == listed
