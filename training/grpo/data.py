"""The questions of a run as rows for TRL: prompt and images as in inference, and what the rewards measure by.

A row's images are what the policy is shown when it is asked (`PolicyProfile.shown_size`), so that it learns on what it
will see. Where vLLM samples, they are also resized as the processor would (`resized`): vLLM has a processor of its own,
which knows nothing of a recipe's `max_pixels`, and both must make the same tokens of them. Rows are made when they are
asked for; a row that a batch holds several times is made once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sifthinker.nodes.depth import DepthMap, load_depth
from sifthinker.nodes.images import load_image
from sifthinker.policy import prompts
from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.errors import UsageError
from sifthinker.policy.messages import ImageKind, ImagePart
from sifthinker.training.data.load import GRPO_COLUMNS, training_set
from sifthinker.training.grpo.recipe import RecordsConfig, ScenesConfig, WorldConfig
from sifthinker.training.world.dataset import QuestionRecord, read_world
from sifthinker.training.world.questions import SceneView, make_question
from sifthinker.training.world.render import render
from sifthinker.training.world.scene import SCENES_PER_SEED, make_scene, scene_seed

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
NEXT_SCENE = 618_033
"""From a scene without a question of a family to the next that is tried; prime to `SCENES_PER_SEED`: all are met."""
KEPT_ROWS = 64
"""Rows at hand: TRL asks for a batch again for each pass over it."""


def load_rows(
    config: ScenesConfig | WorldConfig | RecordsConfig, profile: PolicyProfile, *, resized: bool = False, seed: int = 0
) -> Dataset:
    """The rows of a run: prompt, images, id, question, answer, options, boxes, depth.

    Args:
        config: where questions come from.
        profile: of the policy that is asked.
        resized: leave no processor anything to resize.
        seed: draws the records where the config takes only so many of them.

    Raises:
        UsageError, DataError: there are none.
    """
    from datasets import Dataset

    if isinstance(config, RecordsConfig):
        return _records(config, profile, resized=resized, seed=seed)
    make: Callable[[int], Row]
    if isinstance(config, WorldConfig):
        records, folder = read_world(config.path), config.path
        count = len(records)

        def make(index: int) -> Row:
            return world_row(records[index], folder, profile, resized=resized)
    else:
        scenes, count = Scenes(config, profile, resized=resized), config.count
        make = scenes.row
    remembered = _Remembering(make)
    return Dataset.from_dict({"index": list(range(count))}).with_transform(remembered)


class Scenes:
    """Questions of the block world, made when they are asked for: the same index gives the same row."""

    def __init__(self, config: ScenesConfig, profile: PolicyProfile, *, resized: bool = False) -> None:
        self.config = config
        self.profile = profile
        self.resized = resized
        self._estimator = load_depth("embedded") if config.depth == "embedded" else None

    def row(self, index: int) -> Row:
        """The row of an index. Families come in turn; a scene without a question of its family gives way to another."""
        config = self.config
        family = config.families[index % len(config.families)]
        for attempt in range(1000):
            number = scene_seed("train", config.seed, (index + attempt * NEXT_SCENE) % SCENES_PER_SEED)
            rng = np.random.default_rng([number, attempt, 3])
            scene = make_scene(number)
            view = SceneView(scene, render(scene, config.size))
            question = make_question(view, family, rng)
            if question is not None:
                break
        else:
            raise UsageError(f"No scene of seed {config.seed} has a question of family {family!r}: name another seed.")
        rgb = Image.fromarray(view.render.rgb)
        options = list(question.options)
        rng.shuffle(options)
        return row_of(
            profile=self.profile,
            name=f"train-{config.seed}-{index:06d}",
            question=question.text,
            options=options,
            answer=question.answer,
            family=family,
            boxes=[list(target.box) for target in question.targets],
            rgb=rgb,
            depth=self._depth(view.render.depth, rgb, rng),
            resized=self.resized,
        )

    def _depth(self, exact: np.ndarray, rgb: Image.Image, rng: np.random.Generator) -> DepthMap:
        if self._estimator is not None:
            return self._estimator.predict(rgb)
        if self.config.depth == "mixed" and rng.random() < 0.5:
            return DepthMap(softened(exact, rng), source="softened")
        return DepthMap(exact, source="exact")


def softened(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An exact depth map (H, W) as an estimator would give it: edges softened, the scale a little off."""
    height, width = depth.shape
    shrink = int(rng.integers(4, 9))
    small = Image.fromarray(depth).resize((width // shrink, height // shrink), Image.Resampling.BILINEAR)
    soft = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(soft * rng.normal(1.0, 0.02) + rng.normal(0.0, 0.008), 0.0, 1.0)


def world_row(record: QuestionRecord, folder: Path, profile: PolicyProfile, *, resized: bool = False) -> Row:
    """The row of a question of a world's folder."""
    return row_of(
        profile=profile,
        name=record.id,
        question=record.question,
        options=record.options,
        answer=record.answer,
        family=record.family,
        boxes=[list(target.bbox_2d) for target in record.boxes],
        rgb=load_image(folder / record.image).image,
        depth=DepthMap.from_png16(folder / record.depth),
        resized=resized,
    )


def row_of(
    *,
    profile: PolicyProfile,
    name: str,
    question: str,
    options: Sequence[str],
    answer: str,
    family: str,
    boxes: list[list[float]],
    rgb: Image.Image,
    depth: DepthMap | None,
    resized: bool = False,
) -> Row:
    """A row: what the policy is asked, in the words and images of inference, and what it is measured by."""
    picture = depth.picture() if depth is not None and profile.uses_depth_image else None
    asked = prompts.first_turn(question, rgb=rgb, depth=picture, options=options or None)
    content: list[dict[str, str]] = []
    images: list[Image.Image] = []
    for part in asked.parts:
        if isinstance(part, ImagePart):
            content.append({"type": "image"})
            images.append(as_shown(part.image, part.kind, profile, resized=resized))
        elif content and content[-1]["type"] == "text":
            content[-1] = {"type": "text", "text": content[-1]["text"] + part.text}
        else:
            content.append({"type": "text", "text": part.text})
    return {
        "prompt": [{"role": "user", "content": content}],
        "images": images,
        "id": name,
        "question": question,
        "answer": answer,
        "options": list(options) or None,
        "family": family,
        "boxes": boxes,
        "depth": depth,
    }


def as_shown(image: Image.Image, kind: ImageKind, profile: PolicyProfile, *, resized: bool = False) -> Image.Image:
    """An image at the size at which the policy is shown it: what `policy.encoding` does when it is asked.

    With `resized` also what the processor does then, as far as the profile tells.
    """
    final = profile.resized_size(image.size, kind) if resized else None
    image = image if image.mode == "RGB" else image.convert("RGB")
    size = profile.shown_size(image.size, kind)
    if size != image.size:
        smaller = max(size) < max(image.size)
        image = image.resize(size, Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC)
    return image if final in (None, size) else image.resize(final, Image.Resampling.BICUBIC)


def _records(config: RecordsConfig, profile: PolicyProfile, *, resized: bool, seed: int) -> Dataset:
    """The rows of a folder of records, their images as they are shown."""
    data = training_set(config.path, columns=[*GRPO_COLUMNS, "family"], depth=True)
    opened = data.format["format_kwargs"]["transform"]

    def shown(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = opened(batch)
        kinds: tuple[ImageKind, ...] = ("rgb", "depth")
        rows["images"] = [
            [as_shown(image, kind, profile, resized=resized) for image, kind in zip(images, kinds, strict=False)]
            for images in rows["images"]
        ]
        rows["options"] = [list(options) or None for options in rows["options"]]
        rows["prompt"] = [[_plain(turn) for turn in prompt] for prompt in rows["prompt"]]
        return rows

    if config.limit is not None and config.limit < len(data):  # not the first: shards follow their sources in order
        drawn = np.random.default_rng(seed).permutation(len(data))[: config.limit]
        data = data.select(np.sort(drawn))
    return data.with_transform(_Once(shown))


def _plain(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn without the empty fields that a table gives each of its parts."""
    parts = [{key: value for key, value in part.items() if value is not None} for part in turn["content"]]
    return {"role": turn["role"], "content": parts}


class _Remembering:
    """A transform of a data set: rows by their index, each made once as long as it is at hand."""

    def __init__(self, make: Callable[[int], Row]) -> None:
        self._make = make
        self._rows: OrderedDict[int, Row] = OrderedDict()

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = [self._row(index) for index in batch["index"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _row(self, index: int) -> Row:
        if index not in self._rows:
            self._rows[index] = self._make(index)
            while len(self._rows) > KEPT_ROWS:
                self._rows.popitem(last=False)
        self._rows.move_to_end(index)
        return self._rows[index]


class _Once:
    """A transform that makes each of a batch's rows once, however often the batch holds it."""

    def __init__(self, transform: Callable[[dict[str, list[Any]]], dict[str, list[Any]]]) -> None:
        self._transform = transform

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids = batch["id"]
        first = {name: index for index, name in reversed(list(enumerate(ids)))}
        wanted = sorted(first.values())
        made = self._transform({key: [values[index] for index in wanted] for key, values in batch.items()})
        at = {ids[index]: place for place, index in enumerate(wanted)}
        return {key: [values[at[name]] for name in ids] for key, values in made.items()}
