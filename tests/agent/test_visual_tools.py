"""Visual tools in a run: asked for inside an area, told in the reply, counted, kept without pixels."""

from __future__ import annotations

import importlib.util
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from langgraph.checkpoint.memory import MemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import FocusResult, ask, create_focus_agent, question_message
from sifthinker.agent.events import FocusPaused, ToolUsed
from sifthinker.agent.report import render_report, report_of
from sifthinker.agent.saving import save_run
from sifthinker.nodes.images import FolderImageStore, MemoryImageStore
from sifthinker.nodes.tools import Region, visual_tool

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8))
LEFT = (0.1, 0.2, 0.5, 0.6)
ASKS = '<think><area>[{"bbox_2d":[0.1,0.2,0.5,0.6],"tool":"rotate","args":{"degrees":90}}]</area>'
ENDS = "<text>a thing</text></think><answer>red</answer>"


@visual_tool(always=True)
def crop_size(region: Region) -> str:
    """How large the crop is."""
    return f"{region.crop.width} by {region.crop.height}"


def native(*lines: str, **profile: object) -> ScriptedPolicy:
    return ScriptedPolicy(*lines, dialect="native", **profile)


def test_an_instruct_model_asks_for_a_tool_and_is_shown_what_it_found():
    policy = native(ASKS, ENDS)
    *events, result = create_focus_agent(policy, depth="none", tools=["rotate"]).ask_stream("What?", image=IMAGE)

    assert "rotate(degrees: number = 90.0)" in policy.heard[0][0].text
    reply = policy.heard[1][-1]
    assert "rotate(degrees=90):" in reply.text
    assert [image.size for image in reply.images] == [(80, 40), (40, 80)]
    used = next(event for event in events if isinstance(event, ToolUsed))
    assert used.picture.size == (40, 80)
    assert used.box == LEFT
    assert result.valid_trace
    assert result.warnings == []
    [found] = result.steps[0].findings
    assert (found.box, found.call) == (0, "rotate(degrees=90)")
    assert found.picture.size == (40, 80)
    assert result.to_dict()["steps"][0]["findings"][0]["picture_id"] == found.picture_id


def test_a_trained_policy_is_told_of_none_and_the_user_is():
    policy = ScriptedPolicy(*focus_lines(LEFT, answer="red"))
    result = create_focus_agent(policy, depth="none", tools=["rotate"]).ask("What?", image=IMAGE)
    assert "rotate" not in "".join(turn.text for turn in policy.heard[-1])
    assert "not offered" in result.warnings[0]
    assert "findings" not in result.to_dict()["steps"][0]


def test_a_profile_can_leave_them_out():
    policy = native(ASKS, ENDS, visual_tools=False)
    result = create_focus_agent(policy, depth="none", tools=["rotate"]).ask("What?", image=IMAGE)
    assert "rotate(" not in policy.heard[0][0].text
    assert "there are none in this run" in " ".join(result.warnings)


def test_one_that_is_always_used_finds_its_place_in_every_policy_s_result():
    trained = ScriptedPolicy(*focus_lines((0, 0, 1, 1), LEFT, answer="red"))
    result = create_focus_agent(trained, depth="none", tools=[crop_size]).ask("What?", image=IMAGE)
    assert [found.text for step in result.steps for found in step.findings] == ["200 by 100", "80 by 40"]
    assert "80 by 40" not in trained.heard[-1][-1].text
    assert result.warnings == []
    assert result.valid_trace

    told = native(ASKS, ENDS)
    create_focus_agent(told, depth="none", tools=[crop_size, "rotate"]).ask("What?", image=IMAGE)
    assert "crop_size(): 80 by 40" in told.heard[-1][-1].text


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ('"tool":"fly"', "no such tool: known are rotate"),
        ('"tool":"rotate","args":{"angle":9}', r"rotate takes (degrees"),
        ('"tool":"rotate","args":{9}', "not JSON"),
        ('"tool":"rotate","args":[9]', "not written as asked"),
    ],
)
def test_a_call_that_cannot_be_done_is_told_and_the_run_goes_on(key, said):
    policy = native(f'<think><area>[{{"bbox_2d":[0.1,0.2,0.5,0.6],{key}}}]</area>', ENDS)
    result = create_focus_agent(policy, depth="none", tools=["rotate"]).ask("What?", image=IMAGE)
    assert result.answer == "red"
    assert result.steps[0].boxes[0].bbox_2d == LEFT
    assert any(said in warning for warning in result.warnings), result.warnings


def test_pictures_of_tools_count_as_images():
    policy = native(ASKS, ENDS)
    result = create_focus_agent(policy, depth="none", tools=["rotate"], max_images=2).ask("What?", image=IMAGE)
    assert "The budget of 2 images is used up" in " ".join(result.warnings)
    assert result.steps[0].findings[0].picture_id is None
    assert max(len(turn.images) for turn in policy.heard[-1]) == 1


def test_a_checkpoint_holds_no_picture_and_a_run_goes_on_with_it(tmp_path):
    path, images = tmp_path / "chat.sqlite", FolderImageStore(tmp_path / "images")
    memory = SqliteSaver(sqlite3.connect(path, check_same_thread=False))

    def killed(messages: object) -> str:
        raise SystemExit(137)

    agent = create_focus_agent(native(ASKS, killed), depth="none", tools=["rotate"], checkpointer=memory, images=images)
    with pytest.raises(SystemExit):
        agent.ask("What?", image=IMAGE, thread_id="t")
    assert max(len(row[0] or b"") for row in memory.conn.execute("select value from writes")) < 5_000

    policy = native(ENDS)
    again = create_focus_agent(
        policy,
        depth="none",
        tools=["rotate"],
        checkpointer=SqliteSaver(sqlite3.connect(path, check_same_thread=False)),
        images=FolderImageStore(tmp_path / "images"),
    )
    *_, result = again.resume("t")
    assert result.answer == "red"
    assert [image.size for image in policy.heard[0][-1].images] == [(80, 40), (40, 80)]


def test_a_person_sees_which_tool_would_be_used():
    policy = native(ASKS, ENDS)
    agent = create_focus_agent(
        policy, depth="none", tools=["rotate"], checkpointer=MemorySaver(), interrupt_on_focus=True
    )
    *_, paused = agent.ask_stream("What?", image=IMAGE, thread_id="t")
    assert isinstance(paused, FocusPaused)
    assert paused.tools == ("rotate on box 1",)
    *_, result = agent.resume("t", {"action": "edit", "boxes": [[0.5, 0.2, 0.9, 0.6]]})
    assert result.steps[0].findings == []


def test_ask_takes_tools_by_name():
    result = ask(IMAGE, "What?", policy=native(ASKS, ENDS), depth="none", tools=["rotate"])
    assert result.steps[0].findings
    *_, again = list(_stream())
    assert again.steps[0].findings


def test_text_is_read_on_a_real_photograph():
    """A page of print, photographed aslant and unevenly lit; it comes with scikit-image."""
    pytest.importorskip("rapidocr", reason="needs the extra ocr")
    pytest.importorskip("onnxruntime", reason="needs the extra ocr")
    found = importlib.util.find_spec("skimage")
    page = found and Path(found.origin).parent / "data" / "page.png"
    if not page or not page.is_file():
        pytest.skip("needs the photograph of a page in scikit-image")
    asks = '<think><area>[{"bbox_2d":[0,0,0.8,0.25],"tool":"read_text"}]</area>'

    def answers(messages):
        read = re.search(r"read_text\(\): text: (.+)", messages[-1].text)[1]
        return f"<text>A heading.</text></think><answer>{read}</answer>"

    result = ask(page, "What is it about?", policy=native(asks, answers), depth="none", tools=["read_text"])
    assert "region-based segmentation" in " ".join(result.answer.lower().replace("|", " ").split())
    assert "coins" not in result.answer  # that stands below the box
    assert result.warnings == []


def _stream():
    from sifthinker.agent import ask_stream

    return ask_stream(IMAGE, "What?", policy=native(ASKS, ENDS), depth="none", tools=["rotate"])


def test_report_notebook_and_folder_show_the_picture_that_a_tool_made(tmp_path):
    result = create_focus_agent(native(ASKS, ENDS), depth="none", tools=["rotate"]).ask("What?", image=IMAGE)
    page = render_report(report_of(result))
    assert 'alt="picture made by rotate(degrees=90) at step 1"' in page
    assert "40 × 80 px" in page
    assert "picture made by rotate" in result._repr_html_()
    save_run(result, tmp_path)
    assert Image.open(tmp_path / "tools" / "step-01-1.png").size == (40, 80)

    plain = create_focus_agent(ScriptedPolicy(*focus_lines(LEFT)), depth="none").ask("What?", image=IMAGE)
    save_run(plain, tmp_path)
    assert not (tmp_path / "tools").exists()


def test_a_picture_that_the_store_has_let_go_of_is_left_out_of_the_report():
    images = MemoryImageStore()
    agent = create_focus_agent(native(ASKS, ENDS), depth="none", tools=["rotate"], images=images)
    asked = {"messages": [question_message("What?", image=images.put(IMAGE))]}
    record = agent.invoke(asked)["result"]
    kept = FocusResult.from_record(record, agent.context.view(record["image"]), images)
    assert kept.steps[0].findings[0].picture is not None
    gone = FocusResult.from_record(record, agent.context.view(record["image"]), MemoryImageStore())
    assert gone.steps[0].findings[0].picture is None
    assert "rotate(degrees=90)" in render_report(report_of(gone))


def test_the_terminal_shows_what_a_tool_found_and_shows_it_again():
    import io

    from rich.console import Console

    from sifthinker.agent.console import FocusConsole

    policy = ScriptedPolicy(*focus_lines(LEFT, answer="red"))
    *events, result = create_focus_agent(policy, depth="none", tools=[crop_size]).ask_stream("What?", image=IMAGE)

    def shown(tell) -> str:
        out = io.StringIO()
        tell(FocusConsole(Console(file=out, width=100, highlight=False)))
        return out.getvalue()

    live = shown(lambda console: [console.show(event) for event in events])
    assert "    crop_size()  80 by 40\n" in live
    assert shown(lambda console: console.replay(result)) == live
