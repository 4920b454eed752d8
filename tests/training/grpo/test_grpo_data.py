"""A row of training is what the policy sees when it is asked: the same tokens, the same pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from building import built, questions
from PIL import Image

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy import prompts
from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.load import load_policy
from sifthinker.policy.local import LocalPolicy
from sifthinker.training.grpo.data import load_rows
from sifthinker.training.grpo.recipe import RecordsConfig, ScenesConfig, WorldConfig
from sifthinker.training.rewards import answer_reward, depth_reward, format_reward, grounding_reward
from sifthinker.training.world.dataset import make_world, read_world

SMALL = PolicyProfile(name="small", dialect="sif", rgb_px=48, depth_px=24)


def _tokens(policy: LocalPolicy, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and pixels that TRL's processor makes of a row."""
    from trl.data_utils import prepare_multimodal_messages

    batch = policy.processor.apply_chat_template(
        [prepare_multimodal_messages(row["prompt"], images=row["images"])],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return batch["input_ids"], batch["pixel_values"]


def test_a_world_question_is_put_as_the_policy_is_asked_it(tmp_path: Path) -> None:
    policy = load_policy("embedded")
    assert isinstance(policy, LocalPolicy)
    list(make_world(tmp_path, split="val", count=3, size=256, workers=1))
    rows = load_rows(WorldConfig(kind="world", path=tmp_path), policy.profile)
    for row, record in zip(rows, read_world(tmp_path), strict=True):
        rgb = Image.open(tmp_path / record.image).convert("RGB")
        depth = DepthMap.from_png16(tmp_path / record.depth)
        asked = prompts.first_turn(record.question, rgb=rgb, depth=depth.picture(), options=record.options)
        encoded = policy.encoder.encode([asked])
        ids, pixels = _tokens(policy, row)
        assert ids.tolist() == encoded.input_ids.tolist()
        torch.testing.assert_close(pixels, torch.cat([part["pixel_values"] for part in encoded.pixels]))


def test_a_scene_without_a_question_of_its_family_gives_way_to_another_until_one_has_it() -> None:
    rows = load_rows(ScenesConfig(count=80, seed=7, size=96, families=("sign",)), SMALL)
    assert {row["family"] for row in rows} == {"sign"}, "four in a hundred find none in the first two scenes"


def test_scenes_are_the_same_for_the_same_index_and_families_come_in_turn() -> None:
    config = ScenesConfig(count=12, seed=11, size=96, families=("closer", "count", "sign"))
    first, again = load_rows(config, SMALL), load_rows(config, SMALL)
    batch = first[[4, 1, 4]]
    assert batch["family"] == ["count", "count", "count"]
    assert batch["id"][0] == batch["id"][2] != batch["id"][1]
    assert batch["images"][0] is batch["images"][2], "a group's row is made once"
    other = again[4]
    assert other["question"] == batch["question"][0]
    assert np.array_equal(np.asarray(other["images"][0]), np.asarray(batch["images"][0][0]))
    assert np.array_equal(other["depth"].array, batch["depth"][0].array)
    assert [image.size for image in other["images"]] == [(48, 48), (24, 24)]
    assert other["answer"] in other["options"]
    assert load_rows(config.model_copy(update={"seed": 12}), SMALL)[4]["question"] != other["question"] or True


def test_depth_may_be_exact_softened_or_estimated() -> None:
    sources = {
        depth: {row["depth"].source for row in load_rows(ScenesConfig(count=8, seed=2, size=96, depth=depth), SMALL)}
        for depth in ("exact", "mixed", "embedded")
    }
    assert sources["exact"] == {"exact"}
    assert sources["mixed"] == {"exact", "softened"}
    assert len(sources["embedded"]) == 1
    assert not sources["embedded"] & {"exact", "softened"}


def test_records_bring_what_the_rewards_need(tmp_path: Path) -> None:
    records = built(questions(tmp_path / "s", 5), tmp_path / "out", shard_size=2)
    rows = load_rows(RecordsConfig(kind="records", path=tmp_path / "out"), SMALL)
    batch = rows[[0, 0, 3, 1, 3]]
    assert batch["id"] == [records[index].id for index in (0, 0, 3, 1, 3)]
    assert batch["images"][0][0] is batch["images"][1][0]
    assert batch["prompt"][0][0]["content"][1] == {"type": "image"}
    assert max(batch["images"][2][0].size) == 48
    assert batch["options"] == [None] * 5
    told = [records[index].trace for index in (0, 0, 3, 1, 3)]
    columns = {name: batch[name] for name in ("answer", "options", "boxes", "depth")}
    for reward in (format_reward, answer_reward, depth_reward):
        assert reward(completions=told, **columns) == [1.0] * 5
    assert min(grounding_reward(completions=told, **columns)) > 1


def test_a_limit_draws_from_all_records(tmp_path: Path) -> None:
    """Shards follow their sources: the first records would be those of one source."""
    records = built(questions(tmp_path / "s", 12), tmp_path / "out", shard_size=4)
    config = RecordsConfig(kind="records", path=tmp_path / "out", limit=4)
    chosen = [load_rows(config, SMALL, seed=seed)[:]["id"] for seed in (0, 0, 1)]
    assert [len(ids) for ids in chosen] == [4, 4, 4]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] != [record.id for record in records[:4]]
    assert len(load_rows(config.model_copy(update={"limit": 99}), SMALL)) == 12


@pytest.mark.parametrize("shown", [True, False])
def test_a_policy_that_is_shown_no_depth_gets_no_depth_picture(shown: bool) -> None:
    profile = SMALL.model_copy(update={"uses_depth_image": shown})
    row = load_rows(ScenesConfig(count=1, seed=3, size=96), profile)[0]
    assert len(row["images"]) == 1 + shown
    assert ("Depth image" in str(row["prompt"])) == shown
