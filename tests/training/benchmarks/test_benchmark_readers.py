"""Each benchmark is read in its published schema, from fixtures made in it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import benchmarking as made
import pyarrow as pa
import pytest
from PIL import Image

from sifthinker.nodes.images import load_image
from sifthinker.policy.errors import DataError, UsageError
from sifthinker.training.benchmarks import card, names, open_benchmark
from sifthinker.training.compare.data import checked, open_data


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SIFTHINKER_HOME", str(tmp_path_factory.mktemp("home")))


def build(name: str, root: Path) -> str:
    """A fixture of that benchmark; what to open it with."""
    match name:
        case "vstar":
            made.vstar_folder(root)
        case "hrbench-4k" | "hrbench-8k":
            made.table(root / f"hr_bench_{name[-2:]}.parquet", made.hrbench_rows())
        case "cvbench":
            made.table(root / "test_2d.parquet", made.cvbench_rows()[:2], image=made.IMAGE)
            made.table(root / "test_3d.parquet", made.cvbench_rows()[2:], image=made.IMAGE)
        case "sat":
            made.table(root / "SAT_test.parquet", made.sat_rows(), image_bytes=pa.list_(made.IMAGE))
        case "spatialbench":
            made.spatialbench_folder(root)
        case "blink-depth":
            path = root / "Relative_Depth/val-00000-of-00001.parquet"
            made.table(path, made.blink_rows("Relative_Depth"), **made.BLINK_TYPES)
        case "blink-relation":
            path = root / "Spatial_Relation/val-00000-of-00001.parquet"
            made.table(path, made.blink_rows("Spatial_Relation"), **made.BLINK_TYPES)
        case "refcoco" | "refcoco+" | "refcocog":
            made.table(root / "data/val-00000-of-00001.parquet", made.refcoco_rows(), image=made.IMAGE)
        case "viscot":
            made.lines(root / "benchmark/gqa.json", made.viscot_rows(), array=True)
            for number in (1, 2):
                made.image_file(root / f"pictures/cot/gqa/{number}.jpg", number, (100, 60))
            return f"{root / 'benchmark'}@{root / 'pictures'}"
    return str(root)


@pytest.mark.parametrize("name", names())
def test_every_benchmark_opens_and_its_questions_can_be_compared_on(name, tmp_path):
    data = open_data(f"{name}:{build(name, tmp_path)}")
    questions = checked(data.questions(), name)
    assert questions == data.questions()
    assert data.licence
    assert data.obtain
    for question in questions:
        assert load_image(data.image(question)).size[0] >= 30
        assert "option's letter" not in question.text
    again = open_benchmark(name, build(name, tmp_path))
    assert [one.id for one in again.questions()] == [one.id for one in questions]


@pytest.mark.parametrize("name", names())
def test_a_perfect_answer_is_perfect_by_the_published_metric_and_silence_is_worth_nothing(name, tmp_path):
    data = open_benchmark(name, build(name, tmp_path))
    perfect = {
        one.id: made.Said(
            answer=one.answer, boxes=one.boxes[:1] or (), answer_boxes=one.boxes if one.kind == "place" else ()
        )
        for one in data.questions()
    }
    best, worst = (data.published(made.judged(data, answers)) for answers in (perfect, {}))
    assert best
    assert set(best) == set(worst)
    assert all(value == pytest.approx(1.0) for value in best.values())
    assert all(value == 0.0 for value in worst.values())
    assert all(one.right for one in made.judged(data, perfect))
    assert not any(one.right for one in made.judged(data, {}))


@pytest.mark.parametrize("name", names())
def test_a_published_metric_stays_between_nothing_and_everything(name, tmp_path):
    data = open_benchmark(name, build(name, tmp_path))
    for some in range(1, len(data.questions()) + 1):
        asked = made.judged(data, {one.id: one.answer for one in list(data.questions())[::2]})[:some]
        assert all(0.0 <= value <= 1.0 for value in data.published(asked).values())
    assert isinstance(data.published([]), dict)


@pytest.mark.parametrize("name", names())
def test_a_card_says_what_it_is_and_how_to_get_it(name):
    told = card(name)
    assert told.name == name
    assert all([told.title, told.about, told.paper, told.licence, told.obtain, told.files, told.published, told.strict])


@pytest.mark.parametrize("name", names())
def test_what_is_not_in_the_schema_is_refused_with_where_to_read_it(name, tmp_path):
    with pytest.raises((DataError, UsageError), match=r"expected|names no|not there"):
        open_benchmark(name, str(tmp_path))
    bad = made.table(tmp_path / "val-0.parquet", [{"question": "?", "image": b""}])
    with pytest.raises((DataError, UsageError)) as caught:
        open_benchmark(name, str(bad))
    assert len(str(caught.value)) < 500
    assert name == "viscot" or "expected" in str(caught.value)


def test_nothing_at_a_path_says_how_to_get_the_data(tmp_path):
    with pytest.raises(UsageError, match="hf download"):
        open_benchmark("vstar", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="cannot be read from the hub"):
        open_benchmark("viscot", "deepcs233/Visual-CoT")
    with pytest.raises(UsageError, match="There is no benchmark 'x': known are vstar"):
        open_benchmark("x")
    with pytest.raises(UsageError, match="no split 'train'"):
        open_benchmark("refcoco", f"{tmp_path}#train")


# ── each in particular ──


def test_vstar_s_boxes_are_corners_and_its_first_option_the_answer(tmp_path):
    data = open_benchmark("vstar", str(made.vstar_folder(tmp_path)))
    first, *_, last = data.questions()
    assert first.id == "direct_attributes/sa_1"
    assert first.answer == first.options[0] == "red"
    assert first.boxes[0] == pytest.approx((10 / 80, 12 / 60, 30 / 80, 18 / 60))
    assert (last.family, len(last.boxes), last.options) == ("relative_position", 2, ("left", "right"))


def test_vstar_s_lines_and_its_table_are_read_without_labels_and_instructions(tmp_path):
    rows = made.vstar_rows()
    for row in rows:
        made.image_file(tmp_path / row["image"], 1)
    lines = made.lines(tmp_path / "test_questions.jsonl", rows)
    table = made.table(
        tmp_path / "t/test.parquet", [{**row, "image": made.stored(1), "question_id": 0} for row in rows]
    )
    for path in (lines, table):
        first, second = open_benchmark("vstar", str(path)).questions()
        assert (first.text, first.options, first.answer) == (
            "What is the color of the scarf?", ("red", "blue", "green", "white"), "blue",
        )  # fmt: skip
        assert (second.text, second.answer) == ("Left or right?", "left")


def test_a_row_cannot_name_a_picture_outside_its_folder(tmp_path):
    rows = [{**made.vstar_rows()[0], "image": "../../etc/passwd"}]
    with pytest.raises(DataError, match="inside"):
        open_benchmark("vstar", str(made.lines(tmp_path / "test_questions.jsonl", rows)))


def test_hrbench_s_cycles_share_a_group_and_are_averaged_by_cycle(tmp_path):
    data = open_benchmark("hrbench-4k", build("hrbench-4k", tmp_path))
    questions = data.questions()
    assert len({one.group for one in questions}) == 2
    assert {one.answer for one in questions[:4]} == {"2"}
    assert {one.family for one in questions} == {"single", "cross"}
    right = {one.id: one.answer for one in questions if one.extra["cycle"] in ("0", "1", "2")}
    assert data.published(made.judged(data, right)) == pytest.approx({"average": 0.75, "cross": 0.75, "single": 0.75})


def test_hrbench_as_a_table_with_tabs_is_the_same(tmp_path):
    rows = made.hrbench_rows()
    text = "\t".join(rows[0]) + "\n" + "".join("\t".join(str(v) for v in row.values()) + "\n" for row in rows)
    (tmp_path / "hr_bench_4k.tsv").write_text(text)
    table = build("hrbench-4k", tmp_path / "p")
    one, other = open_benchmark("hrbench-4k", str(tmp_path / "hr_bench_4k.tsv")), open_benchmark("hrbench-4k", table)
    assert one.questions() == other.questions()
    first = one.questions()[0]
    assert Image.open(io.BytesIO(one.image(first))).size == Image.open(other.image(first)).size == (90, 60)


def test_cvbench_is_scored_by_source_as_its_authors_do(tmp_path):
    where = build("cvbench", tmp_path)
    data = open_benchmark("cvbench", where)
    told = data.published(made.judged(data, {"2D-0": "3", "3D-2": "desk", "3D-3": "desk"}))
    assert told == pytest.approx({"overall": 0.5, "2D": 0.5, "3D": 0.5, "ADE20K": 1.0, "COCO": 0.0, "Omni3D": 0.5})
    assert {one.family for one in open_benchmark("cvbench", f"{where}#3d").questions()} == {"Depth", "Distance"}


def test_cvbench_s_lines_name_pictures_in_img(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "image"} for row in made.cvbench_rows()[:2]]
    made.lines(tmp_path / "test_2d.jsonl", rows)
    for row in rows:
        made.image_file(tmp_path / "img" / row["filename"], 3)
    data = open_benchmark("cvbench", str(tmp_path))
    assert data.image(data.questions()[0]) == tmp_path / "img/2D/0.png"


def test_sat_s_pairs_are_joined_and_the_question_says_so(tmp_path):
    data = open_benchmark("sat", build("sat", tmp_path))
    single, pair = data.questions()
    assert "side by side" not in single.text
    assert pair.text.startswith("Here are 2 pictures side by side, the first on the left. How did")
    joined = load_image(data.image(pair)).image
    assert joined.size == (60 + 16 + 15, 40)
    assert joined.getpixel((68, 20)) == (255, 255, 255)
    assert isinstance(data.image(single), Path)


def test_spatialbench_is_scored_by_its_five_rules(tmp_path):
    data = open_benchmark("spatialbench", str(made.spatialbench_folder(tmp_path)))
    answers = {
        "positional-0": "the cup is nearer", "positional-1": "below",
        "existence-0": "Yes", "existence-1": "Yes",
        "counting-0": "3", "counting-1": "many",
        "reach-0": "Yes", "reach-1": "Yes",
        "size-0": "No", "size-1": "Yes",
    }  # fmt: skip
    told = data.published(made.judged(data, answers))
    assert told["positional"] == 0.5
    assert told["existence"] == 0.0
    assert told["counting"] == pytest.approx(1 - (0.25 + 1) / 2)
    assert told["reach"] == pytest.approx(1 / 3)
    assert told["size"] == 1.0
    assert told["mean"] == pytest.approx(sum(told[task] for task in told if task != "mean") / 5)
    strict = [one.right for one in made.judged(data, answers) if one.question.family == "positional"]
    assert strict == [False, False]  # a sentence around the word is not the word
    assert {one.group for one in data.questions() if one.family == "size"} == {"size-0"}


def test_spatialbench_s_pairs_are_of_one_seed_and_a_task_without_any_has_no_score(tmp_path):
    data = open_benchmark("spatialbench", str(made.spatialbench_folder(tmp_path)))
    right = {one.id: one.answer for one in data.questions()}
    once, thrice = (data.published(made.judged(data, right, seeds)) for seeds in ((0,), (0, 1, 2)))
    assert once == thrice == dict.fromkeys(("mean", "positional", "existence", "counting", "reach", "size"), 1.0)
    halves = [one for one in made.judged(data, right) if one.question.id.endswith("-0")]
    assert data.published(halves) == {"mean": 1.0, "positional": 1.0, "counting": 1.0}


def test_blink_of_another_subtask_is_refused(tmp_path):
    path = made.table(tmp_path / "val-0.parquet", made.blink_rows("Spatial_Relation"), **made.BLINK_TYPES)
    with pytest.raises(DataError, match="subtask 'Spatial_Relation', not 'Relative_Depth'"):
        open_benchmark("blink-depth", str(path))


def test_refcoco_asks_each_expression_for_its_box(tmp_path):
    data = open_benchmark("refcoco", build("refcoco", tmp_path))
    first, second, third = data.questions()
    assert first.kind == "place"
    assert 'Where is "man in red"?' in first.text
    assert first.boxes[0] == second.boxes[0] == pytest.approx((0.1, 0.25, 0.5, 0.625))
    assert first.group == second.group != third.group
    near = made.Said(answer="", boxes=((0.1, 0.25, 0.5, 0.75),))
    two = made.Said(answer="", boxes=((0.1, 0.25, 0.5, 0.625), (0.5, 0.5, 1.0, 1.0)))
    rows = made.judged(data, {first.id: near, second.id: two})
    assert data.published(rows)["ACC@0.5"] == pytest.approx(2 / 3)
    assert data.published(rows)["IoU"] == pytest.approx((0.75 + 1.0) / 3)
    assert [bool(one.right) for one in rows] == [True, False, False]


def test_refcoco_as_lines_with_corners_and_a_folder_of_pictures(tmp_path):
    rows = [{"img_path": "a/1.jpg", "expression": "the kite", "bbox": [10, 20, 50, 50], "width": 100, "height": 80}]
    path = made.lines(tmp_path / "refcoco_val.jsonl", rows)
    made.image_file(tmp_path / "coco/a/1.jpg", 1, (100, 80))
    data = open_benchmark("refcoco", f"{path}@{tmp_path / 'coco'}")
    assert data.questions()[0].boxes[0] == pytest.approx((0.1, 0.25, 0.5, 0.625))
    assert data.image(data.questions()[0]) == tmp_path / "coco/a/1.jpg"


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("refcoco", {"refcoco_val.jsonl", "refcoco_google_val.jsonl", "REC_refcoco_unc_val.jsonl", "my_val.jsonl"}),
        ("refcoco+", {"refcoco+_val.jsonl", "refcoco_plus_val.jsonl", "my_val.jsonl"}),
        ("refcocog", {"refcocog_val.jsonl", "REC_refcocog_umd_val.jsonl", "my_val.jsonl"}),
    ],
)
def test_of_a_folder_with_all_three_sets_one_is_read(name, own, tmp_path):
    files = (
        "refcoco_val.jsonl", "refcoco_google_val.jsonl", "REC_refcoco_unc_val.jsonl", "refcoco+_val.jsonl",
        "refcoco_plus_val.jsonl", "refcocog_val.jsonl", "REC_refcocog_umd_val.jsonl", "grefcoco_val.jsonl",
        "my_val.jsonl",
    )  # fmt: skip
    for file in files:
        row = {"image": "1.jpg", "sent": file, "bbox": [10, 20, 50, 50], "width": 100, "height": 80}
        made.lines(tmp_path / file, [row])
    asked = "\n".join(one.text for one in open_benchmark(name, str(tmp_path)).questions())
    assert {file for file in files if f'"{file}"' in asked} == own


def test_of_several_mirrors_below_a_folder_one_is_read(tmp_path):
    for name in ("RefCOCO", "RefCOCOplus", "RefCOCOg"):
        made.table(tmp_path / name / "data/val-0.parquet", made.refcoco_rows(), image=made.IMAGE)
    assert len(open_benchmark("refcoco", str(tmp_path)).questions()) == 3


def test_a_box_outside_its_picture_is_refused(tmp_path):
    rows = [{"img_path": "1.jpg", "expression": "x", "bbox": [210, 20, 250, 50], "width": 100, "height": 80}]
    with pytest.raises(DataError, match="does not lie in the picture of 100 × 80"):
        open_benchmark("refcoco", str(made.lines(tmp_path / "val.jsonl", rows)))


def test_viscot_s_boxes_are_of_the_padded_square(tmp_path):
    data = open_benchmark("viscot", build("viscot", tmp_path))
    first = data.questions()[0]
    assert first.text == "Is it red?"
    assert first.boxes[0] == pytest.approx((0.2, 1 / 6, 0.6, 2 / 3), abs=1e-6)
    told = data.published(made.judged(data, {first.id: made.Said(answer="yes", boxes=first.boxes)}))
    assert told == pytest.approx({"mean box@0.5": 0.5, "mean ANLS": 0.5, "gqa box@0.5": 0.5, "gqa ANLS": 0.5})


def test_viscot_without_its_pictures_says_how_to_name_them(tmp_path):
    path = made.lines(tmp_path / "gqa.json", made.viscot_rows(), array=True)
    with pytest.raises(DataError, match="after an @"):
        open_benchmark("viscot", str(path))


# ── pictures, hub, leaks ──


def test_pictures_are_unpacked_once_and_anew_when_the_table_changes(tmp_path, monkeypatch):
    where = build("blink-depth", tmp_path)
    data = open_benchmark("blink-depth", where)
    before = [data.image(question) for question in data.questions()]
    assert [path.read_bytes() for path in before] == [made.picture(number) for number in range(3)]
    from sifthinker.training.benchmarks import unpack

    monkeypatch.setattr(unpack, "_unpack", lambda *_: pytest.fail("unpacked twice"))
    assert [data.image(question) for question in open_benchmark("blink-depth", where).questions()] == before


def test_a_damaged_table_is_told_as_such(tmp_path):
    path = tmp_path / "SAT_test.parquet"
    path.write_bytes(b"PAR1 this is no table PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_benchmark("sat", str(path))


def test_from_the_hub_only_the_files_that_are_read_are_fetched(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repo, *, repo_type, allow_patterns):
        asked.update(repo=repo, kind=repo_type, patterns=allow_patterns)
        made.table(tmp_path / "data/testA-0.parquet", made.refcoco_rows(), image=made.IMAGE)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    data = open_benchmark("refcoco", "lmms-lab/RefCOCO#testA")
    assert asked == {"repo": "lmms-lab/RefCOCO", "kind": "dataset", "patterns": ["data/testA-*.parquet"]}
    assert {one.family for one in data.questions()} == {"testA"}


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("We couldn't connect\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(UsageError, match=r"could not be fetched \(We couldn't connect\)\. hf download") as caught:
        open_benchmark("cvbench")
    assert "\n" not in str(caught.value)


def test_leaks_of_a_benchmark_s_pictures_are_found(tmp_path, capsys):
    from building import built, questions

    from sifthinker.agent.cli import run
    from sifthinker.training.data.check import find_leaks

    data_folder = tmp_path / "data"
    built(questions(tmp_path / "source", 3), data_folder)
    rows = made.blink_rows("Relative_Depth")
    rows[1]["image_1"] = {"bytes": (tmp_path / "source/images/1.png").read_bytes(), "path": "1.png"}
    path = made.table(tmp_path / "val-0.parquet", rows, **made.BLINK_TYPES)
    benchmark = open_benchmark("blink-depth", str(path))
    leaks = find_leaks(data_folder, benchmark.pictures()).leaks
    assert [(leak.other, leak.name, leak.same) for leak in leaks] == [("blink-depth", "val_Relative_Depth_1", True)]
    assert run(["data", "check", str(data_folder), "--against", f"blink-depth:{path}"]) == 1
    assert "1 of 3 pictures leak" in capsys.readouterr().out
    assert run(["data", "check", str(data_folder), "--against", "blink"]) == 2
    assert "no folder of images and no benchmark" in capsys.readouterr().err


def test_the_commands_list_and_show(tmp_path, capsys):
    from sifthinker.agent.cli import run

    assert run(["benchmarks", "list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["benchmarks"]] == names()
    assert run(["benchmarks", "list"]) == 0
    assert "RefCOCO" in capsys.readouterr().out
    assert run(["benchmarks", "show", "vstar", str(made.vstar_folder(tmp_path)), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["opened"]["questions"] == 3
    assert shown["opened"]["first"]["answer"] == "red"
    assert run(["benchmarks", "show", "sat"]) == 0
    assert "SAT_{split}.parquet" in capsys.readouterr().out
    assert run(["benchmarks", "show", "nothing"]) == 2
    assert run(["benchmarks", "show", "sat", str(tmp_path)]) == 1


def test_another_split_in_the_same_folder_is_never_taken_for_the_one_asked_for(tmp_path):
    made.table(tmp_path / "data/testA-0.parquet", made.refcoco_rows(), image=made.IMAGE)
    with pytest.raises(DataError, match="split val"):
        open_benchmark("refcoco", str(tmp_path))
    assert open_benchmark("refcoco", f"{tmp_path}#testA").name == "refcoco testA"


def test_a_value_that_cannot_be_is_one_sentence(tmp_path):
    rows = made.cvbench_rows()[:2]
    rows[1]["choices"] = ["above", ""]
    path = made.table(tmp_path / "test_2d.parquet", rows, image=made.IMAGE)
    with pytest.raises(DataError, match="after 1 questions: Expected a text"):
        open_benchmark("cvbench", str(path))
    rows[1].update(choices=["above", "below"], answer="(C)")
    with pytest.raises(DataError, match=r"row 1: the answer '\(C\)' is the letter of none of 2 options"):
        open_benchmark("cvbench", str(made.table(path, rows, image=made.IMAGE)))


@pytest.mark.parametrize(
    ("said", "right"),
    [("red", True), ("It is red.", True), ("red or blue", False), ("reddish", False), ("dark red", False), ("", False)],
)
def test_published_matching_looks_for_the_one_option_that_an_answer_names(said, right):
    from sifthinker.training.benchmarks.choices import leniently_right
    from sifthinker.training.compare.data import Judged, Question, Said

    question = Question(id="1", text="?", answer="red", options=("red", "blue", "dark red"))
    assert leniently_right(Judged(question, Said(answer=said), right=False)) is right


def test_pictures_that_repeat_are_kept_once(tmp_path):
    data = open_benchmark("hrbench-8k", build("hrbench-8k", tmp_path))
    files = [data.image(question) for question in data.questions()]
    assert len({file.stat().st_ino for file in files}) == 2
    assert [file.read_bytes() for file in files] == [made.picture(n // 4, (90, 60)) for n in range(8)]
