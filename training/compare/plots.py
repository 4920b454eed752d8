"""The report's drawings, as SVG that follows the page's colours, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sifthinker.training.compare.statistics import Interval

_WIDTH, _HEIGHT = 340, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 22, 26, 40
_LABEL_PX = 13


@dataclass(frozen=True)
class Point:
    """A mode in a plot of accuracy against cost."""

    name: str
    cost: float
    accuracy: Interval
    style: str
    """CSS class: the mode's colour."""


def cost_plot(points: Sequence[Point], cost: str, *, decimals: int = 0) -> str:
    """Accuracy with its interval against a cost, from 0: an SVG of 340 × 250 units.

    Args:
        points: the modes.
        cost: what the cost is, with its unit.
        decimals: of the numbers on its axis.
    """
    most = _nice(max((point.cost for point in points), default=1.0) * 1.04 or 1.0)
    low = max(0.0, math.floor(10 * min(point.accuracy.low for point in points) - 0.2) / 10)
    high = min(1.0, math.ceil(10 * max(point.accuracy.high for point in points) + 0.2) / 10)
    high = max(high, low + 0.1)

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / most

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    parts = [
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="accuracy against {escape(cost)}">'
    ]
    for tick in _ticks(low, high, 5):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 7}" y="{y(tick) + 4:.1f}">{100 * tick:.0f}</text>')
    for tick in _ticks(0.0, most, 4):
        parts.append(
            f'<text class="tick mid" x="{x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 17}">{tick:,.{decimals}f}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis mid" x="{middle:.1f}" y="{_HEIGHT - 5}">{escape(cost)}</text>')
    parts.append('<text class="axis" x="4" y="12">right, %</text>')
    for point in points:
        at = f"{x(point.cost):.1f}"
        parts.append(
            f'<line class="whisker {point.style}" x1="{at}" x2="{at}" y1="{y(point.accuracy.low):.1f}" '
            f'y2="{y(point.accuracy.high):.1f}"/>'
        )
    labels = _labels([(x(point.cost), y(point.accuracy.value), point.name) for point in points])
    for point, (label_x, label_y, anchor) in zip(points, labels, strict=True):
        parts.append(
            f'<circle class="dot {point.style}" cx="{x(point.cost):.1f}" cy="{y(point.accuracy.value):.1f}" r="5.5"/>'
            f'<text class="name {point.style} {anchor}" x="{label_x:.1f}" y="{label_y:.1f}">{escape(point.name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def whisker(interval: Interval, style: str, *, low: float = 0.0, high: float = 1.0) -> str:
    """A value with its interval on a line from `low` to `high`: an SVG of 120 × 16 units, for a table's cell."""

    def x(value: float) -> float:
        return 4 + 112 * (min(max(value, low), high) - low) / (high - low)

    zero = f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="1" y2="15"/>' if low < 0 < high else ""
    return (
        '<svg class="cell" viewBox="0 0 120 16" aria-hidden="true">'
        f'<line class="grid" x1="4" x2="116" y1="8" y2="8"/>{zero}'
        f'<line class="whisker {style}" x1="{x(interval.low):.1f}" x2="{x(interval.high):.1f}" y1="8" y2="8"/>'
        f'<circle class="dot {style}" cx="{x(interval.value):.1f}" cy="8" r="4.5"/></svg>'
    )


def _labels(dots: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Where the names stand: beside their dots, the left ones on the right and the other way round, none on another."""
    placed: dict[int, tuple[float, float, str]] = {}
    taken = [(x - 7, x + 7, y + 4) for x, y, _ in dots]  # left, right, baseline: the dots themselves first
    for index in sorted(range(len(dots)), key=lambda one: dots[one][1]):
        x, y, name = dots[index]
        width = 7.2 * len(name)
        leftwards = x + 10 + width > _WIDTH - 4
        left = x - 10 - width if leftwards else x + 10
        at = y + 4
        while any(abs(at - base) < _LABEL_PX and left < right and begin < left + width for begin, right, base in taken):
            at += 2
        at = min(at, _HEIGHT - _BOTTOM - 3)
        taken.append((left, left + width, at))
        placed[index] = (x - 10 if leftwards else x + 10, at, "end" if leftwards else "start")
    return [placed[index] for index in range(len(dots))]


def _nice(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten that is not below the value."""
    power = 10 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8) if step * power >= value), 10 * power)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two bounds, about `most` of them."""
    step = _nice((high - low) / most)
    first = math.ceil(low / step - 1e-9)
    return [step * index for index in range(first, math.floor(high / step + 1e-9) + 1)]
