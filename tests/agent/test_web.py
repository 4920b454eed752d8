"""The page's server: a picture goes up, a question is asked, the steps come down as they are taken."""

from __future__ import annotations

import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image
from scripted import area, focus_lines

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
from web_serving import Tab, error, kinds, png, scripted_agent, serving

from sifthinker.nodes.context import Mode
from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.tools import Found, Region, visual_tool
from sifthinker.policy.base import Completion

LEFT, RIGHT = (0.1, 0.2, 0.5, 0.6), (0.5, 0.2, 0.9, 0.6)


def depth_of(size=(80, 60)):
    return DepthMap(np.tile(np.linspace(0, 1, size[0], dtype=np.float32), (size[1], 1)), "ramp")


def test_a_question_is_answered_step_by_step():
    with serving(scripted_agent(*focus_lines(LEFT, RIGHT, answer="red"), depth=depth_of())) as address:
        tab = Tab(address)
        assert tab.upload(png()).json() == {
            "sha256": tab.get("").json()["pictures"][0]["sha256"],
            "name": "cups.png",
            "size": [80, 60],
            "warnings": [],
        }
        events = tab.ask("What colour?")
    assert kinds(events) == [
        *("perceived", "area", "depth", "crop", "text"),
        *("area", "depth", "crop", "text", "answer", "result"),
    ]
    result = events[-1]["result"]
    assert result["answer"] == "red"
    assert [step["crops"] for step in result["steps"]] == [[pytest.approx(LEFT)], [pytest.approx(RIGHT, abs=0.02)]]
    assert result["steps"][0]["boxes"][0]["measured_depth"] == pytest.approx(0.3, abs=0.02)
    assert result["tokens"]["prompt"] > 0
    assert [step["title"] for step in result["steps"]] == ["one region", "one region"]


@visual_tool(always=True)
def upended(region: Region) -> Found:
    """The crop as in a mirror."""
    return Found("turned about", region.crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def test_what_a_visual_tool_gave_back_comes_with_its_step_and_its_picture_can_be_had():
    with serving(scripted_agent(*focus_lines(LEFT), tools=[upended])) as address:
        tab = Tab(address)
        tab.upload(png())
        events = tab.ask("What colour?")
        [used] = [event for event in events if event["kind"] == "tool"]
        assert (used["step"], used["call"], used["text"]) == (1, "upended()", "turned about")
        [found] = events[-1]["result"]["steps"][0]["findings"]
        assert found == {"box": 0, "call": "upended()", "text": "turned about", "picture_id": used["picture_id"]}
        shown = tab.get(f"images/{used['picture_id']}/rgb")
        assert Image.open(io.BytesIO(shown.content)).size == (32, 24)
        report = tab.get("questions/1/report.html").text
        assert "picture made by upended() at step 1" in report
        assert Tab(address).get(f"images/{used['picture_id']}/rgb").status_code == 404  # another conversation


def test_the_image_its_depth_and_its_crops_are_shown():
    with serving(scripted_agent(*focus_lines(LEFT), depth=depth_of())) as address:
        tab = Tab(address)
        sha256 = tab.upload(png()).json()["sha256"]
        tab.ask("What colour?")
        for path in ("rgb", "depth", "crop?box=0.1,0.2,0.5,0.6"):
            picture = tab.get(f"images/{sha256}/{path}")
            assert picture.status_code == 200
            assert picture.headers["content-type"] == "image/png"
        assert tab.get(f"images/{sha256}/crop?box=nan,0,1,1").status_code == 400
        assert tab.get(f"images/{sha256}/crop?box=0.5,0,0.5,1").status_code == 400
        assert tab.get(f"images/{sha256}/etc").status_code == 404
        assert Tab(address).get(f"images/{sha256}/rgb").status_code == 404, "another tab does not see it"


def test_without_a_depth_model_there_is_no_depth_picture():
    with serving(scripted_agent(*focus_lines(LEFT))) as address:
        tab = Tab(address)
        sha256 = tab.upload(png()).json()["sha256"]
        assert tab.ask("What colour?")[0] == {"kind": "perceived", "image": sha256, "size": [80, 60], "depth": None}
        assert tab.get(f"images/{sha256}/depth").status_code == 404


def test_a_follow_up_sees_the_question_before_and_another_tab_does_not():
    agent = scripted_agent(*focus_lines(LEFT, answer="red"), *focus_lines(RIGHT, answer="blue"), "<answer>x</answer>")
    with serving(agent) as address:
        tab, other = Tab(address), Tab(address)
        tab.upload(png())
        other.upload(png())
        tab.ask("What colour?")
        assert tab.ask("And the one behind it?")[-1]["result"]["answer"] == "blue"
        other.ask("And the one behind it?", mode="direct")
    heard = agent.context.policy.heard
    assert "What colour?" in heard[2][0].text
    assert "What colour?" not in "".join(turn.text for turn in heard[-1])


def test_a_new_picture_begins_a_new_look_on_the_same_thread():
    agent = scripted_agent("<answer>x</answer>", mode="direct")
    with serving(agent) as address:
        tab = Tab(address)
        tab.upload(png("red"))
        tab.ask("One?")
        tab.upload(png("blue"))
        tab.ask("Two?")
    assert len(agent.context.policy.heard[1]) == 1
    assert agent.context.policy.heard[1][0].images[0].getpixel((0, 0)) == (0, 0, 255)


def test_options_and_mode_are_the_question_s_own():
    agent = scripted_agent("<answer>Red.</answer>")
    with serving(agent) as address:
        tab = Tab(address)
        tab.upload(png())
        result = tab.ask("What colour?", mode="direct", options=["red", " ", "blue"])[-1]["result"]
    assert (result["answer"], result["mode"]) == ("red", "direct")


def test_every_mode_of_the_agent_is_offered():
    from typing import get_args

    with serving(scripted_agent("x")) as address:
        offer = Tab(address).client.get("offer").json()
    assert [mode["name"] for mode in offer["modes"]] == list(get_args(Mode))
    assert all(mode["words"] for mode in offer["modes"])
    assert offer["state"] == "ready"
    assert offer["limits"]["bytes"] == 20_000_000


def test_an_example_can_be_taken_and_no_other_file():
    with serving(scripted_agent("<answer>x</answer>", mode="direct")) as address:
        tab = Tab(address)
        for example in tab.client.get("offer").json()["examples"]:
            assert tab.post("example", name=example["file"]).status_code == 201
        assert tab.post("example", name="../page.js").status_code == 404
        assert tab.ask("What?")[-1]["kind"] == "result"


def test_a_page_that_is_loaded_again_finds_its_conversation():
    with serving(scripted_agent(*focus_lines(LEFT))) as address:
        tab = Tab(address)
        tab.upload(png())
        events = tab.ask("What colour?", options=["red"])
        kept = tab.get("").json()
    assert [picture["name"] for picture in kept["pictures"]] == ["cups.png"]
    [question] = kept["questions"]
    assert question["events"] == events
    assert (question["question"], question["state"], question["options"]) == ("What colour?", "answered", ["red"])


def test_a_listener_that_comes_back_goes_on_after_the_last_it_heard():
    with serving(scripted_agent(*focus_lines(LEFT))) as address:
        tab = Tab(address)
        tab.upload(png())
        events = tab.ask("What colour?")
        assert tab.events(1, after=3) == events[3:]
        again = tab.get("questions/1/events", headers={"Last-Event-ID": "2"})
        assert again.text.startswith("id: 3\n")
        assert tab.get("questions/1/events", params={"after": len(events)}).status_code == 204
        assert tab.get("questions/2/events").status_code == 404


# ── stop, busy ──


class Slow:
    """A line that is said only when it is let go."""

    def __init__(self, line):
        self.line, self.begun, self.go = line, threading.Event(), threading.Event()

    def __call__(self, messages):
        self.begun.set()
        assert self.go.wait(20)
        return Completion(self.line, completion_tokens=5)


def test_a_stopped_question_is_forgotten_and_the_next_is_answered():
    slow = Slow("<answer>late</answer>")
    agent = scripted_agent(slow, "<answer>soon</answer>", mode="direct")
    with serving(agent) as address:
        tab = Tab(address)
        tab.upload(png())
        tab.post("questions", question="First?")
        assert slow.begun.wait(10)
        assert error(tab.post("questions", question="Second?")).startswith("The last question is still being answered")
        assert error(tab.upload(png("red"))).startswith("The last question is still being answered")
        assert tab.post("questions/1/stop").status_code == 202
        slow.go.set()
        assert kinds(tab.events(1))[-1] == "stopped"
        assert tab.ask("Second?")[-1]["result"]["answer"] == "soon"
    assert "First?" not in "".join(turn.text for turn in agent.context.policy.heard[1])


def test_a_busy_server_says_so():
    slow = Slow("<answer>x</answer>")
    with serving(scripted_agent(slow, mode="direct"), max_runs=1) as address:
        tab, other = Tab(address), Tab(address)
        tab.upload(png())
        other.upload(png())
        tab.post("questions", question="One?")
        assert slow.begun.wait(10)
        refused = other.post("questions", question="Two?")
        assert (refused.status_code, error(refused)) == (
            503,
            "The server is busy with other questions: try again in a moment.",
        )
        slow.go.set()
        tab.events(1)
        assert other.ask("Two?")[-1]["kind"] == "result"


# ── the person in the loop ──


def test_the_report_and_the_json_are_downloads():
    with serving(scripted_agent(*focus_lines(LEFT, answer="red"))) as address:
        tab = Tab(address)
        tab.upload(png(), name="C:\\Users\\me\\cups.png")
        tab.ask("What colour?")
        report = tab.get("questions/1/report.html")
        assert report.headers["content-disposition"] == 'attachment; filename="sifthinker-report-1.html"'
        assert "What colour?" in report.text
        assert "cups.png" in report.text
        assert "Users" not in report.text
        assert json.loads(tab.get("questions/1/result.json").text)["answer"] == "red"


def test_a_question_without_an_answer_has_no_report():
    with serving(scripted_agent(RuntimeError("lost"), mode="direct")) as address:
        tab = Tab(address)
        tab.upload(png())
        tab.ask("What?")
        assert tab.get("questions/1/report.html").status_code == 409


def test_the_steps_arrive_while_the_policy_goes_on():
    slow = Slow("<text>it</text></think><answer>red</answer>")
    with serving(scripted_agent(f"<think>{area(LEFT)}", slow)) as address:
        tab = Tab(address)
        tab.upload(png())
        tab.post("questions", question="What?")
        seen = []
        with tab.client.stream("GET", f"sessions/{tab.id}/questions/1/events") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    seen.append((json.loads(line[6:])["kind"], time.monotonic()))
                if seen and seen[-1][0] == "crop":
                    slow.go.set()
    assert [kind for kind, _ in seen][-1] == "result"
    assert slow.begun.is_set()
