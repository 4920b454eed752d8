"""`sifthinker data`: build, check, stats, show, import, export, as a person meets them."""

import json
from pathlib import Path

import pytest
from building import built, questions

from sifthinker.agent.cli import run
from sifthinker.training.data.show import find_record, record_page


def test_from_a_world_to_a_page(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "out", tmp_path / "r.html"
    assert run(["data", "build", str(out), "-s", f"world:{world}", "--limit", "6"]) == 0
    assert "complete: 6 accepted" in capsys.readouterr().err.replace("\n", " ")
    assert run(["data", "stats", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 6
    assert run(["data", "stats", str(out)]) == 0
    assert "6 records on 6 images" in capsys.readouterr().out
    assert run(["data", "check", str(out), "--deep", "-s", f"world:{world}"]) == 0
    assert "all well" in capsys.readouterr().out
    assert run(["data", "check", str(out), "--against", str(world / "images"), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["leaks"]) == 6
    assert run(["data", "show", str(out), "2", "--out", str(page)]) == 0
    assert find_record(out, "2").question in page.read_text()
    assert run(["data", "export", str(out), str(out / "sif.json")]) == 0
    assert run(["data", "import", str(out / "sif.json"), str(tmp_path / "again")]) == 0
    assert run(["data", "stats", str(tmp_path / "again")]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "out"], "--source"),
        (["build", "out", "-s", "x"], "KIND:PATH"),
        (["build", "out", "-s", "jsonl:none.jsonl"], "No file"),
        (["build", "out", "-s", "jsonl:q.jsonl", "--teacher", "me"], "openai:MODEL@URL"),
        (["build", "out", "-s", "jsonl:q.jsonl", "--config", "none.yaml"], "none.yaml"),
        (["check"], "Name a folder"),
        (["check", "--against", "x", "-s", "jsonl:q.jsonl"], "--against"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_two(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"image": "a.png", "question": "q", "answer": "a", "boxes": [[0, 0, 1, 1]]}')
    (tmp_path / "a.png").write_bytes(b"x")
    assert run(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["stats", "show", "check"])
def test_a_folder_without_records_is_told(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", command, str(tmp_path)]) == 1
    assert "holds no records" in capsys.readouterr().err


def test_a_build_of_nothing_but_rejects_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.jsonl").write_text('{"image": "a.png", "question": "q", "answer": "a", "boxes": [[0, 0, 1, 1]]}')
    (tmp_path / "a.png").write_bytes(b"no picture")
    for _ in range(2):  # the second time nothing is left to do, and nothing better came of it
        assert (
            run(["data", "build", str(tmp_path / "out"), "-s", f"jsonl:{tmp_path / 'q.jsonl'}", "--depth", "none"]) == 1
        )
        assert "No record came of it: all 1 samples were rejected (" in capsys.readouterr().err


def test_a_script_in_a_record_stays_text(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 1)
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    row = json.loads(path.read_text()) | {"question": evil, "answer": evil, "dataset": evil[:60], "id": evil}
    path.write_text(json.dumps(row))
    (record,) = built(path, tmp_path / "out")
    page = record_page(tmp_path / "out", record)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_record_is_found_by_id_or_number(tmp_path: Path) -> None:
    built(questions(tmp_path / "s", 3), tmp_path / "out")
    assert find_record(tmp_path / "out").id == "jsonl-0000000"
    assert find_record(tmp_path / "out", "3").id == find_record(tmp_path / "out", "jsonl-0000002").id
    for wrong in ("9", "0", "jsonl-9"):
        assert run(["data", "show", str(tmp_path / "out"), wrong]) == 2
