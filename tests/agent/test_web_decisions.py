"""A person decides on the boxes: before the crop, or by going back to a step of an answered question."""

from __future__ import annotations

import pytest
from scripted import area, focus_lines

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
from web_serving import Tab, error, kinds, png, scripted_agent, serving

LEFT, RIGHT = (0.1, 0.2, 0.5, 0.6), (0.5, 0.2, 0.9, 0.6)


def paused(address, *lines, **settings):
    tab = Tab(address)
    tab.upload(png())
    events = tab.ask("What colour?", confirm=True)
    assert kinds(events)[-1] == "paused"
    return tab, events


def test_a_person_approves_each_crop():
    with serving(scripted_agent(*focus_lines(LEFT, RIGHT))) as address:
        tab, events = paused(address)
        assert events[-1]["boxes"][0]["bbox_2d"] == pytest.approx(LEFT)
        assert "crop" not in kinds(events)
        assert tab.post("questions/1/decision", action="approve").status_code == 202
        more = tab.events(1, after=len(events))
        assert kinds(more) == ["decided", "crop", "text", "area", "paused"]
        tab.post("questions/1/decision", action="approve", confirm=False)
        assert kinds(tab.events(1, after=len(events) + len(more)))[-1] == "result"


def test_a_person_edits_a_box_before_the_crop():
    agent = scripted_agent(*focus_lines(LEFT))
    with serving(agent) as address:
        tab, events = paused(address)
        tab.post("questions/1/decision", action="edit", boxes=[[0.25, 0.5, 0.75, 1.2]])
        more = tab.events(1, after=len(events))
    assert more[0] == {"kind": "decided", "action": "edit", "boxes": [[0.25, 0.5, 0.75, 1.2]]}
    [step] = more[-1]["result"]["steps"]
    assert step["edited"] is True
    assert step["crops"] == [[0.25, 0.5, 0.75, 1.0]]


def test_not_asking_again_lets_the_run_go_through():
    with serving(scripted_agent(*focus_lines(LEFT, RIGHT))) as address:
        tab, events = paused(address)
        tab.post("questions/1/decision", action="approve", confirm=False)
        more = tab.events(1, after=len(events))
    assert kinds(more).count("paused") == 0
    assert kinds(more).count("crop") == 2
    assert kinds(more)[-1] == "result"


def test_a_person_declines_and_the_policy_is_told_why():
    agent = scripted_agent(f"<think>{area(LEFT)}", "<text>no</text></think><answer>none</answer>")
    with serving(agent) as address:
        tab, events = paused(address)
        tab.post("questions/1/decision", action="reject", reason="There is nothing there.")
        more = tab.events(1, after=len(events))
    assert "crop" not in kinds(more)
    assert any("declined" in warning for warning in more[-1]["result"]["warnings"])
    assert "There is nothing there." in agent.context.policy.heard[-1][-1].text


def test_an_edited_box_counts_also_where_nothing_more_is_to_be_asked():
    with serving(scripted_agent(*focus_lines(LEFT, RIGHT))) as address:
        tab, events = paused(address)
        tab.post("questions/1/decision", action="edit", boxes=[[0.25, 0.5, 0.75, 0.9]], confirm=False)
        result = tab.events(1, after=len(events))[-1]["result"]
    assert [step["edited"] for step in result["steps"]] == [True, False]


def test_a_person_goes_back_to_a_step_and_looks_elsewhere_from_there():
    lines = [*focus_lines(LEFT, RIGHT, answer="red"), "<text>so</text></think><answer>blue</answer>"]
    agent = scripted_agent(*lines)
    with serving(agent) as address:
        tab = Tab(address)
        tab.upload(png())
        before = tab.ask("What colour?")
        assert tab.post("questions/1/fork", step=2).status_code == 202
        back = tab.events(1, after=len(before))
        assert kinds(back) == ["back", "paused"]
        assert back[1]["step"] == 2
        tab.post("questions/1/decision", action="edit", boxes=[[0.2, 0.2, 0.4, 0.4]], confirm=False)
        result = tab.events(1, after=len(before) + len(back))[-1]["result"]
        report = tab.get("questions/1/report.html").text
    assert result["answer"] == "blue"
    assert [step["edited"] for step in result["steps"]] == [False, True]
    assert len(agent.context.policy.heard) == len(lines), "what stands before the step is not asked again"
    assert "blue" in report


def test_going_back_and_stopping_leaves_the_answer_as_it_was():
    lines = [*focus_lines(LEFT, RIGHT, answer="red"), TimeoutError("silent"), TimeoutError("silent")]
    with serving(scripted_agent(*lines)) as address:
        tab = Tab(address)
        tab.upload(png())
        heard = tab.ask("What colour?")
        for after in ("stop", "decision"):
            tab.post("questions/1/fork", step=2)
            heard += tab.events(1, after=len(heard))
            if after == "stop":
                tab.post("questions/1/stop")
            else:
                tab.post("questions/1/decision", action="approve", confirm=False)
            heard += tab.events(1, after=len(heard))
            assert heard[-1]["result"]["answer"] == "red"
            assert heard[-1]["given_up"]["kind"] == {"stop": "stopped", "decision": "failed"}[after]
            assert "red" in tab.get("questions/1/report.html").text


def test_only_a_step_of_the_newest_answered_question_can_be_gone_back_to():
    lines = [*focus_lines(LEFT, answer="red"), "<answer>blue</answer>"]
    with serving(scripted_agent(*lines)) as address:
        tab = Tab(address)
        tab.upload(png())
        before = tab.ask("What colour?")
        refused = tab.post("questions/1/fork", step=5)
        assert (refused.status_code, error(refused)) == (
            400,
            "Expected a step from 1 to 1 of the last question, got 5.",
        )
        assert tab.events(1, after=len(before)) == [], "the answer stays"
        assert tab.get("questions/1/report.html").status_code == 200
        tab.ask("And now?", mode="direct")
        assert tab.post("questions/1/fork", step=1).status_code == 409
        refused = tab.post("questions/2/fork", step=1)
        assert (refused.status_code, error(refused)[:37]) == (400, "The last question has no step to go b")


def test_a_decision_that_cannot_be_used_leaves_the_run_waiting():
    with serving(scripted_agent(*focus_lines(LEFT))) as address:
        tab, events = paused(address)
        for body in (
            {"action": "perhaps"},
            {"action": "edit", "boxes": []},
            {"action": "edit", "boxes": [[0.5, 0.5, 0.5, 0.9]]},
            {"action": "edit", "boxes": [[0.5, 0.5]]},
        ):
            refused = tab.post("questions/1/decision", **body)
            assert refused.status_code == 400
            assert error(refused)
        assert error(tab.post("questions", question="Another?")).startswith("The last question waits for your decision")
        tab.post("questions/1/decision", action="approve")
        assert kinds(tab.events(1, after=len(events)))[-1] == "result"
        assert tab.post("questions/1/decision", action="approve").status_code == 409


def test_a_waiting_question_can_be_given_up():
    agent = scripted_agent(f"<think>{area(LEFT)}", "<answer>y</answer>")
    with serving(agent) as address:
        tab, events = paused(address)
        tab.post("questions/1/stop")
        assert kinds(tab.events(1, after=len(events))) == ["decided", "stopped"]
        assert tab.ask("Another?", mode="direct")[-1]["result"]["answer"] == "y"
    assert "What colour?" not in "".join(turn.text for turn in agent.context.policy.heard[-1])


# ── what is taken away ──
