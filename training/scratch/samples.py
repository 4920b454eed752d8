"""Training samples of the block world: a scene with its images, and branches (questions with what to say to them).

Three kinds of branch after the agent's modes: `direct` (the answer alone), `internal` (the whole trace in one turn)
and `tools` (the trace broken off after each area, with the crop and the measured depth in between). A fourth, `ground`,
is for training alone: short texts that name things and the boxes of what they name, many to a branch. From these the
model learns to find what is named in a tenth of the tokens that traces need for it. A fifth, `verdict`, is the end of a
trace alone: the boxes are given, what follows from them is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedTokenizerFast

from sifthinker.nodes.depth import depth_to_rgb
from sifthinker.policy import prompts
from sifthinker.policy.boxes import Box, area
from sifthinker.policy.trace import AreaBox, Step, Trace, render, render_boxes
from sifthinker.training.scratch.labels import Labeller, Part
from sifthinker.training.scratch.model import CROP_PX, DEPTH_PX, RGB_PX, TOKEN_PX
from sifthinker.training.scratch.pictures import crop_px, estimated, shaken, shown
from sifthinker.training.scratch.tokenizer import IMAGE, TURN_END, TURN_START, VISION_END, VISION_START
from sifthinker.training.world.questions import FAMILIES, SPATIAL_FAMILIES, Question, SceneView, Target, make_questions
from sifthinker.training.world.traces import ExpansionConfig, make_trace, mean_depth, places_of, verdict, wanted

Kind = Literal["ground", "verdict", "direct", "internal", "tools"]
GROUND_PROMPT = "What is where?"
DECIMALS = 2
WHOLE_AREA = 0.9
"""An area that covers this share of the image gets no crop: the policy has those pixels."""
SPATIAL_TOKENS_RGB = (RGB_PX // TOKEN_PX) ** 2


class SampleConfig(BaseModel):
    """What a scene is asked, and how a branch is weighted.

    `jitter_share` of the traces have their expanded boxes moved at random, by `jitter` of their size: what comes after
    then learns to correct a wrong area, and the moved numbers themselves are not learnt. `end_share` of the traces with
    measured depths or given boxes have the boxes of the last area moved, too, by `end_jitter`, and what is said of them
    follows from the moved ones: a policy's own boxes are never quite those of the scene. `sign_crops` are further crops
    of signs, for the auxiliary head alone: characters need many examples. `weight_whole` is that of the whole image's
    box, which is always the same. `weight_conclusion` is that of what a relation's text concludes ("the red cube is
    closer"): a few words among many that are only copied, and the ones that all hangs on. `weight_text` is that of the
    other words: a loss is a weighted mean, so that what is soon learnt, and then only counted, dilutes all else.
    """

    model_config = ConfigDict(extra="forbid")

    ground: int = 1
    ground_names: int = 3
    ground_questions: int = 3
    verdict: int = 4
    direct: int = 2
    internal: int = 2
    tools: int = 1
    families: tuple[str, ...] = FAMILIES
    tools_families: tuple[str, ...] = (*FAMILIES, "sign", "sign", "sign", "sign")
    with_options: float = 0.7
    jitter_share: float = 0.5
    jitter: float = 0.14
    end_share: float = 0.5
    end_jitter: float = 0.05
    depth_noise: float = 0.5
    sign_crops: int = 2
    weight_structure: float = 0.2
    weight_whole: float = 0.1
    weight_answer: float = 3.0
    weight_conclusion: float = 3.0
    weight_text: float = 1.0


@dataclass
class Branch:
    """Token ids, their loss weights (0: not learnt), what each belongs to, the object of the scene that each number of
    an area tells of (-1: none), rotary positions (3, L), crops (h, w, 3) uint8, and for crops the part of the image
    that they show."""

    kind: Kind
    family: str
    ids: list[int]
    weights: list[float]
    parts: list[Part]
    objects: list[int]
    positions: np.ndarray
    crops: list[np.ndarray] = field(default_factory=list)
    crop_boxes: list[Box] = field(default_factory=list)


@dataclass
class SceneSample:
    """A scene as the policy sees it, and its branches."""

    view: SceneView
    rgb: np.ndarray
    depth: np.ndarray
    branches: list[Branch]
    sign_crops: list[tuple[np.ndarray, Box]] = field(default_factory=list)


class SampleMaker:
    """Makes branches in the policy's own tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: SampleConfig | None = None) -> None:
        self.config = config or SampleConfig()
        self.tokenizer = tokenizer
        self.labeller = Labeller(tokenizer, self.config)
        self.image_id = tokenizer.convert_tokens_to_ids(IMAGE)
        per_depth = (DEPTH_PX // TOKEN_PX) ** 2
        images = ((RGB_PX // TOKEN_PX,) * 2, (DEPTH_PX // TOKEN_PX,) * 2)
        self.prefix_ids = self.labeller.tokens(
            f"{TURN_START}user\n{prompts.ORIGINAL_IMAGE}{VISION_START}{IMAGE * SPATIAL_TOKENS_RGB}{VISION_END}"
            f"{prompts.DEPTH_IMAGE}{VISION_START}{IMAGE * per_depth}{VISION_END}"
        )
        self.prefix_positions = self._positions(self.prefix_ids, images, 0)
        self.start = int(self.prefix_positions.max()) + 1

    def sample(self, view: SceneView, rng: np.random.Generator) -> SceneSample:
        """The scene with freshly drawn questions."""
        config = self.config
        depth = view.render.depth
        if rng.random() < config.depth_noise:
            depth = estimated(depth, rng)
        branches = [self._ground(view, rng) for _ in range(config.ground)]
        kinds: tuple[tuple[Kind, int, tuple[str, ...]], ...] = (
            ("verdict", config.verdict, tuple(family for family in config.families if family != "sign")),
            ("direct", config.direct, config.families),
            ("internal", config.internal, config.families),
            ("tools", config.tools, config.tools_families),
        )
        for kind, count, families in kinds:
            for question in make_questions(view, count, rng, families):
                branches.append(self.branch(view, question, kind, rng))
        rgb, picture = shown(view.render.rgb, RGB_PX), shown(depth_to_rgb(depth), DEPTH_PX)
        return SceneSample(view, rgb, picture, branches, self._sign_crops(view, rng))

    def _sign_crops(self, view: SceneView, rng: np.random.Generator) -> list[tuple[np.ndarray, Box]]:
        """Crops around signs, tight to wide."""
        signs = [sign for sign in map(view.sign_target, view.targets) if sign is not None]
        size = len(view.render.rgb)
        crops: list[tuple[np.ndarray, Box]] = []
        for index in rng.permutation(len(signs))[: self.config.sign_crops]:
            x0, y0, x1, y1 = signs[index].box
            grow = rng.uniform(-0.05, 0.6) + rng.normal(0, 0.08, 4)
            around = np.array([x0, y0, x1, y1]) + np.array([-1, -1, 1, 1]) * grow * np.array([x1 - x0, y1 - y0] * 2)
            a, b, c, d = np.clip(around, 0.0, 1.0).tolist()
            x_px, y_px, right, below = crop_px((a, b, c, d), size)
            seen: Box = (x_px / size, y_px / size, right / size, below / size)
            crops.append((shown(view.render.rgb[y_px:below, x_px:right], CROP_PX), seen))
        return crops

    def branch(self, view: SceneView, question: Question, kind: Kind, rng: np.random.Generator) -> Branch:
        """One question and what to say to it."""
        options = question.options if rng.random() < self.config.with_options else None
        asked = "\n" + prompts.question_text(question.text, options)
        asked += prompts.DIRECT_SUFFIX if kind == "direct" else prompts.FOCUS_SUFFIX
        opening = f"{asked}{TURN_END}\n{TURN_START}assistant\n"
        if kind == "direct":
            said = f"<answer>{question.answer}</answer>{TURN_END}"
            return self._finish(kind, question.family, [(opening, False), (said, True)])
        trace = make_trace(view, question, rng, ExpansionConfig())
        moved: set[int] = set()  # areas whose numbers are not learnt
        if kind != "internal" and rng.random() < self.config.end_share:
            trace, moved = self._end_shaken(view, question, trace, rng)
        if kind == "verdict":
            last = Trace(steps=[trace.steps[-1]], answer=trace.answer)
            given, told = render(last, decimals=DECIMALS).split("<text>", 1)
            pieces = [(opening + given, False), (f"<text>{told}{TURN_END}", True)]
            return self._finish(kind, question.family, pieces)
        if rng.random() < self.config.jitter_share:
            # in tool mode the crop of a sign must be readable when its own box is a little off
            until = len(trace.steps) - (question.family != "sign" or kind != "tools")
            trace, before = self._jittered(view, trace, until, rng)
            moved |= before
        # the last two areas are of the objects, expanded and as they are; before: all of the image, a hull, a mistake
        aimed = [target.index for target in question.targets]
        areas: list[list[int]] = [[] for _ in trace.steps[:-2]] + [aimed, aimed]
        if kind == "internal":
            said = render(trace, decimals=DECIMALS) + TURN_END
            return self._finish(kind, question.family, [(opening, False), (said, True)], objects=areas, moved=moved)
        return self._tools(view, question, opening, trace, areas, moved)

    def _ground(self, view: SceneView, rng: np.random.Generator) -> Branch:
        """Objects by name and their boxes, boxes and what they show, questions' objects and what follows from them."""
        depth, config = view.render.depth, self.config

        def boxes_of(targets: Sequence[Target], off: float = 0.0) -> str:
            given = [shaken(target.box, off, rng) for target in targets]
            return render_boxes([AreaBox(bbox_2d=b, depth=mean_depth(depth, b)) for b in given], decimals=DECIMALS)

        items: list[list[tuple[str, bool]]] = []
        told: list[list[list[int]]] = []  # of each item's learnt areas the objects
        for turn, place in enumerate(rng.permutation(len(view.targets))[: config.ground_names]):
            target = view.targets[place]
            if turn == 0:  # what is seen in a given box, which may be a little off
                shown_box = f"<area>{boxes_of([target], off=0.08)}</area>"
                items.append([(shown_box, False), (f"<text>This is the {target.label}.</text>", True)])
                told.append([])
            else:
                named = f"<text>I look for the {target.label}.</text>"
                items.append([(named, False), (f"<area>{boxes_of([target])}</area>", True)])
                told.append([[target.index]])
        for question in make_questions(view, config.ground_questions, rng, config.families):
            names = [f"the {target.label}" for target in question.targets]
            found = f"<area>{boxes_of(question.targets)}</area>"
            item = [(f"<text>I look for {wanted(question)}.</text>", False), (found, True)]
            if _follows(question):
                item.append((f"<text>{verdict(view, question, names)}</text>", True))
            items.append(item)
            told.append([[target.index for target in question.targets]])
        order = rng.permutation(len(items))
        pieces = [(f"\n{GROUND_PROMPT}{TURN_END}\n{TURN_START}assistant\n", False)]
        pieces += [piece for place in order for piece in items[place]]
        return self._finish("ground", "", pieces, objects=[area for place in order for area in told[place]])

    def _tools(
        self,
        view: SceneView,
        question: Question,
        opening: str,
        trace: Trace,
        objects: Sequence[Sequence[int]],
        moved: set[int],
    ) -> Branch:
        pieces: list[tuple[str, bool]] = [(opening, False)]
        crops: list[np.ndarray] = []
        crop_boxes: list[Box] = []
        size = len(view.render.rgb)
        for index, step in enumerate(trace.steps):
            boxes = [_rounded(box) for box in step.boxes]
            lead = "<think>" if index == 0 else f"<text>{trace.steps[index - 1].text}</text>"
            pieces.append((f"{lead}<area>{render_boxes(boxes, decimals=DECIMALS)}</area>", True))
            reply = f"{TURN_END}\n{TURN_START}user\n{prompts.TOOL_OPEN}"
            for box in boxes:
                x0, y0, x1, y1 = crop_px(box.bbox_2d, size)
                seen: Box = (x0 / size, y0 / size, x1 / size, y1 / size)
                measured = AreaBox(bbox_2d=seen, depth=mean_depth(view.render.depth, seen))
                reply += render_boxes([measured], decimals=DECIMALS)
                if area(seen) < WHOLE_AREA:
                    picture = shown(view.render.rgb[y0:y1, x0:x1], CROP_PX)
                    tokens = picture.shape[0] // TOKEN_PX * (picture.shape[1] // TOKEN_PX)
                    reply += f"{VISION_START}{IMAGE * tokens}{VISION_END}"
                    crops.append(picture)
                    crop_boxes.append(seen)
            pieces.append((f"{reply}{prompts.TOOL_CLOSE}{TURN_END}\n{TURN_START}assistant\n", False))
        last = f"<text>{trace.steps[-1].text}</text></think><answer>{trace.answer}</answer>{TURN_END}"
        pieces.append((last, True))
        return self._finish(
            "tools", question.family, pieces, objects=objects, moved=moved, crops=crops, crop_boxes=crop_boxes
        )

    def _finish(
        self,
        kind: Kind,
        family: str,
        pieces: list[tuple[str, bool]],
        *,
        objects: Sequence[Sequence[int]] = (),
        moved: Set[int] = frozenset(),
        crops: Sequence[np.ndarray] = (),
        crop_boxes: Sequence[Box] = (),
    ) -> Branch:
        """A branch of pieces of text, each learnt or not.

        Args:
            kind, family: of the branch.
            pieces: what is said, in order.
            objects: for each learnt area those that its boxes are of.
            moved: learnt areas whose numbers are not learnt.
            crops, crop_boxes: images in the text, and what they show.
        """
        made = self.labeller.label(pieces, whole_first=kind != "ground", objects=objects, moved=moved)
        grids = [(crop.shape[0] // TOKEN_PX, crop.shape[1] // TOKEN_PX) for crop in crops]
        at = self._positions(made.ids, grids, self.start)
        return Branch(kind, family, made.ids, made.weights, made.parts, made.objects, at, list(crops), list(crop_boxes))

    def _jittered(self, view: SceneView, trace: Trace, until: int, rng: np.random.Generator) -> tuple[Trace, set[int]]:
        """The areas between the first and `until`, moved and stretched a little."""
        steps = list(trace.steps)
        moved = set(range(1, until))
        for index in moved:
            boxes = []
            for box in steps[index].boxes:
                new = shaken(box.bbox_2d, self.config.jitter, rng)
                boxes.append(AreaBox(bbox_2d=new, depth=mean_depth(view.render.depth, new)))
            steps[index] = Step(boxes=boxes, text=steps[index].text)
        return Trace(steps=steps, answer=trace.answer), moved

    def _end_shaken(
        self, view: SceneView, question: Question, trace: Trace, rng: np.random.Generator
    ) -> tuple[Trace, set[int]]:
        """The last area moved a little, and what is said of it; as it was where a relation would turn round by it."""
        boxes = [shaken(target.box, self.config.end_jitter, rng) for target in question.targets]
        if question.family in SPATIAL_FAMILIES:
            a, b = places_of(view, question, [target.box for target in question.targets])
            c, d = places_of(view, question, boxes)
            if (a > b) != (c > d):
                return trace, set()
        areas = [AreaBox(bbox_2d=box, depth=mean_depth(view.render.depth, box)) for box in boxes]
        text = verdict(view, question, [f"the {target.label}" for target in question.targets], boxes)
        last = Step(boxes=areas, text=text)
        return Trace(steps=[*trace.steps[:-1], last], answer=trace.answer), {len(trace.steps) - 1}

    def _positions(self, ids: list[int], grids: object, start: int) -> np.ndarray:
        """Rotary positions (3, L): text one by one, an image's tokens by row and column from a common start."""
        out = np.empty((3, len(ids)), np.int64)
        at, index, remaining = start, 0, iter(grids)  # type: ignore[call-overload]
        while index < len(ids):
            if ids[index] != self.image_id:
                out[:, index] = at
                at, index = at + 1, index + 1
                continue
            rows, cols = next(remaining)
            n = rows * cols
            out[0, index : index + n] = at
            out[1, index : index + n] = at + np.repeat(np.arange(rows), cols)
            out[2, index : index + n] = at + np.tile(np.arange(cols), rows)
            at, index = at + max(rows, cols), index + n
        return out


def _follows(question: Question) -> bool:
    """Whether what is said of the question's boxes follows from what a `ground` branch shows.

    It does not where a crop would be needed to read a sign, nor where one of two is to be named: the question, which
    such a branch does not hold, would have to say whether the closer or the farther one. Learnt all the same, that word
    became a guess, and stayed one in the traces.
    """
    chooses = question.family in SPATIAL_FAMILIES and "yes" not in question.options
    return question.family != "sign" and not chooses


def _rounded(box: AreaBox) -> AreaBox:
    """The box as it is written, so that the crop is the one that the policy's own words would give."""
    a, b, c, d = (round(edge, DECIMALS) for edge in box.bbox_2d)
    return AreaBox(bbox_2d=(a, b, c, d) if c > a and d > b else box.bbox_2d, depth=box.depth)
