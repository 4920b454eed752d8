"""TRL reads a folder of records as it is: SFT's collator its messages, GRPO its prompt, each with two images."""

import json
import sys
from pathlib import Path

import pytest
from building import FlatDepth, built, config_for, questions

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.errors import DataError
from sifthinker.training.data.build import build
from sifthinker.training.data.load import training_set
from sifthinker.training.data.runner import Progress
from sifthinker.training.rewards import answer_reward, depth_reward, format_reward, grounding_reward

pytest.importorskip("datasets")


def test_rows_bring_their_images_and_what_the_rewards_need(tmp_path: Path) -> None:
    records = built(questions(tmp_path / "s", 5), tmp_path / "out", shard_size=2)
    data = training_set(tmp_path / "out", depth=True)
    assert len(data) == 5
    assert [row["id"] for row in data] == [record.id for record in records]
    row = data[3]
    assert [image.mode for image in row["images"]] == ["RGB", "RGB"]
    assert isinstance(row["depth"], DepthMap)
    batch = data[:5]
    columns = {name: batch[name] for name in ("answer", "options", "boxes", "depth")}
    completions = [[{"role": "assistant", "content": record.trace}] for record in records]
    asked = {"prompts": batch["prompt"], "completions": completions}
    assert format_reward(**asked, **columns) == [1.0] * 5
    assert answer_reward(**asked, **columns) == [1.0] * 5
    assert all(reward > 1 for reward in grounding_reward(**asked, **columns))
    assert depth_reward(**asked, **columns) == [1.0] * 5


def test_a_row_that_leads_out_of_the_folder_is_not_opened(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (record,) = built(questions(tmp_path / "s", 1), out)
    (out / record.rgb).unlink()
    (out / record.rgb).symlink_to(tmp_path / "s/images/0.png")
    with pytest.raises(DataError, match="leads out"):
        training_set(out)[0]


def test_a_folder_of_rejects_alone_says_where_the_reasons_are(tmp_path: Path) -> None:
    source = questions(tmp_path / "s", 2)
    rows = [json.loads(line) | {"boxes": [[7, 7, 1, 1]]} for line in source.read_text(encoding="utf-8").splitlines()]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert not built(source, tmp_path / "out")
    with pytest.raises(DataError, match="no accepted record: `sifthinker data stats"):
        training_set(tmp_path / "out")


def test_a_shard_of_which_everything_was_rejected_is_passed_over(tmp_path: Path) -> None:
    source = questions(tmp_path / "s", 4)
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    for row in rows[:2]:
        row["boxes"] = [[7, 7, 1, 1]]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert len(built(source, tmp_path / "out", shard_size=2)) == 2
    assert len(training_set(tmp_path / "out")) == 2


def test_an_unfinished_build_is_not_trained_on_without_a_word(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.accepted == 3:
            raise Enough

    path, out = questions(tmp_path / "s", 5), tmp_path / "out"
    config = config_for(path, shard_size=2, concurrency=1)
    with pytest.raises(Enough):
        build(config, out, depth=FlatDepth(), on_progress=stop)
    with pytest.raises(DataError, match="not complete: `sifthinker data build` ended too early"):
        training_set(out)
    assert len(training_set(out, allow_partial=True)) == 2
    build(config, out, depth=FlatDepth())
    assert len(training_set(out)) == 5


@pytest.mark.slow
def test_trl_takes_both_kinds_of_row(tmp_path: Path) -> None:
    from transformers import AutoProcessor
    from trl.data_utils import is_conversational, prepare_multimodal_messages
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    sys.path.insert(0, str(Path(__file__).parents[2] / "policy"))
    try:
        import tiny_models
    finally:
        sys.path.pop(0)
    tiny_models.build_qwen3_vl(tmp_path / "tiny")
    processor = AutoProcessor.from_pretrained(tmp_path / "tiny")
    built(questions(tmp_path / "s", 2, size=(96, 64)), tmp_path / "out")
    data = training_set(tmp_path / "out")
    batch = DataCollatorForVisionLanguageModeling(processor)([data[0], data[1]])
    assert batch["input_ids"].shape[0] == 2
    assert len(batch["image_grid_thw"]) == 4
    text = processor.tokenizer.decode(batch["input_ids"][0])
    assert "Original image: " in text
    assert "<answer>thing 0</answer>" in text
    row = data[0]
    assert is_conversational({"prompt": row["prompt"]})
    (turn,) = prepare_multimodal_messages(row["prompt"], images=row["images"])
    assert [part["type"] for part in turn["content"]] == ["text", "image", "text", "image", "text"]
    assert turn["content"][1]["image"] is row["images"][0]
