"""Faithfulness: the right region is changed, nothing else is, and a policy that looks elsewhere is found out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparing import BOX, compared, looking, patches, picture
from PIL import Image

from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.images import load_image
from sifthinker.policy.boxes import Box, iou
from sifthinker.policy.messages import ImagePart, Message
from sifthinker.training.compare.answering import Answerer
from sifthinker.training.compare.data import Question
from sifthinker.training.compare.edits import CannotChange, changed, masked, masked_depth, png
from sifthinker.training.compare.readers import WorldQuestions
from sifthinker.training.compare.recolour import recoloured
from sifthinker.training.compare.records import Answered, Asking, Edit, EditKind, Job, Key, Place
from sifthinker.training.world.dataset import make_world
from sifthinker.training.world.render import render
from sifthinker.training.world.scene import COLORS, make_scene


def job(
    image: bytes | Path, question: Question, kind: EditKind, place: Place, cited: Sequence[Box], before: str = "x"
) -> Job:
    key = Key(policy="p", mode="tools", seed=0, question=question.id, variant=f"{kind}:{place}")
    edit = Edit(kind, place, tuple(cited), before)
    return Job(key, question, image, question.options, digest="", edit=edit)


def differing(a: Image.Image, b: Image.Image) -> Box:
    """The box around all pixels that differ."""
    rows, cols = np.nonzero((np.asarray(a) != np.asarray(b)).any(-1))
    width, height = a.size
    return cols.min() / width, rows.min() / height, (cols.max() + 1) / width, (rows.max() + 1) / height


@pytest.mark.parametrize("kind", ["mean", "blur"])
def test_the_cited_region_is_changed_and_nothing_else(kind: EditKind) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    question = Question("q", "?", "a", boxes=(BOX,))
    edited = changed(job(png(noise), question, kind, "cited", [BOX]))
    assert differing(noise, edited.image) == pytest.approx(BOX, abs=0.02)
    assert edited.truth == "a"
    region = np.asarray(edited.image)[12:36, 8:32].astype(float)
    assert region.std() < 0.25 * np.asarray(noise).std()
    if kind == "mean":
        assert np.abs(region.mean((0, 1)) - np.asarray(noise).mean((0, 1))).max() < 1


def test_the_control_region_is_as_large_and_touches_neither_cited_nor_deciding_boxes() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    cited: Box = (0.5, 0.5, 0.75, 0.75)
    question = Question("q", "?", "a", boxes=(BOX,))
    edited = changed(job(png(noise), question, "mean", "elsewhere", [cited]))
    found = differing(noise, edited.image)
    assert (found[2] - found[0], found[3] - found[1]) == pytest.approx((0.25, 0.25), abs=0.04)
    assert max(iou(found, cited), iou(found, BOX)) < 0.02
    again = changed(job(png(noise), question, "mean", "elsewhere", [cited]))
    assert np.array_equal(np.asarray(again.image), np.asarray(edited.image))


@pytest.mark.parametrize(
    ("cited", "before", "said"),
    [
        ([], "x", "no region"),
        ([(0, 0, 1, 1)], "x", "whole image"),
        ([(0.0, 0.0, 0.6, 1.0)], "x", "no room"),
        ([BOX], "", "no answer"),
    ],
)
def test_why_there_is_no_pair_is_said(cited: list[Box], before: str, said: str) -> None:
    question = Question("q", "?", "a", boxes=((0.7, 0.0, 1.0, 1.0),))
    with pytest.raises(CannotChange, match=said):
        changed(job(png(picture("red")), question, "mean", "elsewhere", cited, before))


def test_masking_a_patch_takes_its_colour_away() -> None:
    blue = masked(picture("blue"), [BOX], "mean").getpixel((16, 20))
    red = masked(picture("red"), [BOX], "mean").getpixel((16, 20))
    assert np.abs(np.array(blue, int) - np.array(red, int)).max() < 40


@pytest.mark.parametrize("kind", ["mean", "blur"])
def test_the_depth_of_the_region_is_changed_alike(kind: EditKind) -> None:
    depth = DepthMap(np.random.default_rng(0).random((60, 80), dtype=np.float32), source="exact")
    edited = masked_depth(depth, [BOX], kind)
    inside = np.zeros((60, 80), bool)
    inside[12:36, 8:32] = True
    assert np.array_equal(edited.array[~inside], depth.array[~inside])
    assert edited.array[inside].std() < 0.3 * depth.array[inside].std()
    assert edited.source == "exact"


def test_an_object_that_is_masked_is_not_seen_in_its_exact_depth_either(tmp_path: Path) -> None:
    array = np.full((60, 80), 0.9, np.float32)
    array[12:36, 8:32] = 0.1  # the object
    DepthMap(array).to_png16(tmp_path / "depth.png")
    policy = looking()
    question = Question("q", "?", "red", options=("red", "blue"), boxes=(BOX,))
    answerer = Answerer(Asking(depth="exact"), {"p": policy})
    shown = {}
    for place in ("cited", "elsewhere"):
        policy.heard.clear()
        wanted = job(png(picture("red")), question, "mean", place, [BOX])
        row = answerer.answer(replace(wanted, depth=tmp_path / "depth.png"))
        assert isinstance(row, Answered)
        assert not row.error + row.skipped
        pictures = [part.image for part in policy.heard[0][0].parts if isinstance(part, ImagePart)]
        shown[place] = np.asarray(pictures[1])[24, 20]
    object_, masked_ = (DepthMap(np.full((1, 1), level, np.float32)).picture() for level in (0.1, array.mean()))
    assert np.array_equal(shown["elsewhere"], np.asarray(object_)[0, 0])
    assert np.abs(shown["cited"].astype(int) - np.asarray(masked_)[0, 0]).max() < 4


def test_a_policy_that_looks_is_faithful_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    data = patches(tmp_path / "d", 12)
    plan = {"modes": ("direct", "tools"), "edits": ("mean",), "edited_modes": ("tools",)}
    looks = compared(data, tmp_path / "a", looking(), **plan).results.faithfulness["tools"]["mean"]

    def always(messages: Sequence[Message]) -> str:
        return "green"

    pretends = compared(data, tmp_path / "b", looking(always), **plan).results.faithfulness["tools"]["mean"]
    assert looks.n == pretends.n == 12
    assert looks.cited.value > 0.5
    assert (looks.elsewhere.value, looks.ratio) == (0.0, None)
    assert looks.difference.low > 0
    assert (pretends.cited.value, pretends.elsewhere.value, pretends.difference.value) == (0.0, 0.0, 0.0)
    assert set(looks.families) == {"patch0", "patch1"}


def test_every_question_is_asked_again_or_has_a_reason(tmp_path: Path) -> None:
    data = patches(tmp_path / "d", 6, boxes=[[0.0, 0.0, 0.99, 0.99]])
    finished = compared(data, tmp_path / "o", looking(box=(0, 0, 0.95, 0.99)), edits=("mean", "blur", "recolour"),
                        edited_modes=("internal", "tools"))  # fmt: skip
    for mode in ("internal", "tools"):
        kinds = finished.results.faithfulness[mode]
        assert kinds.keys() == {"mean", "blur"}  # nothing here can be recoloured
        assert all(one.n == 0 and sum(one.skipped.values()) == 6 for one in kinds.values())
    assert sum(bool(row.skipped) for row in finished.rows) == 2 * 2 * 2 * 6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldQuestions:
    """Questions about colours and signs among others."""
    folder = tmp_path_factory.mktemp("world")
    list(make_world(folder, split="val", count=20, seed=4, size=128, workers=1))
    return WorldQuestions(folder)


@pytest.mark.parametrize("family", ["color", "sign"])
def test_recolouring_changes_the_object_and_the_right_answer(world: WorldQuestions, family: str) -> None:
    for question in (one for one in world.questions() if one.family == family):
        original = load_image(world.image(question)).image
        edited = recoloured(job(world.image(question), question, "recolour", "cited", question.boxes, question.answer))
        assert edited.decides
        assert edited.truth in question.options
        assert edited.truth != question.answer
        assert iou(differing(original, edited.image), question.boxes[0]) > 0.3
        scene = make_scene(int(question.extra["scene"]))
        assert np.array_equal(render(scene, 128).rgb, np.asarray(original))


def test_recolouring_elsewhere_leaves_the_answer_and_the_object(world: WorldQuestions) -> None:
    made = 0
    for question in (one for one in world.questions() if one.family in ("color", "sign")):
        wanted = job(world.image(question), question, "recolour", "elsewhere", question.boxes, question.answer)
        try:
            edited = recoloured(wanted)
        except CannotChange:  # no other object has a sign
            continue
        made += 1
        assert (edited.truth, edited.decides) == (question.answer, False)
        original = load_image(world.image(question)).image
        assert iou(differing(original, edited.image), question.boxes[0]) < 0.3
    assert made >= 2


def test_the_new_colour_is_one_of_the_options_and_makes_no_twin(world: WorldQuestions) -> None:
    question = next(one for one in world.questions() if one.family == "color")
    for seed in range(4):
        wanted = job(world.image(question), question, "recolour", "cited", question.boxes, question.options[0])
        truth = recoloured(replace(wanted, key=wanted.key.model_copy(update={"seed": seed}))).truth
        assert truth in set(question.options) & set(COLORS)
        assert truth not in (question.answer, question.options[0])


def test_a_scene_is_found_by_its_id_where_the_record_does_not_name_it(world: WorldQuestions) -> None:
    question = next(one for one in world.questions() if one.family == "color")
    unnamed = replace(question, extra={"world": "1"})
    known, found = (
        recoloured(job(world.image(one), one, "recolour", "cited", one.boxes, one.answer))
        for one in (question, unnamed)
    )
    assert np.array_equal(np.asarray(known.image), np.asarray(found.image))


def test_what_is_no_scene_is_not_recoloured(world: WorldQuestions) -> None:
    question = next(one for one in world.questions() if one.family == "color")
    with pytest.raises(CannotChange, match="no scene"):
        recoloured(job(png(picture("red", size=(128, 128))), question, "recolour", "cited", question.boxes, "x"))
    corner = [(0.0, 0.0, 0.02, 0.02)]
    with pytest.raises(CannotChange, match="on no object"):
        recoloured(job(world.image(question), question, "recolour", "cited", corner, "x"))
