"""Saving a run: all files are there, whole; a folder that cannot be written to is refused before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.agent.result import FocusResult
from sifthinker.agent.saving import save_run, writable_folder
from sifthinker.nodes.context import View
from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.state import BoxRecord, ResultRecord, StepRecord
from sifthinker.policy.errors import SifthinkerError, UsageError


def step(*boxes: tuple[float, float, float, float], cropped: bool = True) -> StepRecord:
    return StepRecord(
        boxes=[BoxRecord(bbox_2d=list(box), depth=0.4, measured_depth=0.5) for box in boxes],
        text="a thing",
        crops=[list(box) if cropped else None for box in boxes],
        crop_sizes=[[20, 16] if cropped else None for _ in boxes],
        edited=False,
    )


def result(*steps: StepRecord, depth: bool = True) -> FocusResult:
    record = ResultRecord(
        answer="red",
        question="What colour is it?",
        options=["red", "blue"],
        image="hash",
        mode="tools",
        policy="scripted",
        trace="<think>…",
        valid_trace=True,
        steps=list(steps),
        warnings=["It was dark."],
        tokens=[120, 30, 4],
        calls=[[0.5, 60, 15, 2], [0.6, 60, 15, 2]],
        seconds=1.2,
    )
    depth_map = DepthMap(np.full((40, 60), 0.5, dtype=np.float32)) if depth else None
    return FocusResult.from_record(record, View(Image.new("RGB", (60, 40), "teal"), depth_map))


WHOLE, LEFT, RIGHT = (0.0, 0.0, 1.0, 1.0), (0.1, 0.1, 0.5, 0.6), (0.5, 0.1, 0.9, 0.6)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_saved_with_its_pictures_report_and_json(tmp_path: Path) -> None:
    run = result(step(WHOLE, cropped=False), step(LEFT, RIGHT))
    report = save_run(run, tmp_path, image_name="cups.png", command="sifthinker ask cups.png …")
    assert names(tmp_path) == {
        "annotated.png",
        "depth.png",
        "crops/step-02-1.png",
        "crops/step-02-2.png",
        "report.html",
        "result.json",
    }
    assert report.read_text(encoding="utf-8").count("data:image/") == 4
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == run.to_dict()
    assert Image.open(tmp_path / "crops/step-02-1.png").size == (24, 20)


def test_what_an_earlier_longer_run_left_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    save_run(result(step(LEFT), step(RIGHT)), tmp_path)
    (tmp_path / "crops" / "mine.png").write_bytes(b"mine")
    save_run(result(step(WHOLE, cropped=False), depth=False), tmp_path)
    assert names(tmp_path) == {"annotated.png", "crops/mine.png", "report.html", "result.json"}


@pytest.mark.parametrize("name", ["depth.png", "report.html", "result.json", "crops/step-01-1.png"])
def test_a_folder_with_files_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "crops").mkdir()
    mine = b'<meta name="generator" content="sifthinker 0.1.0">'  # as the report of a comparison has it
    (tmp_path / name).write_bytes(mine)
    with pytest.raises(UsageError, match=f"holds a {name} that no saved run left there"), writable_folder(tmp_path):
        pass
    with pytest.raises(UsageError, match="name another"):
        save_run(result(step(LEFT), depth=False), tmp_path)
    assert names(tmp_path) == {name}
    assert (tmp_path / name).read_bytes() == mine


@pytest.mark.parametrize("lost", ["result.json", "report.html"])
def test_a_folder_with_a_run_that_is_not_whole_is_saved_into_again(tmp_path: Path, lost: str) -> None:
    save_run(result(step(LEFT)), tmp_path)
    (tmp_path / lost).unlink()
    with writable_folder(tmp_path) as folder:
        save_run(result(), folder)
    assert names(tmp_path) == {"annotated.png", "depth.png", "report.html", "result.json"}


def test_the_report_by_which_a_folder_is_known_is_put_in_place_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, placed = os.replace, list[str]()

    def killed(source: Path, target: Path) -> None:
        if placed:
            raise OSError(5, "Input/output error")
        placed.append(Path(target).name)
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SifthinkerError, match="could not be saved"):
        save_run(result(step(LEFT)), tmp_path)
    monkeypatch.undo()
    assert (placed, names(tmp_path)) == (["report.html"], {"report.html"})
    save_run(result(step(LEFT)), tmp_path)


@pytest.mark.parametrize("name", ["annotated.png", "depth.png", "crops/step-01-1.png"])
def test_what_a_run_reads_is_not_written_over(tmp_path: Path, name: str) -> None:
    save_run(result(step(LEFT)), tmp_path)
    with pytest.raises(UsageError, match="is read by this run"), writable_folder(tmp_path, reads=[tmp_path / name]):
        pass
    (tmp_path / "other.png").touch()
    with writable_folder(tmp_path, reads=[tmp_path / "other.png", tmp_path.parent / "depth.png"]):
        pass


def test_a_name_that_is_not_utf_8_is_saved_all_the_same(tmp_path: Path) -> None:
    run = result(step(LEFT))
    run.question = "What is \udce9?"
    report = save_run(run, tmp_path, image_name="caf\udce9.png", command="sifthinker ask caf\udce9.png")
    assert "caf\ufffd.png" in report.read_text(encoding="utf-8")


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    save_run(result(step(LEFT)), tmp_path)
    (tmp_path / "usual").touch()
    assert (tmp_path / "report.html").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_is_made_and_removed_again_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writable_folder(tmp_path / "runs" / "first"):
        raise RuntimeError
    assert not (tmp_path / "runs").exists()
    with writable_folder(tmp_path / "runs" / "first") as folder:
        (folder / "report.html").touch()
    assert (tmp_path / "runs" / "first" / "report.html").exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writable_folder(tmp_path):
        raise RuntimeError
    assert tmp_path.is_dir()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"), writable_folder(tmp_path / "file"):
        pass
    with pytest.raises(UsageError, match="cannot be made"), writable_folder(tmp_path / "file" / "below"):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written to"), writable_folder(tmp_path):
        pass


def test_a_result_without_pictures_says_so(tmp_path: Path) -> None:
    run = result(step(LEFT))
    with pytest.raises(UsageError, match="no pictures"):
        save_run(FocusResult.model_validate(run.model_dump()), tmp_path)


def test_a_run_that_cannot_be_saved_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run(result(step(LEFT)), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    real, written = Path.write_bytes, 0

    def full(path: Path, data: bytes) -> int:
        nonlocal written
        written += 1
        if written == 4:
            real(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SifthinkerError, match=r"could not be saved in .*No space left.*make room"):
        save_run(result(step(LEFT), step(RIGHT)), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_a_killed_run_left_half_written_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    for name in (".report.html.71.ab12cd34.part", "crops/.step-01-1.png.71.ab12cd34.part", ".mine", ".report.html.swp"):
        (tmp_path / name).write_text("half")
    save_run(result(step(LEFT)), tmp_path)
    assert {path.name for path in tmp_path.rglob(".*")} == {".mine", ".report.html.swp"}


def test_a_run_without_crops_is_saved_over_one_with_crops(tmp_path: Path) -> None:
    save_run(result(step(LEFT)), tmp_path)
    save_run(result(), tmp_path)
    assert not (tmp_path / "crops").exists()
    assert (tmp_path / "report.html").is_file()
