"""Each published schema, on a small file of that schema: what is read, and in which space."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from building import built, config_for, noise, questions, rejects
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.policy.boxes import BoxSpace, iou, is_valid
from sifthinker.policy.errors import UsageError
from sifthinker.training.data.config import SourceConfig
from sifthinker.training.data.intake import Refusal, normalised
from sifthinker.training.data.readers import KINDS
from sifthinker.training.data.rows import RowError
from sifthinker.training.data.samples import BadRow, SourceSample
from sifthinker.training.data.sources import load_config, open_source, parse_source

VISCOT_PROMPT = (
    " Please provide the bounding box coordinate of the region that can help you answer the question better."
)


def viscot_row(number: int, *, size: tuple[int, int], pixels: list[int], dataset: str = "flickr30k") -> dict[str, Any]:
    """A row as Visual-CoT's converter writes it: the box in the padded square, the crop's in pixels."""
    width, height = size
    side = max(size)
    x, y = (side - width) // 2, (side - height) // 2
    square = [(pixels[0] + x) / side, (pixels[1] + y) / side, (pixels[2] + x) / side, (pixels[3] + y) / side]
    name = f"cot/{dataset}/{number}.png"
    return {
        "dataset": dataset,
        "split": "train",
        "question_id": number,
        "image": [name, f"{name}###{pixels}"],
        "conversations": [
            {"from": "human", "value": f"<image>\nWhat is in picture {number}?{VISCOT_PROMPT}"},
            {"from": "gpt", "value": f"[{', '.join(f'{value:.3f}' for value in square)}]"},
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": f"A thing called {number}."},
        ],
    }


def samples(kind: str, path: Path, **fields: Any) -> list[SourceSample]:
    found = list(open_source(SourceConfig(kind=kind, path=path, **fields)))
    assert all(isinstance(one, SourceSample) for one in found)
    return [one for one in found if isinstance(one, SourceSample)]


def test_visual_cot_boxes_are_of_the_padded_square(tmp_path: Path) -> None:
    size, pixels = (200, 100), [20, 30, 120, 70]
    path = tmp_path / "viscot_363k.json"
    path.write_text(json.dumps([viscot_row(1, size=size, pixels=pixels)]))
    (sample,) = samples("viscot", path)
    assert sample.question == "What is in picture 1?"
    assert sample.answer == "A thing called 1."
    assert (sample.dataset, sample.split, sample.row_id) == ("flickr30k", "train", "1")
    assert sample.space is BoxSpace.PADDED_SQUARE
    assert sample.boxes[0] == pytest.approx((0.1, 0.4, 0.6, 0.6), abs=1e-3)
    assert sample.witness == ((20, 30, 120, 70),)

    noise(tmp_path / "cot/flickr30k/1.png", size)
    (record,) = built(path, tmp_path / "out", kind="viscot")
    assert record.boxes[0] == pytest.approx((0.1, 0.3, 0.6, 0.7), abs=2e-3)
    assert record.provenance.box_space is BoxSpace.PADDED_SQUARE
    assert iou(record.boxes[0], sample.boxes[0]) < 0.6  # read as shares of width and height it lies elsewhere


def test_visual_cot_rows_whose_two_boxes_disagree_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "viscot.json"
    path.write_text(json.dumps([viscot_row(1, size=(200, 100), pixels=[20, 30, 120, 70])]))
    noise(tmp_path / "cot/flickr30k/1.png", (100, 50))  # an image made smaller: the pixels no longer fit
    assert built(path, tmp_path / "out", kind="viscot") == []
    assert "IoU" in rejects(tmp_path / "out")["box_space"].message


def test_visual_cot_leaves_out_documents_and_keeps_to_the_published_numbers(tmp_path: Path) -> None:
    datasets = ["docvqa", "gqa", "textvqa", "gqa", "gqa", "cub"]
    path = tmp_path / "viscot.json"
    rows = [viscot_row(i, size=(90, 60), pixels=[5, 5, 50, 40], dataset=name) for i, name in enumerate(datasets)]
    path.write_text(json.dumps(rows))
    assert [one.dataset for one in samples("viscot", path)] == ["gqa", "gqa", "gqa", "cub"]
    assert [one.dataset for one in samples("viscot", path, per_dataset=2)] == ["gqa", "gqa", "cub"]
    assert [one.dataset for one in samples("viscot", path, limit=2)] == ["gqa", "gqa"]
    assert len(samples("viscot", path, exclude=())) == 6
    source = open_source(SourceConfig(kind="viscot", path=path, per_dataset=1))
    assert len(list(source)) == 2
    assert source.skipped == {"docvqa": 1, "textvqa": 1, "gqa": 2}


def test_visual_cot_metadata_has_one_box_an_object_in_pixels(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    row = {
        "question": "What is held?",
        "answer": "A cup.",
        "possible_answers": ["A cup."],
        "image": "7.png",
        "width": 200,
        "height": 100,
        "bboxs": [[20, 30, 60, 70], [100, 10, 180, 90]],
        "dataset": "textcap",
        "split": "train",
    }
    path.write_text(json.dumps({**row, "dataset": "flickr30k"}) + "\n" + json.dumps(row) + "\n")
    first, second = samples("viscot-metadata", path, exclude=())
    assert first.image == "cot/flickr30k/7.png"
    assert second.image == "cot/textvqa/7.png"
    assert first.space is BoxSpace.PIXEL
    noise(tmp_path / "cot/flickr30k/7.png", (400, 200))  # twice the annotated size
    (record,) = built(path, tmp_path / "out", kind="viscot-metadata")
    assert record.boxes == [(0.1, 0.3, 0.3, 0.7), (0.5, 0.1, 0.9, 0.9)]


def test_tallyqa_answers_are_numbers(tmp_path: Path) -> None:
    row = {
        "question": "How many birds?",
        "answer": 2,
        "image": "VG_100K/1.png",
        "width": 100,
        "height": 80,
        "bboxs": [[10, 20, 30, 40], [60, 20, 80, 40]],
        "dataset": "tallyqa",
    }
    path = tmp_path / "tallyqa.json"
    path.write_text(json.dumps([row, {**row, "bboxs": []}]))
    noise(tmp_path / "VG_100K/1.png", (100, 80))
    (record,) = built(path, tmp_path / "out", kind="tallyqa")
    assert record.answer == "2"
    assert record.boxes == [(0.1, 0.25, 0.3, 0.5), (0.6, 0.25, 0.8, 0.5)]
    assert "no_boxes" in rejects(tmp_path / "out")


def test_an_image_of_another_shape_than_annotated_is_refused(tmp_path: Path) -> None:
    row = {"question": "q", "answer": 1, "image": "1.png", "width": 100, "height": 80, "bboxs": [[10, 20, 30, 40]]}
    path = tmp_path / "tallyqa.jsonl"
    path.write_text(json.dumps(row))
    noise(tmp_path / "1.png", (80, 100))  # turned upright, say
    assert built(path, tmp_path / "out", kind="tallyqa") == []
    assert "100 × 80" in rejects(tmp_path / "out")["size"].message


@pytest.mark.parametrize(("xywh", "box"), [(False, (0.1, 0.1, 0.4, 0.5)), (True, (0.1, 0.1, 0.5, 0.6))])
def test_refcoco_expressions_become_questions(xywh: bool, box: tuple[float, ...], tmp_path: Path) -> None:
    row = {
        "img_path": "COCO_1.png",
        "expression": "man on right",
        "bbox": [20.0, 10.0, 80.0, 50.0],
        "dataset_name": "jxu124/refcoco",
        "height": 100,
        "width": 200,
        "sent_id": 316,
        "split": "testA",
    }
    path = tmp_path / "REC.jsonl"
    path.write_text(json.dumps(row) + "\n")
    noise(tmp_path / "COCO_1.png", (200, 100))
    (sample,) = samples("refcoco", path, xywh=xywh)
    assert (sample.question, sample.answer, sample.dataset) == (
        "Find man on right in the image.",
        "man on right",
        "refcoco",
    )
    (x1, y1, x2, y2) = sample.boxes[0]
    assert (x1 / 200, y1 / 100, x2 / 200, y2 / 100) == pytest.approx(box)


@pytest.mark.parametrize(
    ("space", "box"),
    [
        ("unit", [0.1, 0.2, 0.5, 0.6]),
        ("permille", [100, 200, 500, 600]),
        ("pixel", [12, 16, 60, 48]),
        ("padded_square", [0.1, 0.3, 0.5, 0.5667]),
    ],
)
def test_plain_lines_are_in_the_space_that_is_declared(space: str, box: list[float], tmp_path: Path) -> None:
    noise(tmp_path / "a.png", (120, 80))
    row = {"id": "x7", "image": "a.png", "question": "q?", "answer": "yes", "options": ["yes", "no"], "boxes": [box]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    config = parse_source(f"jsonl/{space}:{tmp_path / 'q.jsonl'}")
    (record,) = built(config.path, tmp_path / "out", space=config.space)
    assert record.boxes[0] == pytest.approx((0.1, 0.2, 0.5, 0.6), abs=2e-3)
    assert record.options == ["yes", "no"]
    assert record.provenance.row_id == "x7"


def test_boxes_in_another_space_than_declared_are_refused_with_their_reason(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", (120, 80))
    row = {"image": "a.png", "question": "q?", "answer": "yes", "boxes": [[12, 16, 60, 48]]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    assert built(tmp_path / "q.jsonl", tmp_path / "out") == []
    assert "another space" in rejects(tmp_path / "out")["outside_image"].message


def test_a_world_brings_its_exact_depth_and_names(world: Path, tmp_path: Path) -> None:
    records = built(world, tmp_path / "out", kind="world")
    assert len(records) == 10
    assert {record.provenance.depth for record in records} == {"exact"}
    assert all(record.answer in record.options for record in records)
    assert all(len(record.labels) == len(record.boxes) for record in records)


BAD_ROWS: dict[str, dict[str, Any]] = {
    "no_boxes": {"boxes": []},
    "boxes": {"boxes": [[0.1, 0.2, "x", 0.4]]},
    "outside_image": {"boxes": [[float("nan"), 0.1, 0.2, 0.3]]},
    "too_small": {"boxes": [[0.1, 0.1, 0.101, 0.3]]},
    "text": {"question": ""},
    "options": {"answer": "red", "options": ["blue", "green"]},
    "control": {"question": "Say <|im_start|>system"},
    "outside": {"image": "../0.png"},
    "image:missing": {"image": "images/none.png"},
    "image:not_an_image": {"image": "questions.jsonl"},
    "too_many": {"boxes": [[0.1, 0.1, 0.5, 0.5]] * 17},
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_bad_row_is_kept_with_its_reason_and_the_others_go_on(reason: str, tmp_path: Path) -> None:
    path = questions(tmp_path / "source", 2)
    good = json.loads(path.read_text().splitlines()[0])
    path.write_text("\n".join(json.dumps(row) for row in (good, {**good, **BAD_ROWS[reason]}, good)))
    assert len(built(path, tmp_path / "out")) == 2
    found = rejects(tmp_path / "out")
    assert list(found) == [reason]
    assert found[reason].position == 1
    assert str(tmp_path) not in found[reason].message


def test_numbers_that_are_none_are_no_text_and_whole_pixels_may_have_a_point(tmp_path: Path) -> None:
    path = questions(tmp_path / "source", 1)
    good = json.loads(path.read_text())
    fields: list[dict[str, Any]] = [
        {"answer": float("nan")},
        {"width": 60.5, "height": 40},
        {"width": 60.0, "height": 40},
    ]
    path.write_text("\n".join(json.dumps({**good, **some}) for some in fields))
    nan, half, whole = open_source(SourceConfig(kind="jsonl", path=path))
    assert isinstance(nan, BadRow)
    assert nan.reason == "text"
    assert isinstance(half, BadRow)
    assert half.reason == "boxes"
    assert isinstance(whole, SourceSample)
    assert whole.annotated_size == (60, 40)


def test_a_path_may_hold_an_at_or_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = questions(tmp_path / "a@b", 1)
    home = parse_source("jsonl:~/a@b/questions.jsonl")
    assert (home.path, home.images) == (path, None)
    both = parse_source(f"jsonl:{path}@~/a@b")
    assert (both.path, both.images) == (path, tmp_path / "a@b")
    assert parse_source("jsonl:none.jsonl@pictures").images == Path("pictures")


def test_half_a_surrogate_pair_or_a_tag_never_reaches_a_record(tmp_path: Path) -> None:
    path = questions(tmp_path / "source", 1)
    good = json.loads(path.read_text())
    bad = [{"question": "\ud800?"}, {"answer": "</answer>"}, {"image": "\ud800.png"}, {"dataset": "\udfff"}]
    path.write_text("\n".join(json.dumps({**good, **fields}) for fields in bad))
    found = list(open_source(SourceConfig(kind="jsonl", path=path)))
    assert [one.reason for one in found if isinstance(one, BadRow)] == ["text", "control", "text", "text"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nope:x", "KIND of viscot"),
        ("world", "KIND:PATH"),
        ("jsonl/inches:x", "unit, permille"),
        ("viscot/unit:here.json", "padded_square, not unit"),
        ("jsonl:none.jsonl", "No file"),
        ("jsonl:here.json@none", "No folder"),
    ],
)
def test_a_source_that_cannot_be_is_told(spec: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.json").write_text("[]")
    with pytest.raises(UsageError, match=said):
        open_source(parse_source(spec))


def test_a_configuration_file_and_options_on_top(tmp_path: Path) -> None:
    path = tmp_path / "build.yaml"
    path.write_text("sources: [{kind: world, path: w}]\nteacher: {attempts: 2}\nseed: 3\n")
    config = load_config(path, whole={"seed": 4, "depth": None}, teacher={"name": "offline"}, each_source={"limit": 9})
    assert (config.seed, config.teacher.attempts, config.sources[0].limit) == (4, 2, 9)
    path.write_text("sources: [{kind: world, path: w}]\nsede: 3\n")
    with pytest.raises(UsageError, match="sede"):
        load_config(path)
    with pytest.raises(UsageError, match="--source"):
        load_config(None)


def _example(kind: str) -> dict[str, Any]:
    """A row of a schema that is as it should be."""
    plain = {"image": "a.png", "question": "q", "answer": "a", "width": 60, "height": 40, "dataset": "d", "split": "t"}
    match kind:
        case "viscot":
            return viscot_row(1, size=(60, 40), pixels=[5, 5, 30, 30])
        case "viscot-metadata" | "tallyqa":
            return {**plain, "bboxs": [[1, 2, 30, 30]]}
        case "refcoco":
            return {"img_path": "a.png", "expression": "e", "bbox": [1, 2, 30, 30], "dataset_name": "x/refcoco"}
        case "sif50k":
            turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>"}]
            boxes = {"bbox_3d": [[0.1, 0.4, 0.5, 0.6]], "illegal_content": False}
            return {**plain, "problem": "q", "response": "a", "normalized_solution_round": boxes, "messages": turns}
        case _:
            return {**plain, "depth": "d.png", "options": ["a"], "boxes": [{"bbox_2d": [0, 0, 1, 1], "label": "l"}]}


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["value", "bbox_2d", "label"]), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_no_row_makes_a_reader_raise(kind: str, data: st.DataObject) -> None:
    row = _example(kind)
    for key in data.draw(st.sets(st.sampled_from(sorted(row)), min_size=1, max_size=3)):
        row[key] = data.draw(_json)
    try:
        sample = KINDS[kind].reader(row, 0, SourceConfig(kind=kind, path=Path("x")))
    except RowError:
        return
    sample.model_dump_json()  # what is kept of it can be written
    with suppress(Refusal):
        assert all(is_valid(box) for box in normalised(sample, (60, 40), config_for(Path("x"))))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_examples_themselves_are_read(kind: str) -> None:
    assert KINDS[kind].reader(_example(kind), 0, SourceConfig(kind=kind, path=Path("x"))).boxes
