"""`sifthinker chat` under faults: what was answered is remembered, what fails is said, the conversation goes on."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from trust.checks import at_once, network_lost
from trust.faults import Fault, read_only, small_disk
from trust.faults_ask import picture
from trust.harness import Child, Outcome, Round, one_sentence, run, start
from trust.server import FAULTS


def home(round: Round) -> Path:
    return round.folder / "home"


def chat(round: Round, *words: str) -> list[str]:
    return ["chat", *words, *round.server.policy(attempts=2)]


def options(round: Round, *marks: int, fault: Fault | None = None) -> dict[str, Any]:
    lines = "".join(f"What is mark-{mark}?\n" for mark in marks)
    return {"given": lines, "environment": {"SIFTHINKER_HOME": str(home(round))}, "fault": fault}


def begin(round: Round, *marks: int, fault: Fault | None = None) -> Child:
    return start(chat(round, picture(round.folder)), **options(round, *marks, fault=fault))


def resume(round: Round, *marks: int, fault: Fault | None = None) -> Outcome:
    return run(chat(round, "--resume"), **options(round, *marks, fault=fault))


def answers(outcome: Outcome) -> list[int]:
    """The marks that were answered, as they were shown."""
    return [int(mark) for mark in re.findall(r"^Answer  (\d+)", outcome.out, re.MULTILINE)]


def kept(outcome: Outcome) -> list[int]:
    """The marks that were answered without a word that this could not be kept."""
    turns = [turn for turn in outcome.out.split("> What is mark-")[1:] if "could not be" not in turn]
    return [int(mark) for turn in turns for mark in re.findall(r"^Answer  (\d+)", turn, re.MULTILINE)]


def remembered(round: Round, *marks: int) -> None:
    """Resume, ask one thing more; the policy must be told of all these questions again."""
    round.server.requests.clear()
    outcome = resume(round, 99)
    assert outcome.code == 0, outcome
    assert answers(outcome)[-1:] == [99], outcome
    told = str(round.server.requests[-1]["messages"])
    missing = [mark for mark in marks if f"mark-{mark}?" not in told or f"<answer>{mark}</answer>" not in told]
    assert not missing, (missing, outcome)


def killed(round: Round) -> None:
    """kill -9 while the policy is asked, or a moment after."""
    strike, delay = round.rng.randint(1, 10), round.rng.choice((0.0, round.rng.uniform(0, 0.15)))
    children: list[Child] = []
    begun = threading.Event()

    def on_request(number: int) -> None:
        if number == strike:
            begun.wait(10)
            if delay:
                threading.Timer(delay, children[0].kill).start()
            else:
                children[0].kill()
                time.sleep(0.05)  # it is dead before it is answered

    round.server.on_request = on_request
    children.append(begin(round, 1, 2, 3, 4, 5))
    begun.set()
    outcome = children[0].wait()
    round.struck += outcome.killed
    done = answers(outcome)
    assert done == list(range(1, len(done) + 1)), outcome
    round.server.reset()
    remembered(round, *done)


def full_disk(round: Round) -> None:
    """The database may not grow any more, or its disk is full."""
    way = round.rng.choice(("a file may not grow", "a full disk"))
    limit = round.rng.randint(60_000, 400_000)
    marks = range(1, 9)
    if way == "a full disk":
        with small_disk(home(round), limit) as made:
            if made:
                round.notes.add(f"{way} ({made})")
                outcome = begin(round, *marks).wait()
                failed = _still_fine(round, outcome)
                if failed:
                    # More room, as a person would make it: the same disk, larger.
                    subprocess.run(["mount", "-o", "remount,size=20000000", str(home(round))], check=True)
                    if kept(outcome):
                        remembered(round, *kept(outcome)[-7:])
                return
    round.notes.add("a file may not grow")
    outcome = begin(round, *marks, fault=Fault(file_limit=limit)).wait()
    if _still_fine(round, outcome) and kept(outcome):
        remembered(round, *kept(outcome)[-7:])


def _still_fine(round: Round, outcome: Outcome) -> bool:
    """Whether the fault struck; what was said then."""
    assert "Traceback" not in outcome.err, outcome
    assert "sifthinker: unexpected" not in outcome.err, outcome
    struck = "could not be written" in outcome.out + outcome.err or "cannot be opened" in outcome.out + outcome.err
    struck = struck or "No space left" in outcome.out + outcome.err or "File too large" in outcome.out + outcome.err
    round.struck += struck
    if not struck:
        assert answers(outcome) == list(range(1, 9)), outcome
    return struck


def read_only_folder(round: Round) -> None:
    """The history cannot be written to."""
    there = round.rng.random() < 0.5
    if there:
        assert answers(begin(round, 1).wait()) == [1]
    else:
        home(round).mkdir()
    with read_only(home(round)):
        outcome = begin(round, 2, fault=Fault(powerless=True)).wait()
    round.struck += 1
    if outcome.code == 0:  # the database could be opened to be read
        assert "could not be written" in outcome.out, outcome
    else:
        assert outcome.code == 2, outcome
        assert "cannot be opened" in one_sentence(outcome)
    if there:
        remembered(round, 1)


def server(round: Round) -> None:
    """A question that the server fails on is told; the next one is answered, and nothing is forgotten."""
    fault, before = round.rng.choice(FAULTS), round.rng.randint(0, 3)
    round.server.plan = ["ok"] * before + [fault] * 2
    outcome = begin(round, 1, 2, 3, 4).wait()
    round.struck += 1
    assert outcome.code == 0, outcome
    assert "Traceback" not in outcome.err
    done = answers(outcome)
    assert len(done) >= 2, outcome
    assert done[-1] == 4
    round.server.reset()
    remembered(round, *done)


def no_network(round: Round) -> None:
    """The network goes while a conversation is under way: that is told, and once it is back nothing was forgotten."""
    fault = network_lost(round, 8)
    outcome = begin(round, 1, 2, 3, 4, fault=fault).wait()
    round.struck += outcome.cut > 0
    assert outcome.code == 0, outcome
    assert "Traceback" not in outcome.err
    done = answers(outcome)
    unanswered = sorted({1, 2, 3, 4} - set(done))
    assert outcome.out.count("could not be reached") == len(unanswered), outcome
    if fault.offline_for == 1:  # lived through by the second attempt
        assert not unanswered, outcome
    elif not fault.offline_for:
        assert unanswered == list(range((fault.offline_from - 1) // 2 + 1, 5)), outcome
    remembered(round, *done)


def clock(round: Round) -> None:
    """The clock was wrong by years while the conversation began, jumps about, and is right when it goes on."""
    offset = round.rng.uniform(-3e8, 3e8)
    assert answers(begin(round, 1, fault=Fault(clock_offset=offset)).wait()) == [1]
    jumping = Fault(clock=round.seed + 1) if round.rng.random() < 0.5 else None
    assert answers(resume(round, 2, fault=jumping))[-1:] == [2]
    assert answers(resume(round, 3))[-1:] == [3]
    round.struck += 1
    remembered(round, 1, 2, 3)


def two_at_once(round: Round) -> None:
    """Two windows: each with its own conversation, or both on the same one."""
    round.struck += 1
    if round.rng.random() < 0.5:
        children = [begin(round, 1, 2, 3), begin(round, 4, 5, 6)]
        outcomes = [child.wait() for child in children]
        assert [answers(outcome) for outcome in outcomes] == [[1, 2, 3], [4, 5, 6]], outcomes
        with sqlite3.connect(home(round) / "chat" / "history.sqlite") as database:
            assert database.execute("select count(distinct thread_id) from checkpoints").fetchone() == (2,)
        return
    assert answers(begin(round, 1).wait()) == [1]
    windows = (partial(start, chat(round, "--resume"), **options(round, *marks)) for marks in ((2, 3), (4, 5)))
    outcomes = at_once(round, *windows, within_s=0.3)
    done = [mark for outcome in outcomes for mark in answers(outcome)]
    refused = [outcome for outcome in outcomes if "another window" in outcome.out + outcome.err]
    assert all("Traceback" not in outcome.err for outcome in outcomes), outcomes
    assert done, outcomes
    assert len(done) == 4 or refused, outcomes
    remembered(round, 1, *done)


SCENARIOS = {
    "kill -9": killed,
    "full disk": full_disk,
    "read-only folder": read_only_folder,
    "server fails": server,
    "no network": no_network,
    "clock jumps": clock,
    "two at once": two_at_once,
}
