"""`sifthinker ask --save` under faults: what was saved is one whole run, what fails says so, the next run is fine."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from PIL import Image
from trust.checks import at_once, network_lost
from trust.faults import Fault, read_only, small_disk
from trust.harness import Outcome, Round, one_sentence, run, start
from trust.server import FAULTS, FocusServer


def picture(folder: Path) -> str:
    path = folder / "picture.png"
    if not path.exists():
        Image.linear_gradient("L").resize((320, 200)).convert("RGB").save(path)
    return str(path)


def ask(round: Round, mark: int, fault: Fault | None = None, **settings: object) -> list[str]:
    words = ["ask", picture(round.folder), f"What is mark-{mark}?", "--save", str(round.folder / "run")]
    return [*words, *round.server.policy(attempts=2, **settings)]


def saved(folder: Path) -> int | None:
    """The mark of the run that a folder holds, every file of which is whole; None where it holds no finished run."""
    if not (folder / "result.json").exists():
        for path in folder.rglob("[!.]*.png"):
            Image.open(path).load()
        return None
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    mark = int(result["answer"])
    assert f"mark-{mark}?" in page, "the report is of another run than the result"
    assert {int(found) for found in re.findall(r"mark-(\d+)\?", page)} == {mark}
    for path in folder.rglob("[!.]*.png"):
        Image.open(path).load()
    assert len(list((folder / "crops").glob("[!.]*.png"))) == sum(
        step["crop_size"] is not None for step in result["steps"]
    )
    return mark


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def answered(outcome: Outcome, mark: int) -> None:
    assert outcome.code == 0, outcome
    assert f"Answer  {mark}" in outcome.out, outcome


def killed(round: Round) -> None:
    """kill -9 before any file operation of saving."""
    folder = round.folder / "run"
    first = run(ask(round, 1), fault=Fault(watched=str(folder)))
    answered(first, 1)
    struck = run(ask(round, 2), fault=Fault(watched=str(folder), kill_at=round.rng.randint(1, first.operations + 2)))
    round.struck += struck.killed
    assert struck.killed or struck.code == 0
    assert saved(folder) in ((1, 2, None) if struck.killed else (2,))
    answered(run(ask(round, 3)), 3)
    assert saved(folder) == 3
    assert not leftovers(folder)


def full_disk(round: Round) -> None:
    """The disk fills up at any file, or in the middle of one."""
    folder = round.folder / "run"
    way = round.rng.choice(("every write from the nth on", "a file may not grow", "a full disk"))
    with small_disk(folder, 2_000_000) if way == "a full disk" else nullcontext("") as made:
        first = run(ask(round, 1), fault=Fault(watched=str(folder)))
        answered(first, 1)
        before = contents(folder)
        fault = Fault(watched=str(folder), fail_at=round.rng.randint(1, first.operations - 1))
        if way == "a file may not grow":
            fault = Fault(file_limit=round.rng.randint(3_000, max(map(len, before.values())) - 1))
        if way == "a full disk" and made:
            way += f" ({made})"
            free = shutil.disk_usage(folder).free // 4096
            needed = sum(map(len, before.values())) // 4096
            (folder / "filler").write_bytes(bytes((free - round.rng.randint(0, needed)) * 4096))
            before, fault = contents(folder), Fault()
        round.notes.add(way)
        round.server.requests.clear()
        failed = run(ask(round, 2), fault=fault)
        if failed.code == 0:  # there was room enough
            assert saved(folder) == 2
            return
        round.struck += 1
        said = one_sentence(failed)
        if round.server.requests:
            assert failed.code == 1
            assert "Answer  2" in failed.out
            assert "could not be saved" in said
            assert "make room" in said
        else:
            assert failed.code == 2
            assert "cannot be written to" in said
        if contents(folder) != before:  # what frees room comes first; only then is anything put in place
            assert fault.fail_at
            assert saved(folder) is None
        assert not leftovers(folder)
        (folder / "filler").unlink(missing_ok=True)
        answered(run(ask(round, 3)), 3)
        assert saved(folder) == 3


def read_only_folder(round: Round) -> None:
    """A folder that cannot be written to is refused before the policy is asked; what is in it stays."""
    folder = round.folder / "run"
    answered(run(ask(round, 1)), 1)
    round.server.requests.clear()
    before = contents(folder)
    with read_only(folder if round.rng.random() < 0.5 else round.folder):
        failed = run(ask(round, 2), fault=Fault(powerless=True))
    round.struck += 1
    assert failed.code == 2
    assert "cannot be written to" in one_sentence(failed)
    assert not round.server.requests
    assert contents(folder) == before


def server(round: Round) -> None:
    """The server answers 429 or 500, breaks off, sends something else, drops the line, or says nothing."""
    folder = round.folder / "run"
    fault, at = round.rng.choice(FAULTS), round.rng.randint(0, 1)
    passing = round.rng.random() < 0.4
    round.server.plan = ["ok"] * at + [fault]
    round.server.then = "ok" if passing else fault
    failed = run(ask(round, 1))
    round.struck += 1
    if failed.code == 0:
        assert passing
        answered(failed, 1)
        assert saved(folder) == 1
    elif at and fault == "never":  # what was seen before is told, and that there is no answer
        assert failed.code == 1
        one_sentence(failed)
    else:
        assert failed.code == 1
        assert not passing or fault in ("half", "never"), "a passing fault was not lived through"
        one_sentence(failed)
        assert not folder.exists()
    round.server.reset()
    answered(run(ask(round, 2)), 2)
    assert saved(folder) == 2


def no_network(round: Round) -> None:
    """The network goes before the first question to the policy, or before the second; or it was never there."""
    (_never_there if round.rng.random() < 0.5 else _goes)(round)


def _goes(round: Round) -> None:
    fault = network_lost(round, 2)
    outcome = run(ask(round, 1), fault=fault)
    round.struck += outcome.cut > 0
    if fault.offline_for == 1:  # lived through by the second attempt
        answered(outcome, 1)
        assert saved(round.folder / "run") == 1
    else:
        assert outcome.code == 1
        assert "could not be reached" in one_sentence(outcome)
        assert not (round.folder / "run").exists()
    answered(run(ask(round, 2)), 2)
    assert saved(round.folder / "run") == 2


def _never_there(round: Round) -> None:
    """A port where nobody listens, a name that means nothing: real ones."""
    url = round.rng.choice(("http://127.0.0.1:9", "http://nowhere.invalid"))
    words = ["ask", picture(round.folder), "What is mark-1?", "--save", str(round.folder / "run"), "--depth", "none"]
    words += ["--policy", f"openai:m@{url}", "--set", "connect_timeout=1", "--set", "attempts=2"]
    failed = run(words)
    round.struck += 1
    assert failed.code == 1
    assert "could not be reached" in one_sentence(failed)
    assert not (round.folder / "run").exists()


def clock(round: Round) -> None:
    """The wall clock jumps about, by seconds and by years."""
    outcome = run(ask(round, 1), fault=Fault(clock=round.seed + 1))
    round.struck += 1
    answered(outcome, 1)
    assert saved(round.folder / "run") == 1
    result = json.loads((round.folder / "run" / "result.json").read_text(encoding="utf-8"))
    assert 0 <= result["seconds"] < 100
    assert not [warning for warning in result["warnings"] if "deadline" in warning]


def two_at_once(round: Round) -> None:
    """Two processes save into one folder at the same moment."""
    for mark, outcome in enumerate(at_once(round, *(partial(start, ask(round, mark)) for mark in (1, 2))), 1):
        answered(outcome, mark)
    round.struck += 1
    assert saved(round.folder / "run") in (1, 2)
    assert not leftovers(round.folder / "run")


SCENARIOS = {
    "kill -9": killed,
    "full disk": full_disk,
    "read-only folder": read_only_folder,
    "server fails": server,
    "no network": no_network,
    "clock jumps": clock,
    "two on one folder": two_at_once,
}
Server = FocusServer
