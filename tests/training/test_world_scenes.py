"""The block world: deterministic, exact, and every question answerable from what is seen."""

import re

import numpy as np
import pytest

from sifthinker.policy.boxes import WHOLE, hull
from sifthinker.policy.trace import parse, render
from sifthinker.training.world.questions import FAMILIES, MAX_COUNT, SceneView, make_question, make_questions
from sifthinker.training.world.render import render as render_scene
from sifthinker.training.world.scene import MIN_VISIBLE, make_scene, scene_seed
from sifthinker.training.world.shading import GROUND
from sifthinker.training.world.traces import ExpansionConfig, make_trace, mean_depth


@pytest.fixture(scope="module")
def views() -> list[SceneView]:
    scenes = [make_scene(scene_seed("val", 0, index)) for index in range(25)]
    return [SceneView(scene, render_scene(scene, 192)) for scene in scenes]


def test_a_seed_always_makes_the_same_pixels() -> None:
    one, two = (render_scene(make_scene(123), 96) for _ in range(2))
    assert np.array_equal(one.rgb, two.rgb)
    assert np.array_equal(one.depth, two.depth)
    assert one.boxes == two.boxes


def test_splits_never_share_a_seed() -> None:
    last = 999_999
    assert scene_seed("train", last, last) < scene_seed("val", 0, 0)
    assert scene_seed("val", last, last) < scene_seed("test", 0, 0)
    assert scene_seed("train", 3, last) < scene_seed("train", 4, 0)


@pytest.mark.parametrize(("split", "seed", "index"), [("dev", 0, 0), ("train", -1, 0), ("train", 0, 1_000_000)])
def test_a_seed_out_of_range_is_refused(split: str, seed: int, index: int) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        scene_seed(split, seed, index)  # type: ignore[arg-type]


def test_boxes_hold_exactly_the_pixels_of_their_object(views: list[SceneView]) -> None:
    for view in views:
        size = len(view.render.ids)
        for index, box in enumerate(view.render.boxes):
            assert box is not None
            x0, y0, x1, y1 = (round(edge * size) for edge in box)
            mask = view.render.ids == index
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            for edge in (mask[y0, x0:x1], mask[y1 - 1, x0:x1], mask[y0:y1, x0], mask[y0:y1, x1 - 1]):
                assert edge.any()


def test_every_object_is_plainly_visible_and_its_name_unique(views: list[SceneView]) -> None:
    for view in views:
        names = [obj.name for obj in view.scene.objects]
        assert len(set(names)) == len(names) >= 3
        assert min(view.render.visible) >= MIN_VISIBLE - 0.1  # the limit is checked on a coarser picture


def test_depth_grows_up_the_ground_and_is_less_on_objects_than_behind_them(views: list[SceneView]) -> None:
    for view in views:
        depth, ids = view.render.depth, view.render.ids
        assert depth.min() >= 0
        assert depth.max() <= 1
        for column in range(0, 192, 31):
            ground = depth[:, column][ids[:, column] == GROUND]
            assert (np.diff(ground) <= 1e-6).all()  # rows run downwards, towards the camera
        for target in view.targets:
            x0, y0, x1, _ = (round(edge * 192) for edge in target.box)
            if y0 > 2 and (ids[y0 - 2, x0:x1] == GROUND).all():
                assert view.surface_depth(target) < depth[y0 - 2, x0:x1].min()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_is_among_the_options_and_follows_from_the_scene(views: list[SceneView], family: str) -> None:
    rng = np.random.default_rng(0)
    asked = 0
    for view in views:
        question = make_question(view, family, rng)
        if question is None:
            continue
        asked += 1
        assert question.options.count(question.answer) == 1
        assert len(set(question.options)) == len(question.options)
        objects = [view.scene.objects[target.index] for target in question.targets]
        near = [view.surface_depth(target) for target in question.targets]
        middle = [target.box[0] + target.box[2] for target in question.targets]
        if family in ("closer", "farther"):
            wanted = min(near) if family == "closer" else max(near)
            assert question.answer == objects[near.index(wanted)].name
        elif family in ("in_front", "behind"):
            assert (question.answer == "yes") == ((near[0] < near[1]) == (family == "in_front"))
        elif family in ("left", "right") and question.answer in ("yes", "no"):
            assert (question.answer == "yes") == ((middle[0] < middle[1]) == (family == "left"))
        elif family in ("left", "right"):
            wanted = min(middle) if family == "left" else max(middle)
            assert question.answer == objects[middle.index(wanted)].name
        elif family == "count":
            assert question.answer == str(len(objects))
            assert len(objects) <= MAX_COUNT
        else:
            assert question.answer == getattr(objects[0], family)
    assert asked > len(views) / 2


def test_no_answer_can_be_had_without_looking(views: list[SceneView]) -> None:
    """No place among the options, and neither yes nor no, is right much more often than the others."""
    rng = np.random.default_rng(1)
    places: dict[int, list[int]] = {}
    yes = []
    for view in views * 4:
        for question in make_questions(view, 10, rng):
            places.setdefault(len(question.options), []).append(question.options.index(question.answer))
            if question.answer in ("yes", "no"):
                yes.append(question.answer == "yes")
    for options, found in places.items():
        share = np.bincount(found, minlength=options) / len(found)
        assert share.max() < 1 / options + 0.12
    assert 0.38 < np.mean(yes) < 0.62


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_narrows_from_the_whole_image_to_the_answer_boxes(views: list[SceneView], family: str) -> None:
    rng = np.random.default_rng(2)
    for view in views[:8]:
        question = make_question(view, family, rng)
        if question is None:
            continue
        trace = make_trace(view, question, rng, ExpansionConfig(distractor=0.5))
        assert trace.steps[0].boxes[0].bbox_2d == WHOLE
        assert [box.bbox_2d for box in trace.steps[-1].boxes] == [target.box for target in question.targets]
        assert 3 <= len(trace.steps) <= 5
        assert trace.answer == question.answer
        before = hull([box.bbox_2d for box in trace.steps[-2].boxes])
        after = hull([box.bbox_2d for box in trace.steps[-1].boxes])
        assert before[0] <= after[0]
        assert before[1] <= after[1]
        assert before[2] >= after[2]
        assert before[3] >= after[3]
        for step in trace.steps:
            for box in step.boxes:
                assert box.depth == pytest.approx(mean_depth(view.render.depth, box.bbox_2d))
        assert parse(render(trace, decimals=2)).answer == question.answer


@pytest.mark.parametrize(("family", "place"), [("closer", 0), ("farther", 1), ("left", 0), ("right", 1)])
def test_which_of_two_is_told_by_naming_them_in_order(views: list[SceneView], family: str, place: int) -> None:
    told = re.compile(
        r"At (?:depth|x) (\d\.\d\d) the (.+), at (?:depth|x) (\d\.\d\d) the (.+): the (.+) is (?:further )?(.+)\."
    )
    rng = np.random.default_rng(3)
    seen = 0
    for view in views:
        question = make_question(view, family, rng)
        if question is None or "yes" in question.options:
            continue
        found = told.fullmatch(make_trace(view, question, rng).steps[-1].text)
        assert found is not None
        assert float(found[1]) <= float(found[3])
        assert found[5] == (found[2], found[4])[place] == question.answer
        assert found[6] == family
        seen += 1
    assert seen >= 2


def test_an_unknown_family_is_named(views: list[SceneView]) -> None:
    with pytest.raises(ValueError, match="closer, farther"):
        make_question(views[0], "bigger", np.random.default_rng(0))


def test_no_questions_are_made_where_none_are_wanted() -> None:
    scene = make_scene(5)
    assert make_questions(SceneView(scene, render_scene(scene, 96)), 0, np.random.default_rng(0)) == []
