"""A build as a whole: what it writes, that it goes on, and what it says when it cannot."""

import errno
import gc
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from building import FlatDepth, SlowTeacher, built, config_for, contents, noise, questions, rejects
from PIL import Image

from sifthinker.nodes.images import image_hash, load_image
from sifthinker.policy.errors import DataError, UsageError
from sifthinker.policy.files import PART, beside
from sifthinker.training.data.build import build, is_complete
from sifthinker.training.data.config import BuildConfig, SourceConfig
from sifthinker.training.data.load import open_depth, open_image
from sifthinker.training.data.records import Record, Reject
from sifthinker.training.data.runner import Progress
from sifthinker.training.data.samples import inside
from sifthinker.training.data.tables import read_records, read_rejects
from sifthinker.training.folders import locked


def test_pictures_behind_a_link_are_told_of_before_anything_is_done(tmp_path: Path) -> None:
    path = questions(tmp_path / "elsewhere", 3)
    (tmp_path / "s").mkdir()
    (tmp_path / "s/images").symlink_to(tmp_path / "elsewhere/images")
    path = path.rename(tmp_path / "s/questions.jsonl")
    with pytest.raises(UsageError, match="links: true"):
        build(config_for(path), tmp_path / "out", depth=FlatDepth())
    config = config_for(path)
    followed = config.sources[0].model_copy(update={"links": True})
    build(config.model_copy(update={"sources": (followed,)}), tmp_path / "out", depth=FlatDepth())
    assert len(list(read_records(tmp_path / "out"))) == 3


def test_a_record_holds_what_it_promises(tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = built(questions(tmp_path / "s", 4), out)
    assert [record.id for record in records] == [f"jsonl-{number:07d}" for number in range(4)]
    assert is_complete(out)
    assert not list((out / "journal").iterdir())
    for record in records:
        trace = record.parsed()
        assert [box.bbox_2d for box in trace.steps[-1].boxes] == record.boxes
        assert trace.answer == record.answer
        assert record.messages[:-1] == record.prompt
        assert record.messages[-1].content[0].text == record.trace
        assert [part.type for part in record.prompt[0].content] == ["text", "image", "text", "image", "text"]
        image = open_image(out, record.rgb)
        assert (image_hash(image), image.size) == (record.rgb_sha256, record.rgb_size)
        depth = open_depth(out, record.depth_map)
        assert depth is not None
        for step in trace.steps:
            for box in step.boxes:
                assert box.depth == pytest.approx(depth.mean(box.bbox_2d), abs=6e-4)
        assert open_image(out, record.images[1]).size == image.size


def test_without_depth_nothing_speaks_of_it(tmp_path: Path) -> None:
    (record, *_) = built(questions(tmp_path / "s", 2), tmp_path / "out", depth="none")
    assert record.depth_map is None
    assert record.images == [record.rgb]
    assert "depth" not in record.trace
    assert "Depth image" not in str(record.prompt)


def test_a_data_set_tells_nothing_of_the_machine(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = questions(tmp_path / "s", 3)
    with path.open("a") as file:
        file.write('{"image": "images/none.png", "question": "q", "answer": "a", "boxes": [[0, 0, 1, 1]]}\n')
    records = built(path, out)
    told = " ".join([record.model_dump_json() for record in records] + [str(rejects(out))])
    told += (out / "build.json").read_text()
    assert str(tmp_path) not in told


def test_the_same_build_writes_the_same_bytes_however_many_work_on_it(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 23)
    built(path, tmp_path / "one", concurrency=1, shard_size=5)
    built(path, tmp_path / "two", concurrency=7, shard_size=5)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(list((tmp_path / "one/records").iterdir())) == 5


def test_a_finished_build_has_nothing_left_to_do(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 5), tmp_path / "out"
    built(path, out)
    before = contents(out)
    done = build(config_for(path), out, depth=FlatDepth(), teacher=SlowTeacher())
    assert (done.earlier, done.accepted, done.teacher.calls) == (5, 0, 0)
    assert contents(out) == before


def test_several_sources_follow_one_another_in_one_folder(world: Path, tmp_path: Path) -> None:
    plain = questions(tmp_path / "s", 3)
    sources = (SourceConfig(kind="jsonl", path=plain), SourceConfig(kind="world", path=world))
    build(BuildConfig(sources=sources), tmp_path / "out", depth=FlatDepth())
    records = list(read_records(tmp_path / "out"))
    assert [record.provenance.source for record in records] == ["jsonl"] * 3 + ["world"] * 10
    assert [record.provenance.depth for record in records] == ["flat"] * 3 + ["exact"] * 10


def test_an_image_asked_about_twice_is_kept_once(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 1)
    path.write_text(path.read_text() * 3)
    records = built(path, tmp_path / "out")
    assert len({record.rgb for record in records}) == 1
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == 1


def test_images_keep_their_format_and_stand_upright(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 1)
    noise(tmp_path / "s/images/0.png", (60, 40))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(tmp_path / "s/images/0.png").save(tmp_path / "s/images/0.jpg", exif=turned, quality=95)
    path.write_text(path.read_text().replace("0.png", "0.jpg"))
    (record,) = built(path, tmp_path / "out")
    assert record.rgb.endswith(".jpeg")
    assert record.rgb_size == (40, 60)
    assert load_image(tmp_path / "out" / record.rgb).sha256 == record.rgb_sha256


def test_a_folder_of_another_build_is_refused_and_told_why(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 2), tmp_path / "out"
    built(path, out)
    with pytest.raises(UsageError, match="another seed"):
        built(path, out, seed=1)
    with path.open("a") as file:
        file.write(path.read_text())
    with pytest.raises(UsageError, match="another sources"):
        built(path, out)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no data set"):
        built(questions(tmp_path / "s", 1), out)


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = questions(tmp_path / "s", 1)
    with locked(out), pytest.raises(UsageError, match=f"Process {os.getpid()} is building"):
        built(path, out)
    assert len(built(path, out)) == 1


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left, film, other = beside(tmp_path / "checkpoint.pt"), tmp_path / "film.part", tmp_path / ".film.part"
    deep = beside(tmp_path / "policy" / "model.safetensors")
    deep.parent.mkdir()
    for path in (left, film, other, deep):
        path.write_bytes(b"half")
    policy = beside(tmp_path / "policy")
    policy.mkdir()
    (policy / "model.safetensors").write_bytes(b"half")
    with locked(tmp_path):
        assert not left.exists()
        assert not policy.exists()
        assert not deep.exists()
        begun = beside(tmp_path / "checkpoint.pt")
        begun.write_bytes(b"half")
        with pytest.raises(UsageError), locked(tmp_path):
            pass
        assert begun.exists(), "another process is writing it"
    assert film.exists()
    assert other.exists()


def test_a_missing_folder_of_images_is_told_before_anything_is_refused(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 3)
    (tmp_path / "s/images").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="None of the first 3 images"):
        built(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 1)
    with pytest.raises(DataError, match="cannot be written"):
        built(path, path / "out")


def test_sources_without_a_sample_are_told(tmp_path: Path) -> None:
    path = questions(tmp_path / "s", 1)
    path.write_text("")
    with pytest.raises(UsageError, match="no sample"):
        built(path, tmp_path / "out")


class Fault:
    """The system fails with a number whenever a file of this name is looked for ("stat") or opened ("open")."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, number: int, at: str = "stat") -> None:
        real = getattr(Path, at)

        def call(path: Path, *args: Any, **kwargs: Any) -> Any:
            if path.name == name and "source" in path.parts:
                raise OSError(number, os.strerror(number))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(Path, at, call)


@pytest.mark.parametrize(
    ("number", "at"), [(errno.ESTALE, "stat"), (errno.EACCES, "stat"), (errno.EIO, "open"), (errno.EMFILE, "open")]
)
def test_an_image_that_the_system_cannot_read_now_is_no_reject(
    number: int, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = questions(tmp_path / "source", 5), tmp_path / "out"
    built(path, tmp_path / "whole")
    with monkeypatch.context() as patch:
        Fault(patch, "2.png", number, at)
        said = (
            rf"images of 1 of 5 samples cannot be read, last: .*{os.strerror(number)}.*4 finished .*same command again"
        )
        with pytest.raises(DataError, match=said):
            built(path, out)
        assert not is_complete(out)
    built(path, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_an_image_that_can_never_be_read_is_given_up_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = questions(tmp_path / "source", 3), tmp_path / "out"
    Fault(monkeypatch, "1.png", errno.EIO)
    done = build(config_for(path), out, depth=FlatDepth(), give_up=True)
    assert (done.accepted, done.rejected) == (2, 1)
    assert list(rejects(out)) == ["unreadable"]


def test_a_folder_that_is_gone_on_the_way_rejects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sifthinker.training.data.runner.GONE_IN_A_ROW", 4)
    path, out = questions(tmp_path / "source", 12), tmp_path / "out"
    built(path, tmp_path / "whole", shard_size=5)
    images = tmp_path / "source/images"
    images.rename(tmp_path / "source/all")
    images.mkdir()
    for number in (0, 2, 3):  # as if it had been fetched in part
        os.link(tmp_path / f"source/all/{number}.png", images / f"{number}.png")
    with pytest.raises(DataError, match=r"images of 4 samples in a row .*finished samples are kept. Is their folder"):
        built(path, out, shard_size=5, concurrency=1)
    images.rename(tmp_path / "source/part")
    (tmp_path / "source/all").rename(images)
    (reject,) = build_again(path, out, shard_size=5)
    assert (reject.position, reject.reason) == (1, "image:missing"), "others were there before it and after"
    build(config_for(path, shard_size=5), out, depth=FlatDepth(), retry=["image:missing"])
    assert contents(out) == contents(tmp_path / "whole")


def build_again(path: Path, out: Path, **fields: Any) -> list[Reject]:
    """The rejects of a build that goes on to its end."""
    built(path, out, **fields)
    return list(read_rejects(out))


def test_images_that_were_never_there_are_rejected_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sifthinker.training.data.runner.GONE_IN_A_ROW", 4)
    path = questions(tmp_path / "source", 12)
    for number in range(2, 12):
        (tmp_path / f"source/images/{number}.png").unlink()
    done = build(config_for(path, concurrency=1), tmp_path / "out", depth=FlatDepth(), give_up=True)
    assert (done.accepted, done.rejected) == (2, 10)


def test_rejects_are_done_again_on_request_whenever_that_is_broken_off(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "source", 11), tmp_path / "out"
    built(path, tmp_path / "whole", shard_size=4)
    images, away = tmp_path / "source/images", tmp_path / "away"
    away.mkdir()
    for number in (1, 2, 9):
        (images / f"{number}.png").rename(away / f"{number}.png")
    (images / "5.png").write_bytes(b"no picture")
    config = config_for(path, shard_size=4, concurrency=1)
    build(config, out, depth=FlatDepth())
    assert sorted(reject.position for reject in read_rejects(out)) == [1, 2, 5, 9]
    for image in away.iterdir():
        image.rename(images / image.name)
    with pytest.raises(UsageError, match=r"image:missing 3, image:not_an_image 1\), got boxes"):
        build(config, out, depth=FlatDepth(), retry=["boxes"])
    assert is_complete(out)

    class Enough(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.accepted:
            raise Enough

    with pytest.raises(Enough):
        build(config, out, depth=FlatDepth(), retry=["image:missing"], on_progress=stop)
    assert not is_complete(out)
    done = build(config, out, depth=FlatDepth(), retry=["image:missing"])
    assert (done.earlier, done.accepted, done.rejected) == (9, 2, 0)
    assert [reject.position for reject in read_rejects(out)] == [5]
    assert [record.provenance.position for record in read_records(out)] == [*range(5), *range(6, 11)]
    shards = ("records/00000.parquet", "records/00002.parquet", "rejected/00000.parquet")
    assert [(out / name).read_bytes() for name in shards] == [
        (tmp_path / "whole" / name).read_bytes() for name in shards
    ]


def test_what_a_retry_rejects_once_more_is_not_done_again_when_it_goes_on(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "source", 6), tmp_path / "out"
    away = tmp_path / "4.png"
    (tmp_path / "source/images/4.png").rename(away)
    for number in (1, 2):
        (tmp_path / f"source/images/{number}.png").unlink()
    config = config_for(path, shard_size=4, concurrency=1)
    build(config, out, depth=FlatDepth())
    away.rename(tmp_path / "source/images/4.png")

    class Enough(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.accepted:
            raise Enough

    with pytest.raises(Enough):
        build(config, out, depth=FlatDepth(), retry=["image:missing"], on_progress=stop)
    with pytest.raises(UsageError, match="got boxes"):
        build(config, out, depth=FlatDepth(), retry=["boxes"])
    done = build(config, out, depth=FlatDepth(), retry=["image:missing"])
    assert (done.earlier, done.accepted, done.rejected) == (6, 0, 0)
    assert is_complete(out)
    done = build(config, out, depth=FlatDepth(), retry=["image:missing"])
    assert (done.earlier, done.rejected) == (4, 2)


def test_more_unreadable_images_than_may_come_in_a_row_are_rejected_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sifthinker.training.data.runner.GONE_IN_A_ROW", 2)
    path, out = questions(tmp_path / "source", 6), tmp_path / "out"
    for number in (1, 2, 4):
        Fault(monkeypatch, f"{number}.png", errno.EIO)
    done = build(config_for(path, concurrency=1), out, depth=FlatDepth(), give_up=True)
    assert (done.accepted, done.rejected) == (3, 3)


class Disk:
    """The disk, full after so many writes of any kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "link")):
            monkeypatch.setattr(owner, name, self._bounded(getattr(owner, name)))

    def _bounded(self, real):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            self.room -= 1
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call


def test_a_disk_that_fills_up_anywhere_loses_nothing_that_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = questions(tmp_path / "s", 5)
    built(path, tmp_path / "whole", shard_size=2, concurrency=1)
    whole = contents(tmp_path / "whole")
    rounds = 0
    for room in count(0, 5):
        out = tmp_path / f"out{room}"
        with monkeypatch.context() as patch:
            Disk(patch, room)
            try:
                built(path, out, shard_size=2, concurrency=1)
                break
            except DataError as error:
                said = str(error)
        assert "No space left" in said
        assert "same command again" in said
        assert not is_complete(out)
        assert not list(out.rglob(f"*{PART}"))
        built(path, out, shard_size=2, concurrency=1)
        assert contents(out) == whole
        rounds += 1
    assert rounds > 6


def test_a_file_that_may_not_grow_is_told_in_a_sentence(tmp_path: Path) -> None:
    """A real limit of the system's: no file of the process may exceed 3,000 bytes."""
    questions(tmp_path / "s", 4)
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "from sifthinker.agent.cli import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    assert resource.RLIMIT_FSIZE
    arguments = ["data", "build", "out", "--source", "jsonl:s/questions.jsonl", "--depth", "none"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("sifthinker: ")
    assert "finished samples are kept" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert len(built(tmp_path / "s/questions.jsonl", tmp_path / "out", depth="none")) == 4


def test_a_shard_that_is_damaged_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    built(questions(tmp_path / "s", 2), out)
    (shard,) = (out / "records").iterdir()
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        list(read_records(out))


def test_only_a_bad_name_can_be_the_name_of_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="name of no file"):
        inside(tmp_path, "x" * 300)
    source = tmp_path / "source"
    source.mkdir()
    Fault(monkeypatch, "a.png", errno.EIO)
    with pytest.raises(DataError, match=r"cannot be looked for \(Input/output error\)"):
        inside(source, "a.png")


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "images/../../x.png", "C:/x"])
def test_no_record_names_a_file_outside_its_folder(name: str, tmp_path: Path) -> None:
    (record,) = built(questions(tmp_path / "s", 1), tmp_path / "out")
    fields = record.model_dump(mode="json")
    for changed in ({"rgb": name}, {"depth_map": name}, {"images": [name]}):
        with pytest.raises(ValueError, match="relative"):
            Record.model_validate({**fields, **changed})


def test_a_link_in_a_data_set_does_not_lead_out_of_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (record,) = built(questions(tmp_path / "s", 1), out)
    secret = noise(tmp_path / "secret.png")
    (out / record.rgb).unlink()
    (out / record.rgb).symlink_to(secret)
    with pytest.raises(DataError, match="leads out"):
        open_image(out, record.rgb)


def test_memory_does_not_grow_with_the_number_of_records(tmp_path: Path) -> None:
    def held(number: int) -> int:
        """Bytes that a build holds when its last sample is finished."""
        path = questions(tmp_path / f"s{number}", number, size=(16, 16))
        now: list[int] = []

        def measure(done: Progress) -> None:
            if done.accepted == number:
                gc.collect()
                now.append(tracemalloc.get_traced_memory()[0])

        tracemalloc.start()
        build(config_for(path, shard_size=20), tmp_path / f"out{number}", depth=FlatDepth(), on_progress=measure)
        tracemalloc.stop()
        return now[0]

    held(20)  # what is loaded once
    assert held(400) - held(100) < 300 * 1500  # a record alone is some 6,000 bytes; pydantic remembers short strings


def test_every_row_of_the_build_description_is_json(tmp_path: Path) -> None:
    built(questions(tmp_path / "s", 1), tmp_path / "out")
    told = json.loads((tmp_path / "out/build.json").read_text())
    assert told["complete"] is True
    assert told["made_of"]["expansion"]["steps"] == 5
    assert len(told["made_of"]["sources"][0]["sha256"]) == 64
