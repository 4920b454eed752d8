"""The depth network of the block world: it learns, it goes on after a break unharmed, and what ships is good."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sifthinker.nodes.depth import DepthMap, FixedDepth, load_depth
from sifthinker.nodes.depth_anything import DepthAnythingV2, DepthConfig
from sifthinker.policy.errors import DepthError
from sifthinker.training.depth import DepthTraining, depth_loss, train_depth
from sifthinker.training.depth_cli import app
from sifthinker.training.depth_data import draw_batch, measure_depth, render_scenes, shrink_depth
from sifthinker.training.world.render import render
from sifthinker.training.world.scene import make_scene, scene_seed

TINY = DepthConfig(
    width=32,
    blocks=4,
    heads=2,
    taken=(0, 1, 2, 3),
    patch_px=16,
    grid=4,
    channels=(8, 8, 16, 16),
    features=16,
    head_channels=8,
    normalise="none",
)
QUICK = DepthTraining(steps=40, batch_size=4, scenes=8, warmup_steps=5, ema_decay=0.9, checkpoint_every=20)


def test_the_loss_falls_and_the_network_is_written_as_it_is(tmp_path: Path) -> None:
    losses: list[float] = []
    trained = train_depth(tmp_path, settings=QUICK, network=TINY, on_step=lambda _, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    loaded = DepthAnythingV2.from_pretrained(tmp_path)
    assert loaded.config == TINY
    image = render(make_scene(scene_seed("val", 0, 0))).image
    assert np.abs(loaded.predict(image).array - trained.predict(image).array).max() < 5e-3  # kept in half precision


def test_a_broken_off_training_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken = train_depth(tmp_path / "one", settings=QUICK, network=TINY)

    class Killed(Exception):
        pass

    def kill(step: int, _: float) -> None:
        if step == 33:
            raise Killed

    with pytest.raises(Killed):
        train_depth(tmp_path / "two", settings=QUICK, network=TINY, on_step=kill)
    steps: list[int] = []
    resumed = train_depth(tmp_path / "two", settings=QUICK, network=TINY, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(21, 41))
    for one, two in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    few = QUICK.model_copy(update={"steps": 1})
    train_depth(tmp_path, settings=few, network=TINY)
    with pytest.raises(DepthError, match="other settings"):
        train_depth(tmp_path, settings=QUICK, network=TINY)


def test_the_loss_is_nothing_for_the_truth_and_more_for_a_nearer_miss() -> None:
    near, far = torch.full((1, 8, 8), 0.1), torch.full((1, 8, 8), 0.8)
    assert depth_loss(near, near) == 0
    assert depth_loss(near + 0.05, near) > depth_loss(far + 0.05, far)


def test_a_batch_keeps_pictures_and_their_depth_together() -> None:
    rgb, depth = render_scenes(3, 48, seed=0)
    pixels, target = draw_batch(rgb, depth, np.random.default_rng(0), 16)
    assert pixels.shape == (16, 3, 48, 48)
    for one in target:
        given = [abs(one.numpy() - known / 65535) for known in (*depth, *depth[:, :, ::-1])]
        assert min(difference.max() for difference in given) < 1e-4


def test_shrunk_depth_has_no_depths_that_the_scene_has_not() -> None:
    depth = np.zeros((8, 8), np.float32)
    depth[:, 5:] = 1
    assert set(np.unique(shrink_depth(depth, 4))) <= {0.0, 0.5, 1.0}
    assert shrink_depth(depth, 3).shape == (3, 3)


def test_the_measure_gives_no_error_to_the_truth() -> None:
    class Truth:
        name = "truth"

        def __init__(self) -> None:
            self.asked = 0

        def predict(self, image: object) -> DepthMap:
            self.asked += 1
            return DepthMap(render(make_scene(scene_seed("test", 5, self.asked - 1))).depth)

    scores = measure_depth(Truth(), split="test", count=3, seed=5)
    assert scores.abs_rel == scores.mae == scores.object_abs_rel == 0
    flat = measure_depth(FixedDepth(DepthMap(np.full((384, 384), 0.5))), split="test", count=3, seed=5)
    assert flat.abs_rel > 0.2


def test_the_command_trains_and_measures(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["fit", "--out", str(tmp_path), "--steps", "1", "--scenes", "1"])
    assert made.exit_code == 0, made.output
    measured = runner.invoke(app, ["measure", str(tmp_path), "--count", "1"])
    assert measured.exit_code == 0, measured.output
    assert '"abs_rel"' in measured.output


def test_the_shipped_network_is_within_eight_percent_on_scenes_never_seen() -> None:
    folder = Path(str(files("sifthinker.policy.embedded") / "depth"))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_600_000
    estimator = load_depth("embedded")
    assert estimator is not None
    scores = measure_depth(estimator, split="test", count=12, seed=77)
    assert scores.abs_rel <= 0.08
    assert estimator.name == "embedded"
