"""Leaks by image hash, boxes in the wrong space, records that do not hold; and what a data set holds."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from building import built, noise, questions
from PIL import Image

from sifthinker.agent.cli import run
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import DataError
from sifthinker.training.data.audit import Audit, audit
from sifthinker.training.data.check import check_records, difference_hash, find_leaks, images_of
from sifthinker.training.data.config import SourceConfig
from sifthinker.training.data.load import open_image
from sifthinker.training.data.samples import SourceSample
from sifthinker.training.data.sources import Source, open_source
from sifthinker.training.data.stats import folder_stats
from sifthinker.training.data.tables import RECORDS


def test_a_build_passes_its_own_check(tmp_path: Path) -> None:
    out = tmp_path / "out"
    built(questions(tmp_path / "s", 4), out)
    found = check_records(out, deep=True)
    assert (found.records, found.wrong) == (4, {})


def changed(out: Path, row: int, **fields: Any) -> None:
    """Change fields of a record on disk."""
    (shard,) = (out / "records").iterdir()
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[row] |= fields
    pq.write_table(table.from_pylist(rows, schema=RECORDS), shard)


def test_what_does_not_hold_is_found(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second, *_ = built(questions(tmp_path / "s", 7), out)
    changed(out, 0, trace=first.trace.replace("<think>", ""))
    changed(out, 1, answer="another")
    changed(out, 2, boxes=[[0.0, 0.0, 0.5, 0.5]])
    changed(out, 3, images=[])
    (out / built(tmp_path / "s/questions.jsonl", out)[4].rgb).unlink()
    other = noise(tmp_path / "other.png", (60, 40), 99)
    (out / built(tmp_path / "s/questions.jsonl", out)[5].rgb).write_bytes(other.read_bytes())
    changed(out, 6, question=second.question, answer=second.answer, rgb_sha256=second.rgb_sha256)
    found = check_records(out, deep=True)
    assert found.wrong["trace:tag"] == 1
    assert found.wrong["answer"] == 2
    assert found.wrong["last_area_is_not_boxes"] == 1
    assert found.wrong["images_without_place"] == 1
    assert found.wrong["missing_file"] == 1
    assert found.wrong["unreadable_file"] == 1
    assert found.wrong["another_image"] == 2
    assert found.examples["trace:tag"] == [first.id]


@pytest.mark.parametrize(
    ("words", "problem"), [("·", "empty_text"), ("<|im_end|>", "control"), ("x" * 2001, "long_text")]
)
def test_a_text_that_nothing_can_be_learnt_from_is_found(words: str, problem: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (record,) = built(questions(tmp_path / "s", 1), out)
    trace = re.sub("<text>.*?</text>", lambda _: f"<text>{words}</text>", record.trace)
    turns = record.model_dump(mode="json")["messages"]
    turns[-1]["content"][0]["text"] = trace
    changed(out, 0, trace=trace, messages=turns)
    assert check_records(out).wrong == {problem: 1}


def test_a_row_that_names_a_file_outside_is_no_record(tmp_path: Path) -> None:
    out = tmp_path / "out"
    built(questions(tmp_path / "s", 1), out)
    changed(out, 0, rgb="../../etc/passwd")
    with pytest.raises(DataError, match="relative to the data set's folder"):
        check_records(out)


def test_repeated_questions_are_found(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 2)
    path.write_text(path.read_text() * 2)
    built(path, tmp_path / "out")
    assert check_records(tmp_path / "out").wrong == {"repeated_question": 2}


def test_a_picture_of_a_benchmark_is_found_under_any_name_and_format(tmp_path: Path) -> None:
    out, benchmark = tmp_path / "out", tmp_path / "vstar"
    records = built(questions(tmp_path / "s", 5, size=(96, 64)), out)
    images = [Image.open(out / record.rgb) for record in records]
    (benchmark / "direct").mkdir(parents=True)
    images[1].save(benchmark / "direct/a.webp", lossless=True)
    images[2].save(benchmark / "b.jpg", quality=85)
    images[3].resize((192, 128)).save(benchmark / "c.png")
    noise(benchmark / "d.png", (96, 64), 77)
    leaks = {leak.name: leak for leak in find_leaks(out, images_of(benchmark)).leaks}
    assert set(leaks) == {"b.jpg", "c.png", "direct/a.webp"}
    assert {name: leak.record for name, leak in leaks.items()} == {
        "direct/a.webp": records[1].id,
        "b.jpg": records[2].id,
        "c.png": records[3].id,
    }
    assert [leaks[name].same for name in ("direct/a.webp", "b.jpg")] == [True, False]
    assert [leak.name for leak in find_leaks(out, images_of(benchmark), alike_bits=-1).leaks] == ["direct/a.webp"]


def test_readers_of_benchmarks_may_give_pictures_of_any_kind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (record,) = built(questions(tmp_path / "s", 1), out)
    given = [
        ("SAT", "7", Image.open(out / record.rgb)),
        ("BLINK", "8", (out / record.rgb).read_bytes()),
        ("V*", "broken", b"not an image"),
    ]
    found = find_leaks(out, given)
    assert [(leak.other, leak.name, leak.same) for leak in found.leaks] == [
        ("SAT", "7", True),
        ("BLINK", "8", True),
    ]
    assert (found.compared, found.unread) == (2, ["V*/broken"])


def test_the_records_pictures_are_opened_once_however_much_they_are_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    built(questions(tmp_path / "s", 3, size=(96, 64)), out)
    for name in ("one", "two"):
        noise(tmp_path / name / "x.png", (96, 64), 77)
    opened: list[str] = []

    def counted(folder: Path, name: str) -> Image.Image:
        opened.append(name)
        return open_image(folder, name)

    monkeypatch.setattr("sifthinker.training.data.check.open_image", counted)
    others = [word for name in ("one", "two") for word in ("--against", str(tmp_path / name))]
    assert run(["data", "check", str(out), *others]) == 0
    assert len(opened) == 3
    ticks: list[int] = []
    find_leaks(out, images_of(tmp_path / "one"), tick=lambda: ticks.append(1))
    assert len(ticks) == 3 + 1


def test_pictures_are_known_by_their_content_and_one_of_another_kind_is_told(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    (record,) = built(questions(tmp_path / "s", 1, size=(96, 64)), out)
    other.mkdir()
    (other / "bare").write_bytes((out / record.rgb).read_bytes())
    (other / "picture.data").write_bytes((out / record.rgb).read_bytes())
    Image.open(out / record.rgb).save(other / "old.gif")
    for name, content in {"README.md": "Pictures", "paper.pdf": "%PDF-1.7", "empty.txt": ""}.items():
        (other / name).write_text(content)
    found = find_leaks(out, images_of(other))
    assert [leak.name for leak in found.leaks] == ["bare", "picture.data"]
    assert found.unread == ["other/old.gif"]


def test_nothing_compared_is_no_all_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    built(questions(tmp_path / "s", 2, size=(96, 64)), out)
    other.mkdir()
    assert run(["data", "check", str(out), "--against", str(other)]) == 2
    (other / "broken.png").write_bytes(b"not an image")
    assert run(["data", "check", str(out), "--against", str(other)]) == 2
    assert "Nothing was compared" in capsys.readouterr().err
    noise(other / "good.png", (96, 64), 77)
    assert run(["data", "check", str(out), "--against", str(other)]) == 1
    said = capsys.readouterr().out
    assert "0 of 1 pictures leak" in said
    assert "1 could not be opened" in said
    (other / "broken.png").unlink()
    assert run(["data", "check", str(out), "--against", str(other)]) == 0


def test_scenes_of_the_block_world_are_told_apart(world: Path) -> None:
    hashes = [difference_hash(Image.open(path)) for path in sorted((world / "images").iterdir())]
    distances = [int(np.bitwise_xor(a, b).sum()) for i, a in enumerate(hashes) for b in hashes[i + 1 :]]
    assert min(distances) > 24


def _jsonl(folder: Path, boxes: dict[str, list[float]], size: tuple[int, int]) -> Path:
    with (folder / "q.jsonl").open("w") as file:
        for name, box in boxes.items():
            noise(folder / name, size)
            file.write(json.dumps({"image": name, "question": "q", "answer": "a", "boxes": [box]}) + "\n")
    return folder / "q.jsonl"


def _square_boxes(count: int, size: tuple[int, int]) -> dict[str, list[float]]:
    """Boxes anywhere in images of a size, in their padded square."""
    rng = np.random.default_rng(0)
    side = max(size)
    found = {}
    for number in range(count):
        low = rng.uniform(0, 0.7, 2)
        high = low + rng.uniform(0.05, 0.3, 2)
        scale = np.array(size) / side
        shift = (1 - scale) / 2
        found[f"{number}.png"] = [round(float(v), 3) for v in (*(low * scale + shift), *(high * scale + shift))]
    return found


def _audited(path: Path, space: BoxSpace):  # type: ignore[no-untyped-def]
    return audit(open_source(SourceConfig(kind="jsonl", path=path, space=space)))


def test_padded_square_boxes_declared_as_shares_are_suspected(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, _square_boxes(40, (64, 40)), (64, 40))
    wrong = _audited(path, BoxSpace.UNIT)
    assert wrong.in_band == 1.0
    assert "padded_square" in wrong.problems[0]
    assert _audited(path, BoxSpace.PADDED_SQUARE).problems == []


def test_shares_of_width_and_height_are_not_suspected(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 0.7, (40, 2))
    boxes = {f"{i}.png": [float(v) for v in (*low[i], *(low[i] + 0.2))] for i in range(40)}
    path = _jsonl(tmp_path, boxes, (64, 40))
    assert _audited(path, BoxSpace.UNIT).problems == []
    assert "lie in their image" in _audited(path, BoxSpace.PADDED_SQUARE).problems[0]


def test_pixels_declared_as_shares_are_found(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, {"a.png": [10, 10, 50, 30]}, (64, 40))
    wrong = _audited(path, BoxSpace.UNIT)
    assert wrong.plausible[BoxSpace.UNIT] == 0
    assert "read as permille or pixel they do" in wrong.problems[0]
    assert _audited(path, BoxSpace.PIXEL).problems == []


def test_each_sample_is_held_to_the_space_that_it_declares(tmp_path: Path) -> None:
    """SIF-50K's rows are in two spaces: neither may hide what is wrong with the other."""
    path = _jsonl(
        tmp_path, {f"{i}.png": [10, 10, 50, 30] if i % 2 else [0.1, 0.1, 0.3, 0.2] for i in range(8)}, (64, 40)
    )
    source = open_source(SourceConfig(kind="jsonl", path=path, space=BoxSpace.UNIT))
    spaces = (BoxSpace.UNIT, BoxSpace.PIXEL)

    def mixed(right: bool) -> Audit:
        samples = [
            sample.model_copy(update={"space": spaces[(number + (not right)) % 2]})
            for number, sample in enumerate(source)
            if isinstance(sample, SourceSample)
        ]
        return audit(_Fixed(samples, source))  # type: ignore[arg-type]

    assert mixed(right=True).problems == []
    wrong = mixed(right=False)
    assert set(wrong.declared) == set(spaces)
    assert [problem.partition(",")[0] for problem in wrong.problems] == ["Read as pixel", "Read as unit"]


class _Fixed:
    """A source of given samples."""

    def __init__(self, samples: list[SourceSample], source: Source) -> None:
        self.samples, self.source = samples, source

    def __iter__(self) -> Iterator[SourceSample]:
        return iter(self.samples)

    def __getattr__(self, name: str) -> object:
        return getattr(self.source, name)


def test_visual_cot_is_audited_by_what_it_says_twice(tmp_path: Path) -> None:
    rows = []
    for number, box in enumerate(_square_boxes(20, (320, 200)).values()):
        name = f"cot/gqa/{number}.png"
        noise(tmp_path / name, (320, 200))
        pixels = [round(320 * value) - 60 * (axis % 2) for axis, value in enumerate(box)]
        turns = [f"<image>\nq{number}?", str(box), "<image>", "a"]
        rows.append(
            {
                "dataset": "gqa",
                "image": [name, f"{name}###{pixels}"],
                "conversations": [{"from": "x", "value": value} for value in turns],
            }
        )
    (tmp_path / "v.json").write_text(json.dumps(rows))
    found = audit(open_source(SourceConfig(kind="viscot", path=tmp_path / "v.json")))
    assert found.problems == []
    assert found.agreement[BoxSpace.PADDED_SQUARE] > 0.95
    assert found.agreement[BoxSpace.UNIT] < 0.7


def test_images_that_are_not_there_are_counted(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 2)
    (tmp_path / "s/images/1.png").unlink()
    found = audit(open_source(SourceConfig(kind="jsonl", path=path)))
    assert (found.samples, found.without_image) == (1, 1)


def test_rows_that_cannot_be_read_are_counted_and_more_than_a_few_are_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = questions(tmp_path / "s", 40)
    good = path.read_text().splitlines()
    bad = json.dumps({**json.loads(good[0]), "question": ""})
    spec = f"jsonl:{path}"
    path.write_text("\n".join([*good, bad]))
    assert run(["data", "check", "-s", spec]) == 0
    assert "1 of the rows no sample (text), for instance row 40: Expected a text" in capsys.readouterr().out
    path.write_text("\n".join([*good, *[bad] * 5]))
    assert run(["data", "check", "-s", spec]) == 1
    assert "5 of 45 rows cannot be read (text 5): is the file of the kind jsonl?" in capsys.readouterr().out
    path.write_text("\n".join([*good, *[json.dumps({**json.loads(good[0]), "boxes": []})] * 9]))
    assert run(["data", "check", "-s", spec]) == 0, "rows without boxes may be many"
    path.write_text("\n".join([bad] * 5))
    assert (
        audit(open_source(SourceConfig(kind="jsonl", path=path))).problems[0].startswith("None of 5 rows is a sample")
    )


def test_the_numbers_of_a_data_set(world: Path, tmp_path: Path) -> None:
    built(world, tmp_path / "out", kind="world")
    found = folder_stats(tmp_path / "out")
    assert found.complete
    assert (found.records, found.images, found.rejects) == (10, 10, 0)
    assert found.sources == {"world/world": 10}
    assert set(found.families.values()) == {1}
    assert sum(found.steps.values()) == sum(found.boxes.values()) == found.attempts == 10
