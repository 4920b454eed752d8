"""SIF-50K's published JSON, in and out: its numbers as what they are, or as the pipeline took them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building import built as built_of
from building import noise, questions, rejects
from PIL import Image

from sifthinker.agent.cli import run
from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import BoxSpace, iou
from sifthinker.training.data.check import check_records
from sifthinker.training.data.depths import depth_of_picture
from sifthinker.training.data.load import open_depth
from sifthinker.training.data.sif50k import TEXTS_NOTE, import_sif50k, sample_of, write_sif50k
from sifthinker.training.data.tables import read_records

SIZE = (200, 100)
RAMP = DepthMap(np.repeat(np.linspace(0, 1, SIZE[0], dtype=np.float32)[None], SIZE[1], axis=0))


def sif_row(number: int, *, dataset: str = "flickr30k", **fields: Any) -> dict[str, Any]:
    """A row of the published schema; its box is (0.1, 0.4, 0.6, 0.6) as the file says it."""
    areas = [
        '[{"bbox_2d":[0.000,0.000,1.000,1.000],"depth":0.500}]',
        '[{"bbox_2d":[0.050,0.350,0.650,0.650],"depth":0.350}]',
        '[{"bbox_2d":[0.100,0.400,0.600,0.600],"depth":0.350}]',
    ]
    trace = "\n".join(f"<area>{area}</area>\n<text>Look {i}.</text>" for i, area in enumerate(areas))
    image, depth = f"{dataset}/{number}.png", f"{dataset}/{number}_d.png"
    return {
        "dataset": dataset,
        "image": image,
        "depth_image": depth,
        "problem": f"What is it, {number}?",
        "normalized_solution_round": {"bbox_3d": [[0.1, 0.4, 0.6, 0.6]], "illegal_content": False},
        "response": "A dog.",
        "messages": [
            {"content": "Original image: <image>\nDepth image: <image>\nWhat is it?", "role": "user"},
            {"content": f"<think>\n{trace}\n</think>\n<answer>\nA dog.\n</answer>", "role": "assistant"},
        ],
        "images": [image, depth],
        **fields,
    }


def saying(text: str) -> dict[str, Any]:
    """The messages of a row whose second area has this text."""
    turns = sif_row(0)["messages"]
    return {"messages": [turns[0], {**turns[1], "content": turns[1]["content"].replace("Look 1.", text)}]}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    rows = [sif_row(0), sif_row(1, dataset="tallyqa"), sif_row(2)]
    rows[2]["normalized_solution_round"]["illegal_content"] = True
    for row in rows:
        noise(tmp_path / row["image"], SIZE)
        RAMP.picture().save(tmp_path / row["depth_image"])
    (tmp_path / "SIF-50K.json").write_text(json.dumps(rows, indent=4))
    return tmp_path / "SIF-50K.json"


def test_boxes_of_visual_cot_are_moved_to_where_they_belong(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = import_sif50k(published, out)
    assert (done.accepted, done.rejected) == (2, 1)
    viscot, tally = read_records(out)
    assert viscot.boxes == [(0.1, 0.3, 0.6, 0.7)]
    assert viscot.provenance.box_space is BoxSpace.PADDED_SQUARE
    assert viscot.provenance.notes == [TEXTS_NOTE]
    depth = open_depth(out, viscot.depth_map)
    assert depth is not None
    for step in viscot.parsed().steps:
        assert step.boxes[0].depth == pytest.approx(depth.mean(step.boxes[0].bbox_2d), abs=1e-3)
    assert viscot.parsed().steps[0].boxes[0].bbox_2d == (0.0, 0.0, 1.0, 1.0)
    assert tally.boxes == [(0.1, 0.4, 0.6, 0.6)]
    assert tally.provenance.notes == []
    assert [step.text for step in tally.parsed().steps] == ["Look 0.", "Look 1.", "Look 2."]
    assert list(rejects(out)) == ["illegal_content"]


def test_as_published_takes_every_number_as_it_stands(published: Path, tmp_path: Path) -> None:
    import_sif50k(published, tmp_path / "out", as_published=True)
    viscot, _ = read_records(tmp_path / "out")
    assert viscot.boxes == [(0.1, 0.4, 0.6, 0.6)]
    assert [step.boxes[0].depth for step in viscot.parsed().steps] == [0.5, 0.35, 0.35]
    assert iou(viscot.boxes[0], (0.1, 0.3, 0.6, 0.7)) == pytest.approx(0.5)


def test_what_was_written_reads_back_the_same(published: Path, tmp_path: Path) -> None:
    import_sif50k(published, tmp_path / "out")
    assert write_sif50k(tmp_path / "out", tmp_path / "out/sif.json") == 2
    rows = json.loads((tmp_path / "out/sif.json").read_text())
    assert set(sif_row(0)) <= set(rows[0])
    assert rows[0]["messages"][0]["content"].startswith("Original image: <image>\nDepth image: <image>\n")
    import_sif50k(tmp_path / "out/sif.json", tmp_path / "again")
    before, after = list(read_records(tmp_path / "out")), list(read_records(tmp_path / "again"))
    assert [record.trace for record in after] == [record.trace for record in before]
    assert [record.boxes for record in after] == [record.boxes for record in before]
    assert {record.provenance.box_space for record in after} == {BoxSpace.UNIT}


def test_records_of_any_source_can_be_exported_and_imported(tmp_path: Path) -> None:
    records = built_of(questions(tmp_path / "s", 3), tmp_path / "out")
    write_sif50k(tmp_path / "out", tmp_path / "out/sif.json")
    import_sif50k(tmp_path / "out/sif.json", tmp_path / "again")
    again = list(read_records(tmp_path / "again"))
    assert [record.trace for record in again] == [record.trace for record in records]
    assert [(one.options, one.family) for one in again] == [(one.options, one.family) for one in records]


def test_its_questions_can_be_built_anew_with_traces_that_fit(published: Path, tmp_path: Path) -> None:
    viscot, tally = built_of(published, tmp_path / "out", kind="sif50k")
    assert viscot.boxes == [(0.1, 0.3, 0.6, 0.7)]
    assert tally.boxes == [(0.1, 0.4, 0.6, 0.6)]
    assert "Look 1." not in viscot.trace
    assert viscot.provenance.notes == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"messages": [{"role": "assistant", "content": "<answer>A dog.</answer>"}]}, "grammar:tag"),
        (saying("<|im_end|>"), "control"),
        (saying("Look: <image>"), "control"),
        (saying(" … "), "empty_text"),
        (saying("x" * 2001), "long_text"),
        ({"normalized_solution_round": {"bbox_3d": [[0.7, 0.4, 0.9, 0.6]]}}, "boxes"),
        ({"normalized_solution_round": {"bbox_3d": [[0.1, 0.0, 0.6, 0.2]]}}, "outside_image"),
        ({"normalized_solution_round": None}, "schema"),
        ({"messages": "none"}, "schema"),
        ({"image": "x/../../x.png"}, "outside"),
        ({"depth_image": "../x.png"}, "depth"),
        ({"depth_image": None}, "depth"),
        ({"box_space": "inches"}, "schema"),
    ],
)
def test_a_row_that_cannot_be_used_is_kept_with_its_reason(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    row = sif_row(0, **change)
    noise(tmp_path / "flickr30k/0.png", SIZE)
    RAMP.picture().save(tmp_path / "flickr30k/0_d.png")
    good = sif_row(0)
    (tmp_path / "s.json").write_text(json.dumps([row, good]))
    import_sif50k(tmp_path / "s.json", tmp_path / "out")
    assert list(rejects(tmp_path / "out")) == [reason]


def test_pictures_behind_links_are_followed_as_the_message_says(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("flickr30k", "tallyqa"):
        (linked / name).symlink_to(tmp_path / name)
    command = ["data", "import", str(published), str(tmp_path / "out"), "--images", str(linked)]
    assert run(command) == 2
    assert "--links" in capsys.readouterr().err
    assert run([*command, "--links"]) == 0
    assert len(list(read_records(tmp_path / "out"))) == 2
    build = ["data", "build", str(tmp_path / "anew"), "-s", f"sif50k:{published}@{linked}", "--depth", "none"]
    assert run(build) == 2
    assert run([*build, "--links"]) == 0


def test_an_area_in_the_padding_shows_nothing(tmp_path: Path) -> None:
    row = sif_row(0)
    row["messages"][1]["content"] = row["messages"][1]["content"].replace(
        "[0.050,0.350,0.650,0.650]", "[0.050,0.050,0.650,0.200]"
    )
    noise(tmp_path / row["image"], SIZE)
    RAMP.picture().save(tmp_path / row["depth_image"])
    (tmp_path / "s.json").write_text(json.dumps([row]))
    import_sif50k(tmp_path / "s.json", tmp_path / "out")
    assert list(rejects(tmp_path / "out")) == ["padding"]


def test_a_depth_picture_gives_its_depth_back() -> None:
    assert depth_of_picture(RAMP.picture()).array == pytest.approx(RAMP.array, abs=3e-3)
    grey = Image.fromarray(((1 - RAMP.array) * 255).astype(np.uint8))
    assert depth_of_picture(grey).array == pytest.approx(RAMP.array, abs=5e-3)
    assert depth_of_picture(grey, grey_near_bright=False).array == pytest.approx(1 - RAMP.array, abs=5e-3)


def test_the_published_rows_name_files_from_beside_the_data(tmp_path: Path) -> None:
    row = sif_row(0, image="../data/flickr30k/0.png", depth_image="../data/flickr30k/0_d.png", dataset="TallyQA")
    noise(tmp_path / "flickr30k/0.png", SIZE)
    RAMP.picture().save(tmp_path / "flickr30k/0_d.png")
    found = sample_of(row, 0)
    assert (found.image, found.depth_picture) == ("flickr30k/0.png", "flickr30k/0_d.png")
    assert found.space is BoxSpace.UNIT, "however the set's name is spelt"
    (tmp_path / "s.json").write_text(json.dumps([row]))
    import_sif50k(tmp_path / "s.json", tmp_path / "out")
    assert [record.rgb for record in read_records(tmp_path / "out")]


def test_the_truth_is_the_row_s_and_not_the_trace_s(tmp_path: Path) -> None:
    (record,) = built_of(questions(tmp_path / "s", 1), tmp_path / "out")
    write_sif50k(tmp_path / "out", tmp_path / "out/sif.json")
    rows = json.loads((tmp_path / "out/sif.json").read_text())
    x1, y1, x2, y2 = record.boxes[0]
    wider = [x1, y1, x2, y2 + 0.02]
    rows[0]["normalized_solution_round"]["bbox_3d"] = [wider]
    (tmp_path / "out/sif.json").write_text(json.dumps(rows))
    import_sif50k(tmp_path / "out/sif.json", tmp_path / "again")
    (after,) = read_records(tmp_path / "again")
    assert after.boxes[0] == pytest.approx(wider)
    assert after.trace == record.trace
    assert check_records(tmp_path / "again").wrong == {}, "a teacher's area need not be the box to the digit"
