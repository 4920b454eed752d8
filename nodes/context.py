"""What a run is given beside its state: the policy, the depth estimator, the image store, the settings.

None of it is ever written to a checkpoint. Nodes read it as `runtime.context`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal
from weakref import WeakValueDictionary

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from sifthinker.nodes.depth import DepthEstimator, DepthMap
from sifthinker.nodes.events import FocusEvent
from sifthinker.nodes.image_store import HeldImages, pixel_bytes
from sifthinker.nodes.images import ImageLimits, ImageStore, MemoryImageStore, crop
from sifthinker.nodes.tools import VisualTool
from sifthinker.policy.base import Policy
from sifthinker.policy.boxes import Box
from sifthinker.policy.dialect import Dialect, dialect_for
from sifthinker.policy.errors import SifthinkerError

Mode = Literal["direct", "internal", "tools", "adaptive"]
"""How the agent focuses: answer only; the whole trace in one completion; reason ⇄ focus with crops; internal first, and
tools only where that is not enough."""


class FocusConfig(BaseModel):
    """Settings of a run: the mode, the budgets, the decoding. Every budget that is exceeded is told in the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = "tools"
    max_steps: int = Field(default=8, ge=0, le=64, description="Areas looked at in mode tools.")
    max_boxes: int = Field(default=4, ge=1, le=64, description="Boxes of one area that are measured and cropped.")
    max_new_tokens: int = Field(default=4096, ge=1, description="Tokens generated in a run.")
    max_images: int = Field(default=16, ge=2, description="Images in a conversation: RGB, depth picture and crops.")
    max_completion_bytes: int = Field(default=32_768, ge=256, description="UTF-8 bytes of one completion.")
    deadline_s: float = Field(
        default=300.0, gt=0, description="Seconds of work for a run, waiting for a person left out."
    )
    call_timeout_s: float = Field(default=60.0, gt=0, description="Seconds for one call of the policy.")
    temperature: float = Field(default=0.0, ge=0)
    seed: int | None = None
    whole_share: float = Field(default=0.9, gt=0, le=1, description="An area of this share of the image gets no crop.")
    min_crop_px: int = Field(default=16, ge=1, description="Shortest side of a crop in pixels.")
    history: int = Field(default=8, ge=0, description="Earlier questions about the image that the policy is shown.")
    confidence_threshold: float | None = Field(
        default=None, ge=0, le=1, description="Mode adaptive: below it the run goes on to tools; None: as learnt."
    )
    depth_tolerance: float | None = Field(
        default=None, ge=0, le=1, description="Mode adaptive: a larger gap between depths goes on too; None: as learnt."
    )
    always_go_on: bool = Field(default=False, description="Mode adaptive: go on whatever was said, to compare both.")
    interrupt_on_focus: bool = Field(default=False, description="Pause before each crop for a person's decision.")
    allow_urls: bool = Field(default=False, description="Whether image addresses in messages are fetched.")
    limits: ImageLimits = Field(default_factory=ImageLimits, description="What an image may be.")


class RunStopped(SifthinkerError):
    """The run was stopped from outside (`FocusContext.stop`)."""


_CROP_ROOM = 2
"""Pixels that the crops of a view may hold together, in whole pictures."""


class View:
    """An image that is being looked at: its pixels, its depth, and the crops already cut from it."""

    def __init__(
        self, image: Image.Image, depth: DepthMap | None, *, told_by: DepthEstimator | None = None, max_crops: int = 64
    ) -> None:
        self.image = image
        self.depth = depth
        self.told_by = told_by  # kept, so that its id stays its own while this view is remembered
        self._max_crops = max_crops
        self._crops: OrderedDict[tuple[Box, int], tuple[Image.Image, Box]] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, or a view in another process, needs: neither the lock nor the network that told the depth."""
        return {name: value for name, value in vars(self).items() if name != "_lock"} | {"told_by": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take that up, with a lock of its own."""
        vars(self).update(state)
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What the view holds in memory now: pixels, crops, depth with its integral and its picture."""
        depth = 0 if self.depth is None else self.depth.nbytes + 4 * self.depth.array.size
        with self._lock:
            return pixel_bytes(self.image) + self._crop_bytes() + depth

    @cached_property
    def depth_picture(self) -> Image.Image | None:
        """The depth in colours, as the policy sees it; None without a depth map."""
        return None if self.depth is None else self.depth.picture()

    def crop(self, box: Box, *, min_px: int) -> tuple[Image.Image, Box]:
        """`images.crop` of the full-resolution image, remembered: each turn of a conversation shows all its crops."""
        key = (box, min_px)
        with self._lock:
            if key in self._crops:
                self._crops.move_to_end(key)
                return self._crops[key]
        taken = crop(self.image, box, min_px=min_px)
        with self._lock:
            self._crops[key] = self._crops[taken[1], 1] = taken  # results ask for it by what it shows
            while len(self._crops) > 2 * self._max_crops or (len(self._crops) > 2 and self._too_large()):
                self._crops.popitem(last=False)
        return taken

    def _too_large(self) -> bool:
        """Whether the crops hold more pixels than they may."""
        return self._crop_bytes() > _CROP_ROOM * pixel_bytes(self.image)

    def _crop_bytes(self) -> int:
        held = {id(image): pixel_bytes(image) for image, _ in self._crops.values()}  # most stand under two keys
        return sum(held.values())


class Views:
    """The views opened last, by image hash and depth source. Thread-safe; a miss is only slower.

    Beyond `max_bytes` (pixels, crops and depth) the longest unused are forgotten, never the newest, nor one that
    somebody holds still.
    """

    def __init__(self, max_bytes: int = 512_000_000) -> None:
        self._max_bytes = max_bytes
        self._views: OrderedDict[tuple[str, int], View] = OrderedDict()
        self._held: WeakValueDictionary[tuple[str, int], View] = WeakValueDictionary()
        self._lock = threading.Lock()

    def open(self, sha256: str, images: ImageStore, depth: DepthEstimator | None) -> View:
        """The view of a stored image; its depth is estimated the first time.

        Raises:
            ImageError: "missing", the store does not have it. DepthError: the depth cannot be told.
        """
        key = (sha256, id(depth))
        if (known := self._known(key)) is not None:
            return known
        image = images.get(sha256)
        view = View(image, None if depth is None else depth.predict(image), told_by=depth)
        with self._lock:
            if (faster := self._held.get(key)) is not None:  # another thread was: share its crops
                return faster
            self._views[key] = self._held[key] = view
            while len(self._views) > 1 and sum(known.bytes for known in self._views.values()) > self._max_bytes:
                self._views.popitem(last=False)
        return view

    def _known(self, key: tuple[str, int]) -> View | None:
        with self._lock:
            if key in self._views:
                self._views.move_to_end(key)
            return self._held.get(key)


class HeldViews(Views):
    """Views as one run sees them: those that it has opened stay open until it lets go."""

    def __init__(self, views: Views) -> None:
        self._shared = views
        self._opened: dict[tuple[str, int], View] = {}

    def open(self, sha256: str, images: ImageStore, depth: DepthEstimator | None) -> View:
        """As `Views.open`."""
        opened, key = self._opened, (sha256, id(depth))
        if (view := opened.get(key)) is None:
            view = opened[key] = self._shared.open(sha256, images, depth)
        return view

    def let_go(self) -> None:
        """Hold nothing any more: nor what a thread that was left alone opens still."""
        self._opened = {}


@dataclass(frozen=True)
class FocusContext:
    """The runtime context of the focus graph (`context_schema`)."""

    policy: Policy
    """The model that is asked."""
    depth: DepthEstimator | None = None
    """What tells the depth of an image; None: boxes go without depth."""
    images: ImageStore = field(default_factory=MemoryImageStore)
    """Where the pixels are that states and checkpoints mention by hash."""
    config: FocusConfig = field(default_factory=FocusConfig)
    """Mode, budgets, decoding."""
    views: Views = field(default_factory=Views, repr=False)
    """Depth maps and crops at hand."""
    tools: tuple[VisualTool, ...] = ()
    """Visual tools beside the crop; which of them the policy is told of: `offered`."""
    pause_at: int | None = field(default=None, repr=False)
    """A step before whose crop the run pauses for a person, whatever `interrupt_on_focus` says: a fork from there."""
    stop: threading.Event | None = field(default=None, repr=False)
    """Once set, the run ends with `RunStopped` at the next token."""
    abandoned: threading.Event | None = field(default=None, repr=False)
    """Once set, the run ends with `RunStopped` before its next turn. Nobody listens to tokens for it, so that a broken
    call can still be tried again."""
    on_event: Callable[[FocusEvent], None] | None = field(default=None, repr=False)
    """Called with each event, besides LangGraph's `custom` stream (which costs a thread's wake-up for each)."""

    @cached_property
    def dialect(self) -> Dialect:
        """How to speak with the policy."""
        return dialect_for(self.policy.profile)

    @cached_property
    def offered(self) -> tuple[VisualTool, ...]:
        """The tools that the policy is told of and may ask for: none, where it was trained on the grammar alone."""
        profile = self.policy.profile
        return self.tools if profile.dialect == "native" and profile.visual_tools else ()

    @contextmanager
    def for_a_run(self) -> Iterator[FocusContext]:
        """This context for one run: what the run looks at stays at hand to its end, whatever is asked beside it.

        Of a context that is a run's already it is that one, held by whoever began it.
        """
        if isinstance(self.views, HeldViews):
            yield self
            return
        images, views = HeldImages(self.images), HeldViews(self.views)
        try:
            yield replace(self, images=images, views=views)
        finally:  # what LangGraph keeps of a run may be in memory for long
            images.let_go()
            views.let_go()

    def view(self, sha256: str) -> View:
        """The view of an image in the store (see `Views.open`)."""
        return self.views.open(sha256, self.images, self.depth)
