"""`sifthinker data build` under faults: the same command again ends with the same records, each made once."""

from __future__ import annotations

import json
import subprocess
from contextlib import nullcontext
from pathlib import Path

import yaml
from building import contents, questions
from trust.checks import network_lost, one_works, told_of_the_disk
from trust.faults import Fault, read_only, small_disk
from trust.harness import Round, one_sentence, run

from sifthinker.training.data.build import is_complete
from sifthinker.training.data.tables import read_records, read_rejects

SAMPLES = 12


def command(round: Round, out: str = "out") -> list[str]:
    """The command line of a build, which is the same in each run of a round."""
    source = round.folder / "source" / "questions.jsonl"
    config = round.folder / "build.yaml"
    if not config.exists():
        questions(source.parent, SAMPLES, size=(32, 24))
        with source.open("a", encoding="utf-8") as file:
            file.write('{"image": "images/0.png", "question": "q", "answer": "a", "boxes": []}\n')
        config.write_text(yaml.safe_dump({"shard_size": 4, "concurrency": 2, "depth": "none", "failures_in_a_row": 2}))
    return ["data", "build", str(round.folder / out), "--source", f"jsonl/unit:{source}", "--config", str(config)]


def taught(round: Round, **teacher: object) -> list[str]:
    """The same with the round's server as the teacher."""
    words = command(round)
    config = round.folder / "build.yaml"
    fields = yaml.safe_load(config.read_text())
    fields["teacher"] = {"name": f"openai:stub@{round.server.url}", "retries": 2, "call_timeout": 0.8, **teacher}
    config.write_text(yaml.safe_dump(fields))
    return words


def whole(round: Round) -> dict[str, bytes]:
    """What an unbroken build writes."""
    outcome = run(command(round, "whole"))
    assert outcome.code == 0, outcome
    return contents(round.folder / "whole")


def finished(round: Round, expected: dict[str, bytes]) -> None:
    """The same command again ends with the same bytes, each sample once."""
    out = round.folder / "out"
    outcome = run(command(round))
    assert outcome.code == 0, outcome
    assert contents(out) == expected
    assert is_complete(out)
    each_once(out)
    assert not list(out.rglob("*.part"))


def each_once(out: Path) -> None:
    """Every sample is a record or a reject, once."""
    positions = [record.provenance.position for record in read_records(out)]
    assert sorted(positions + [reject.position for reject in read_rejects(out)]) == list(range(SAMPLES + 1))


def killed(round: Round) -> None:
    """kill -9 before any file operation, twice in a row."""
    expected = whole(round)
    out = str(round.folder / "out")
    for _ in range(2):
        before = _lines(Path(out))
        strike = Fault(watched=out, kill_at=round.rng.randint(1, 90))
        outcome = run(command(round), fault=strike)
        round.struck += outcome.killed
        assert outcome.killed or outcome.code == 0, outcome
        assert _lines(Path(out)) >= before or is_complete(Path(out)) or list(Path(out).glob("rejected/*"))
    finished(round, expected)


def _lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (out / "journal").glob("*.jsonl"))


def full_disk(round: Round) -> None:
    """The disk fills up at any file, in the middle of one, or for good."""
    expected = whole(round)
    out = round.folder / "out"
    way = round.rng.choice(("every write from the nth on", "a file may not grow", "a full disk"))
    size = round.rng.randint(2, 60) * 4096
    with small_disk(out, size) if way == "a full disk" else nullcontext("") as made:
        fault = Fault(watched=str(out), fail_at=round.rng.randint(1, 80))
        if way == "a file may not grow":
            fault = Fault(file_limit=round.rng.randint(500, 12_000))
        elif made:
            way, fault = f"a full disk ({made})", Fault()
        round.notes.add(way)
        failed = run(command(round), fault=fault)
        told_of_the_disk(round, failed)
        if made:
            subprocess.run(["mount", "-o", "remount,size=20000000", str(out)], check=True)
        finished(round, expected)


def read_only_folder(round: Round) -> None:
    """A folder that can no longer be written to, or never could."""
    expected = whole(round)
    out = round.folder / "out"
    if round.rng.random() < 0.7:
        run(command(round), fault=Fault(watched=str(out), kill_at=round.rng.randint(5, 60)))
    before = contents(out) if out.exists() else None
    with read_only(out if before is not None else round.folder):
        failed = run(command(round), fault=Fault(powerless=True))
    if before is None or not is_complete(out):
        round.struck += 1
        assert failed.code == 1, failed
        assert "cannot be written" in one_sentence(failed)
    if before is not None:
        assert contents(out) == before
    finished(round, expected)


def server(round: Round) -> None:
    """The teacher's server fails now and then, or from some moment on."""
    words = taught(round)
    fault = round.rng.choice(("429", "500", "half", "garbage", "drop", "never"))
    at, for_good = round.rng.randint(0, 8), round.rng.random() < 0.6
    round.server.plan = ["ok"] * at + [fault]
    round.server.then = fault if for_good else "ok"
    failed = run(words)
    round.struck += 1
    if for_good:
        assert failed.code == 1, failed
        said = one_sentence(failed)
        assert "Run the same command again" in said, said
        assert "kept" in said, said
    else:
        assert failed.code == 0, failed
    kept = _lines(round.folder / "out")
    round.server.reset()
    done = run(words)
    assert done.code == 0, done
    assert is_complete(round.folder / "out")
    if for_good:
        assert len(round.server.requests) <= SAMPLES - min(kept, SAMPLES) + 8
    assert len(list(read_records(round.folder / "out"))) == SAMPLES


def no_network(round: Round) -> None:
    """The teacher cannot be reached for a while, or from some moment on."""
    words = taught(round)
    fault = network_lost(round, SAMPLES)
    outcome = run(words, fault=fault)
    round.struck += outcome.cut > 0
    kept = _lines(round.folder / "out")
    if fault.offline_for == 1:  # lived through by the second attempt
        assert outcome.code == 0, outcome
    elif not fault.offline_for:
        assert outcome.code == 1, outcome
        said = one_sentence(outcome)
        assert "could not be reached" in said, said
        assert "Run the same command again" in said, said
        assert "kept" in said, said
    assert outcome.code in (0, 1), outcome
    round.server.reset()
    done = run(words)
    assert done.code == 0, done
    assert is_complete(round.folder / "out")
    assert len(round.server.requests) <= SAMPLES - min(kept, SAMPLES) + 8
    each_once(round.folder / "out")


def clock(round: Round) -> None:
    """The wall clock jumps: the records do not know it."""
    expected = whole(round)
    outcome = run(command(round), fault=Fault(clock=round.seed + 1))
    round.struck += 1
    assert outcome.code == 0, outcome
    assert contents(round.folder / "out") == expected


def two_at_once(round: Round) -> None:
    """Two processes on one folder: one is refused, or finds all done."""
    expected = whole(round)
    one_works(round, command(round))
    finished(round, expected)
    assert json.loads((round.folder / "out" / "build.json").read_text())["complete"]


SCENARIOS = {
    "kill -9": killed,
    "full disk": full_disk,
    "read-only folder": read_only_folder,
    "server fails": server,
    "no network": no_network,
    "clock jumps": clock,
    "two on one folder": two_at_once,
}
