"""`sifthinker compare` under faults: no answer is lost or asked for twice, the report is that of an unbroken run."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from trust.checks import network_lost, one_works, told_of_the_disk
from trust.faults import Fault, read_only, small_disk
from trust.faults_ask import picture
from trust.harness import Round, one_sentence, run, start
from trust.server import FAULTS

QUESTIONS = 6
MODES = "direct,tools"
EXPECTED = QUESTIONS * 2


def command(round: Round) -> list[str]:
    data = round.folder / "questions.jsonl"
    if not data.exists():
        picture(round.folder)
        rows = [
            {
                "id": str(mark),
                "image": "picture.png",
                "question": f"What is mark-{mark}?",
                "answer": str(mark),
                "boxes": [[0.1, 0.2, 0.5, 0.6]],
                "space": "unit",
            }
            for mark in range(1, QUESTIONS + 1)
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["compare", "--data", str(data), "--out", str(out(round)), "--modes", MODES, "--timed", "0", "--batch", "2"]
    return [*words, *round.server.policy(attempts=2)]


def out(round: Round) -> Path:
    return round.folder / "out"


def answers(round: Round) -> list[dict[str, Any]]:
    """The whole lines of the journal."""
    path = out(round) / "answers.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def finished(round: Round, kept: int) -> None:
    """The same command again asks only what is missing, and the accuracy is that of an unbroken run."""
    round.server.reset()
    outcome = run(command(round))
    assert outcome.code == 0, outcome
    assert len(answers(round)) == EXPECTED
    assert len(round.server.requests) <= 2 * (EXPECTED - kept), (len(round.server.requests), kept)
    results = json.loads((out(round) / "results.json").read_text(encoding="utf-8"))
    shown = json.dumps(results)
    assert '"accuracy"' in shown
    assert _accuracies(results) == {1.0}, _accuracies(results)


def _accuracies(found: Any) -> set[float]:
    """Every accuracy in the results, whatever they are nested in."""
    if isinstance(found, dict):
        own = found.get("accuracy")
        value = own.get("value") if isinstance(own, dict) else own
        inner = {number for part in found.values() for number in _accuracies(part)}
        return inner | ({float(value)} if isinstance(value, int | float) else set())
    return {number for part in found for number in _accuracies(part)} if isinstance(found, list) else set()


def killed(round: Round) -> None:
    """kill -9 at any request, or before any file operation."""
    if round.rng.random() < 0.5:
        fault = Fault(watched=str(out(round)), kill_at=round.rng.randint(1, 20))
        outcome = run(command(round), fault=fault)
    else:
        strike, children, begun = round.rng.randint(1, EXPECTED + 4), [], threading.Event()

        def on_request(number: int) -> None:
            if number == strike:
                begun.wait(10)
                children[0].kill()
                time.sleep(0.05)

        round.server.on_request = on_request
        children.append(start(command(round)))
        begun.set()
        outcome = children[0].wait()
    round.struck += outcome.killed
    assert outcome.killed or outcome.code == 0, outcome
    finished(round, len(answers(round)))


def full_disk(round: Round) -> None:
    """The disk fills up at any file, in the middle of one, or for good."""
    way = round.rng.choice(("every write from the nth on", "a file may not grow", "a full disk"))
    with small_disk(out(round), round.rng.randint(1, 12) * 4096) if way == "a full disk" else nullcontext("") as made:
        fault = Fault(watched=str(out(round)), fail_at=round.rng.randint(1, 14))
        if way == "a file may not grow":
            fault = Fault(file_limit=round.rng.randint(500, 30_000))
        elif made:
            way, fault = f"a full disk ({made})", Fault()
        round.notes.add(way)
        failed = run(command(round), fault=fault)
        told_of_the_disk(round, failed)
        kept = len(answers(round))
        if made:
            subprocess.run(["mount", "-o", "remount,size=20000000", str(out(round))], check=True)
        finished(round, kept)


def read_only_folder(round: Round) -> None:
    """A folder that can no longer be written to."""
    run(command(round), fault=Fault(watched=str(out(round)), kill_at=round.rng.randint(6, 16)))
    out(round).mkdir(exist_ok=True)
    kept = len(answers(round))
    with read_only(out(round)):
        failed = run(command(round), fault=Fault(powerless=True))
    round.struck += 1
    assert failed.code == 1, failed
    assert "cannot be written" in one_sentence(failed)
    finished(round, kept)


def server(round: Round) -> None:
    """The server fails now and then, or from some moment on."""
    fault, at = round.rng.choice(FAULTS), round.rng.randint(0, 10)
    round.server.plan = ["ok"] * at + [fault]
    round.server.then = fault if round.rng.random() < 0.6 else "ok"
    outcome = run(command(round))
    round.struck += 1
    assert outcome.code in (0, 1), outcome
    assert "Traceback" not in outcome.err, outcome
    assert "sifthinker: unexpected" not in outcome.err, outcome
    good = [row for row in answers(round) if not row.get("error")]
    finished_again(round, len(good))


def no_network(round: Round) -> None:
    """The network goes for a while, or for good: what was answered before is kept, only the rest is asked again."""
    fault = network_lost(round, 3 * QUESTIONS)
    outcome = run(command(round), fault=fault)
    round.struck += outcome.cut > 0
    assert outcome.code in (0, 1), outcome
    assert "Traceback" not in outcome.err, outcome
    assert "sifthinker: unexpected" not in outcome.err, outcome
    assert fault.offline_for or outcome.code == 1, outcome
    if outcome.code:
        assert "could not be reached" in one_sentence(outcome), outcome
    finished(round, len([row for row in answers(round) if not row.get("error")]))


def finished_again(round: Round, kept: int) -> None:
    """As `finished`; an answer that failed is asked for again, or counted as wrong with its error."""
    round.server.reset()
    outcome = run(command(round))
    assert outcome.code == 0, outcome
    rows = answers(round)
    assert len({(row["question"], row["mode"]) if "question" in row else json.dumps(row) for row in rows}) >= kept
    assert len(round.server.requests) <= 2 * (EXPECTED - kept)


def clock(round: Round) -> None:
    """The wall clock jumps."""
    outcome = run(command(round), fault=Fault(clock=round.seed + 1))
    round.struck += 1
    assert outcome.code == 0, outcome
    assert all(row.get("seconds", 0) >= 0 for row in answers(round))
    finished(round, EXPECTED)


def two_at_once(round: Round) -> None:
    """Two processes on one folder: one is refused, or finds all done."""
    one_works(round, command(round))
    finished(round, EXPECTED)


SCENARIOS = {
    "kill -9": killed,
    "full disk": full_disk,
    "read-only folder": read_only_folder,
    "server fails": server,
    "no network": no_network,
    "clock jumps": clock,
    "two on one folder": two_at_once,
}
