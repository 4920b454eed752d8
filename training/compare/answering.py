"""Asking one question once: in this process, in another, or on another machine, always the same way."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sifthinker.agent import FocusAgent, FocusResult, create_focus_agent
from sifthinker.agent.config import focus_config
from sifthinker.agent.result import FocusStep
from sifthinker.nodes.context import FocusConfig, FocusContext, Views
from sifthinker.nodes.depth import DepthMap, FixedDepth
from sifthinker.nodes.images import LoadedImage, MemoryImageStore, load_image
from sifthinker.nodes.questions import question_message
from sifthinker.policy.base import Policy, PolicyProfile
from sifthinker.policy.boxes import Box, clip, hiou, is_valid
from sifthinker.policy.errors import (
    DepthError,
    PolicyLoadError,
    PolicyTimeout,
    PolicyUnavailable,
    SifthinkerError,
    UsageError,
)
from sifthinker.policy.load import load_policy
from sifthinker.policy.trace_areas import QUAD, Place
from sifthinker.training.compare.controls import ControlledPolicy, control_boxes
from sifthinker.training.compare.edits import CannotChange, Changed, changed, masked_depth
from sifthinker.training.compare.places import worded
from sifthinker.training.compare.records import (
    TIMING,
    Answered,
    Asking,
    BoxSaid,
    Failed,
    Job,
    StepSaid,
)
from sifthinker.training.rewards.matching import tagged_answer

_IMAGES_PX = 64_000_000  # bytes of pixels kept at hand: a few questions' pictures


class Answerer:
    """Answers jobs with the policies of a comparison; `grading.py` then says what is right. Safe to call from several
    threads.

    Args:
        asking: how every question is asked.
        policies: those already loaded, by name; others are loaded when they are first asked.
    """

    def __init__(self, asking: Asking, policies: Mapping[str, Policy] | None = None) -> None:
        self.asking = asking
        self._policies = dict(policies or {})
        self._agents: dict[tuple[str, str], FocusAgent] = {}
        self._lock = threading.Lock()

    def policy(self, name: str) -> Policy:
        """The policy of a name."""
        with self._lock:
            if name not in self._policies:
                self._policies[name] = load_policy(name, **self.asking.options)
            return self._policies[name]

    def answer(self, job: Job) -> Answered | Failed:
        """Ask, and measure what comes. A policy that is not there leaves the job open."""
        try:
            return self._answer(job)
        except (PolicyTimeout, PolicyUnavailable) as error:
            return Failed(job.key, str(error), out_of_time=isinstance(error, PolicyTimeout))
        except (UsageError, PolicyLoadError, DepthError):  # nothing of this question's own: no other would fare better
            raise
        except SifthinkerError as error:  # a picture or a request that was refused: asked, and not answered
            return unanswered(job, error=str(error))

    def _answer(self, job: Job) -> Answered:
        edited: Changed | None = None
        if job.edit is not None:
            try:
                edited = changed(job)
            except CannotChange as reason:
                return unanswered(job, skipped=str(reason))
        loaded = load_image(edited.image if edited else job.image)
        agent, context = self._agent(job, edited)
        if job.key.control:
            boxes = control_boxes(job.key.control, job.question, job.key.seed)  # type: ignore[arg-type]
            if boxes is None:
                why = (
                    "the boxes that decide it are not known" if not job.question.boxes else "there is no room for them"
                )
                return unanswered(job, skipped=why)
            avoid = job.question.boxes if job.key.control == "wrong" else ()
            context = _controlled(context, loaded, boxes, avoid)
        if job.key.variant == TIMING:
            context = _alone(context, loaded)
        result = _ask(agent, context, job, loaded)
        row = _measured(job, result, context)
        return row if edited is None else row.model_copy(update={"truth": edited.truth, "decides": edited.decides})

    def _agent(self, job: Job, edited: Changed | None) -> tuple[FocusAgent, FocusContext]:
        """The agent of a policy and mode, with the context for this job."""
        name = (job.key.policy, job.key.mode)
        policy = self.policy(job.key.policy)
        with self._lock:
            if name not in self._agents:
                exact = self.asking.depth == "exact"
                self._agents[name] = create_focus_agent(
                    policy,
                    depth="none" if exact else self.asking.depth,
                    mode=job.key.mode,  # type: ignore[arg-type]
                    images=MemoryImageStore(_IMAGES_PX),
                    **{**self.asking.settings, **self.asking.rules.get(job.key.policy, {})},
                )
            agent = self._agents[name]
        if self.asking.depth != "exact":
            return agent, agent.context
        if job.depth is None:
            raise UsageError(f"Question {job.question.id!r} has no exact depth: choose another --depth.")
        depth = DepthMap.from_png16(job.depth)
        if edited is not None and job.edit is not None and edited.boxes:
            depth = masked_depth(depth, edited.boxes, job.edit.kind)
        return agent, replace(agent.context, depth=FixedDepth(depth), views=Views(_IMAGES_PX))


def unanswered(job: Job, *, error: str = "", skipped: str = "", out_of_time: bool = False) -> Answered:
    """The line of a question without an answer: one that failed (wrong), or that could not be asked."""
    return Answered(
        **job.key.model_dump(),
        digest=job.digest,
        options=list(job.options),
        truth=job.question.answer,
        error=error,
        skipped=skipped,
        out_of_time=out_of_time,
    )


def _measured(job: Job, result: FocusResult, context: FocusContext) -> Answered:
    """The row of a result, not yet graded."""
    profile = context.policy.profile
    answer = tagged_answer(result.answer, result.trace_text)
    steps = [_step(step) for step in result.steps]
    last = [box.bbox_2d for box in steps[-1].boxes] if steps else []
    traced = bool(job.question.boxes) and job.key.mode != "direct"
    size = result.image.size if result.image is not None else (1, 1)
    shown = 1 + (profile.uses_depth_image and result.depth_map is not None)
    return unanswered(job).model_copy(
        update={
            "answer": answer,
            "lenient": result.answer,
            "valid": result.valid_trace,
            "text": result.trace_text,
            "steps": steps,
            "answer_boxes": list(_boxes_in(answer, profile, size)) if job.question.kind == "place" else [],
            "hiou": hiou(last, job.question.boxes) if traced else None,
            "depth_error": None if job.key.control else _depth_error(steps),
            "tokens_in": result.tokens.prompt,
            "tokens_out": result.tokens.completion,
            "images": shown + _further(result.steps),
            "calls": len(result.calls),
            "seconds": result.seconds,
            "went_on": result.adaptive and result.adaptive.went_on,
            "confidence": result.adaptive and result.adaptive.confidence,
            "out_of_time": _out_of_time(result, context.config),
            "warnings": result.warnings,
        }
    )


def _out_of_time(result: FocusResult, config: FocusConfig) -> bool:
    """Whether a time budget cut it short: a call, or all of it, took as long as it may."""
    longest = max((call.seconds for call in result.calls), default=0.0)
    return longest >= config.call_timeout_s or result.seconds >= config.deadline_s


def _further(steps: Sequence[FocusStep]) -> int:
    """Pictures shown besides the image and its depth: crops, and what visual tools gave."""
    crops = sum(shown is not None for step in steps for shown in step.shown)
    return crops + sum(found.picture_id is not None for step in steps for found in step.findings)


def _step(step: FocusStep) -> StepSaid:
    boxes = [BoxSaid(bbox_2d=box.bbox_2d, depth=box.depth, measured=box.measured_depth) for box in step.boxes]
    return StepSaid(boxes=boxes, text=step.text, cropped=any(shown is not None for shown in step.shown))


def shuffled(options: Sequence[str], question: str, seed: int) -> tuple[str, ...]:
    """The options of a question in the order of a seed: the same in every mode, for every policy."""
    order = np.random.default_rng([seed, *f"options {question}".encode()]).permutation(len(options))
    return tuple(options[index] for index in order)


def _ask(agent: FocusAgent, context: FocusContext, job: Job, loaded: LoadedImage) -> FocusResult:
    """`FocusAgent.ask` with a context of this question's own."""
    words = worded(job.question, context.policy.profile, loaded.size)
    asked = question_message(
        words, image=context.images.put(loaded.image), options=job.options, warnings=loaded.warnings
    )
    output = agent.invoke({"messages": [asked]}, context=context)
    record = output["result"]
    return FocusResult.from_record(record, context.view(record["image"]))


def _controlled(context: FocusContext, loaded: LoadedImage, boxes: Sequence[Box], avoid: Sequence[Box]) -> FocusContext:
    view = context.view(context.images.put(loaded.image))

    def depth_of(box: Box) -> float | None:
        return None if view.depth is None else view.depth.mean(box)

    policy = ControlledPolicy(context.policy, boxes, depth_of, loaded.size, avoid=avoid)
    config = focus_config(**{**dict(context.config), "max_boxes": max(context.config.max_boxes, len(boxes))})
    return replace(context, policy=policy, config=config)


def _alone(context: FocusContext, loaded: LoadedImage) -> FocusContext:
    """Nothing of the conversation is remembered; the depth of the picture is at hand, as it is in every mode."""
    if context.depth is not None:
        context.depth.predict(loaded.image)
    forget = getattr(context.policy, "forget", None)
    if callable(forget):
        forget()
    return replace(context, views=Views(_IMAGES_PX), images=MemoryImageStore(_IMAGES_PX))


def _depth_error(steps: Sequence[StepSaid]) -> float | None:
    boxes = steps[-1].boxes if steps else []
    gaps = [abs(box.depth - box.measured) for box in boxes if box.depth is not None and box.measured is not None]
    return float(np.mean(gaps)) if gaps else None


def _boxes_in(answer: str, profile: PolicyProfile, size: tuple[int, int]) -> tuple[Box, ...]:
    """The boxes that an answer holds, in the policy's declared space, normalised; those without area are left out."""
    place = Place(profile.box_space, profile.shown_size(size), profile.resized_size(size))
    boxes = []
    for found in QUAD.finditer(answer):
        try:
            numbers = [float(number) for number in found.groups()]
        except ValueError:
            continue
        if not any(number != number for number in numbers):
            boxes.append(clip(place.to_unit(numbers)))
    return tuple(box for box in boxes if is_valid(box))
