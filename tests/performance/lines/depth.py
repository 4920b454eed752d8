"""Depth Anything V2 Small: timm's backbone with the head written here, against transformers' on the same weights.

Both do the same arithmetic in the same library, so processor time is compared, which other work disturbs least, and of
one thread, since one of two that waits for the other counts as busy; the note has the ratio by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from depth_reference import PROCESSING, reference
from performance.figures import Figure
from performance.measure import NotHere, peak_mb, per_call, ratios, rounds, spent, timed
from performance.worlds import photo
from PIL import Image
from transformers import DPTImageProcessor

from sifthinker.nodes.depth import CachedDepth, DepthMap
from sifthinker.nodes.depth_anything import DepthAnythingV2

THEIRS = "transformers, same weights"
EDGE = 518
BATCH = 4


def figures(repeat: int) -> Iterator[Figure]:
    """See `performance.command.LINES`."""
    theirs = reference("small")
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = DepthAnythingV2.from_pretrained(Path(folder))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((1, 3, EDGE, EDGE), generator=generator)
    image = photo((1024, 768))
    processor = DPTImageProcessor(**PROCESSING)

    @torch.inference_mode()
    def our_pass() -> object:
        return ours(pixels)

    @torch.inference_mode()
    def their_pass() -> object:
        return theirs(pixel_values=pixels).predicted_depth

    @torch.inference_mode()
    def their_predict() -> np.ndarray:
        inputs = processor(images=image, return_tensors="pt")
        out = theirs(**inputs)
        [found] = processor.post_process_depth_estimation(out, target_sizes=[(image.height, image.width)])
        raw = found["predicted_depth"]
        return np.asarray(1 - (raw - raw.min()) / (raw.max() - raw.min()))

    gap = float((our_pass() - their_pass()).abs().max() / their_pass().abs().max())  # type: ignore[operator]
    largest = f"largest difference of the outputs {gap:.0e} of the largest"
    yield _against(repeat, f"forward pass at {EDGE} × {EDGE}", our_pass, their_pass, largest)
    yield _against(repeat, "`predict` of a 1024 × 768 picture", lambda: ours.predict(image), their_predict)
    try:
        found = rounds(repeat, peak_mb(our_pass), peak_mb(their_pass))
        note = f"{number_of(found, 0):.0f} and {number_of(found, 1):.0f} MB above the weights"
        yield Figure("forward pass: peak memory", ratios(found, 0, 1), THEIRS, at_most=1, note=note)
    except NotHere:
        pass
    images = [photo((1024, 768), mark) for mark in range(BATCH)]
    found = rounds(
        repeat, timed(lambda: ours.predict_batch(images)), timed(lambda: [ours.predict(one) for one in images])
    )
    yield Figure(f"`predict_batch` of {BATCH}: time", ratios(found, 0, 1), "one after another")
    yield from _maps(repeat, ours, image)


def _against(
    repeat: int, what: str, ours: Callable[[], object], theirs: Callable[[], object], told: str = ""
) -> Figure:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = rounds(2 * repeat, spent(ours), spent(theirs))
    finally:
        torch.set_num_threads(threads)
    processor, clock = ([[way[kind] for way in row] for row in found] for kind in (0, 1))
    by_clock = sorted(ratios(clock, 0, 1))
    note = f"{number_of(processor, 0):.2f} s; by the clock {by_clock[len(by_clock) // 2]:.2f} ×"
    note = f"{note}; {told}" if told else note
    return Figure(f"{what}: processor time of a thread", ratios(processor, 0, 1), THEIRS, at_most=1, note=note)


def _maps(repeat: int, ours: DepthAnythingV2, image: Image.Image) -> Iterator[Figure]:
    cached = CachedDepth(ours)
    cached.predict(image)
    found = rounds(repeat, timed(lambda: cached.predict(image)), timed(lambda: ours.predict(image)))
    yield Figure("`predict` of a picture seen before: time", ratios(found, 0, 1), "estimating it anew", at_most=0.05)

    def ramp(width: int, height: int) -> DepthMap:
        made = DepthMap(np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1)))
        made.mean((0.1, 0.1, 0.9, 0.9))
        return made

    small, large = ramp(320, 240), ramp(3840, 2160)
    little, most = (0.4, 0.4, 0.45, 0.45), (0.01, 0.01, 0.99, 0.99)
    found = rounds(
        repeat,
        per_call(lambda: large.mean(most), 5000),
        per_call(lambda: small.mean(little), 5000),
        per_call(lambda: float(large.array[21:2138, 38:3802].mean()), 3),
    )
    note = f"{1e6 * number_of(found, 0):.1f} µs; by NumPy over the pixels {1e6 * number_of(found, 2):,.0f} µs"
    yield Figure(
        "`mean` of nearly all of a 4K map: time", ratios(found, 0, 1), "a small box of a 320 × 240 map", at_most=1.5,
        note=note,
    )  # fmt: skip


def number_of(found: list[list[float]], way: int) -> float:
    """The median of one way."""
    return sorted(row[way] for row in found)[len(found) // 2]
