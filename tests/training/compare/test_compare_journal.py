"""The journal: what is in it stays, a torn line is asked again, two processes do not share a folder."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from comparing import answers, compared, looking, patches

from sifthinker.policy.errors import DataError, UsageError
from sifthinker.training.compare.journal import ANSWERS, RUN, opened
from sifthinker.training.compare.records import Answered, Key


def row(question: str, **fields: object) -> Answered:
    return Answered(policy="p", mode="direct", seed=0, question=question, digest="d", **fields)  # type: ignore[arg-type]


RUN_OF = {"policies": {"p": {"weights": "1"}}, "decoding": {"temperature": 0.0}}


def test_what_was_added_is_there_the_next_time(tmp_path: Path) -> None:
    with opened(tmp_path, RUN_OF) as journal:
        journal.add(row("1", answer="a"))
        journal.add(row("1", answer="another"))  # the first answer of a key stays
        journal.add(row("2", answer="ü \n\u2028", hiou=0.5))
    with opened(tmp_path, RUN_OF) as journal:
        assert [one.answer for one in journal.rows()] == ["a", "ü \n\u2028"]
        assert journal.get(Key(policy="p", mode="direct", seed=0, question="2")) == row(
            "2", answer="ü \n\u2028", hiou=0.5
        )
        assert not journal.repaired


def test_answers_stay_on_disk_and_are_read_when_looked_at(tmp_path: Path) -> None:
    count, text = 300, "so it was said, " * 1000
    with opened(tmp_path, RUN_OF) as journal:
        tracemalloc.start()
        try:
            for number in range(count):
                journal.add(row(str(number), text=text))
            held, _ = tracemalloc.get_traced_memory()
            rows = journal.rows()
            assert sum(len(one.text) for one in rows) == count * len(text)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert held < 1000 * count
    assert peak < 100 * len(text)
    assert len(rows) == count
    assert (rows[0].question, rows[-1].question) == ("0", "299")
    assert [one.question for one in rows[10:13]] == ["10", "11", "12"]
    assert [one.question for one in rows.picked([7, 3])] == ["7", "3"]
    with pytest.raises(IndexError):
        rows[count]
    (tmp_path / ANSWERS).unlink()
    with pytest.raises(DataError, match="cannot be read any more"):
        list(rows)


def test_answers_are_sorted_whatever_order_they_came_in(tmp_path: Path) -> None:
    with opened(tmp_path, RUN_OF) as journal:
        for question, mode, seed in (("b", "direct", 1), ("a", "tools", 0), ("b", "tools", 0), ("a", "direct", 0)):
            journal.add(row(question).model_copy(update={"mode": mode, "seed": seed}))
        journal.add(row("c").model_copy(update={"policy": "another"}))
        told = [(one.policy, one.question, one.seed, one.mode) for one in journal.sorted_rows()]
    assert told == sorted(told)
    assert len(told) == 5


def test_each_answer_is_on_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle))[1])
    with opened(tmp_path, RUN_OF) as journal:
        before = len(synced)
        for number in range(3):
            journal.add(row(str(number)))
            assert len(synced) == before + number + 1
            assert len((tmp_path / ANSWERS).read_bytes().splitlines()) == number + 1


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_cut_off_and_asked_again(tmp_path: Path, cut: int) -> None:
    data, policy = patches(tmp_path / "d", 4), looking()
    whole = compared(data, tmp_path / "o", policy)
    path = tmp_path / "o" / ANSWERS
    path.write_bytes(path.read_bytes()[:-cut])
    again = compared(data, tmp_path / "o", policy)
    assert (again.repaired, again.new) == (True, 1)
    assert answers(again.rows) == answers(whole.rows)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_broken_line_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    with opened(tmp_path, RUN_OF) as journal:
        journal.add(row("1"))
        journal.add(row("2"))
    path = tmp_path / ANSWERS
    path.write_bytes(b"{broken\n" + path.read_bytes())
    with pytest.raises(DataError, match=r"line 1 cannot be read"), opened(tmp_path, RUN_OF):
        pass


def test_another_run_is_refused_and_further_policies_are_not(tmp_path: Path) -> None:
    with opened(tmp_path, RUN_OF) as journal:
        journal.add(row("1"))
    hotter = {**RUN_OF, "decoding": {"temperature": 1.0}}
    with pytest.raises(UsageError, match=r"decoding temperature was 0.0, now it is 1.0"), opened(tmp_path, hotter):
        pass
    trained = {**RUN_OF, "policies": {"p": {"weights": "2"}}}
    with pytest.raises(UsageError, match="weights was 1, now it is 2"), opened(tmp_path, trained):
        pass
    with opened(tmp_path, {**RUN_OF, "policies": {"q": {"weights": "3"}}}):
        pass
    assert json.loads((tmp_path / RUN).read_text())["policies"].keys() == {"p", "q"}
    with pytest.raises(UsageError, match="another comparison"), opened(tmp_path, trained):
        pass


def test_a_second_process_is_refused_with_a_sentence(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom sifthinker.policy.errors import UsageError\n"
        "from sifthinker.training.compare.journal import opened\n"
        "try:\n    with opened(Path(sys.argv[1]), {'policies': {}}): pass\n"
        "except UsageError as error:\n    print(error)\n"
    )
    with opened(tmp_path, RUN_OF) as journal:
        journal.add(row("1"))
        other = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
        )
        journal.add(row("2"))
    assert f"Process {os.getpid()} is comparing in {tmp_path}" in other.stdout
    with opened(tmp_path, RUN_OF) as journal:
        assert len(journal) == 2


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    def filling() -> None:
        with opened(tmp_path, RUN_OF) as journal:
            journal.add(row("1"))
            monkeypatch.setattr(os, "fsync", full)
            journal.add(row("2"))

    with pytest.raises(DataError, match=r"cannot be written.*1 answers are kept"):
        filling()
