"""Small pictures inside a terminal: kitty, iTerm2 and sixel where the terminal speaks them, else half blocks."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable, Mapping
from enum import StrEnum

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import ControlType, Segment
from rich.style import Style

PICTURES_VARIABLE = "SIFTHINKER_PICTURES"
"""Environment variable that overrides what is guessed: kitty, iterm2, sixel, blocks or none."""

_CELL_PX = (10, 20)  # width and height of a character cell that sixel pictures are sized for
_FINE_CELL_PX = (20, 40)  # of a fine screen: a picture that its terminal scales is sent no larger
_KITTY_CHUNK = 4096  # the protocol's limit on one escape's payload
_SIXEL_TERMINALS = ("foot", "mlterm", "yaft", "contour", "sixel")


class Graphics(StrEnum):
    """How a terminal can show a picture."""

    KITTY = "kitty"
    ITERM2 = "iterm2"
    SIXEL = "sixel"
    BLOCKS = "blocks"
    NONE = "none"


def graphics_of(console: Console, environ: Mapping[str, str]) -> Graphics:
    """What this console can show, from the environment alone: asking the terminal could hang a pipe.

    Nothing where the output is no terminal, where colour is off (NO_COLOR), or where there are only 16 colours.
    """
    if not console.is_terminal or console.no_color:
        return Graphics.NONE
    wish = environ.get(PICTURES_VARIABLE, "").strip().lower()
    if wish in set(Graphics):
        return Graphics(wish)
    term, program = environ.get("TERM", "").lower(), environ.get("TERM_PROGRAM", "").lower()
    # A multiplexer swallows the picture escapes unless told otherwise; half blocks always pass.
    if "TMUX" not in environ and not term.startswith(("screen", "tmux")):
        if "KITTY_WINDOW_ID" in environ or "kitty" in term or "ghostty" in (term + program):
            return Graphics.KITTY
        if program in ("iterm.app", "wezterm", "mintty") or "LC_TERMINAL" in environ:
            return Graphics.ITERM2
        if any(name in term for name in _SIXEL_TERMINALS):
            return Graphics.SIXEL
    return Graphics.BLOCKS if console.color_system in ("truecolor", "256") else Graphics.NONE


class Inline:
    """A picture as a rich renderable, at most `columns` × `rows` character cells large, `indent` cells in."""

    def __init__(self, image: Image.Image, graphics: Graphics, *, columns: int = 28, rows: int = 10, indent: int = 0):
        self.image = image.convert("RGB")
        self.graphics = graphics
        self.indent = indent
        self.columns, self.rows = _cells(image.size, columns, rows)
        self.image.thumbnail((self.columns * _FINE_CELL_PX[0], self.rows * _FINE_CELL_PX[1]))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        margin = Segment(" " * self.indent)
        if self.graphics is Graphics.BLOCKS:
            for line in half_blocks(self.image, self.columns, self.rows):
                yield margin
                yield from line
                yield Segment.line()
        elif self.graphics is not Graphics.NONE:
            yield margin
            # A control code marks the segment as taking no cells, so that rich neither measures nor crops it.
            yield Segment(self.escape(), None, [(ControlType.CURSOR_FORWARD, 0)])
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.columns + self.indent, self.columns + self.indent)

    def escape(self) -> str:
        """The escape sequence that shows the picture (empty for half blocks, which are text)."""
        match self.graphics:
            case Graphics.KITTY:
                return kitty(self.image, self.columns, self.rows)
            case Graphics.ITERM2:
                return iterm2(self.image, self.columns, self.rows)
            case Graphics.SIXEL:
                return sixel(self.image.resize((self.columns * _CELL_PX[0], self.rows * _CELL_PX[1])))
            case _:
                return ""


def half_blocks(image: Image.Image, columns: int, rows: int) -> Iterable[list[Segment]]:
    """Lines of upper half blocks, two pixels a cell: the foreground is the upper one, the background the lower."""
    pixels = np.asarray(
        image.convert("RGB").resize((columns, rows * 2), Image.Resampling.LANCZOS)
    )  # (2·rows, columns, 3)
    for upper, lower in zip(pixels[0::2], pixels[1::2], strict=True):
        yield [
            Segment("▀", Style(color=Color.from_rgb(*map(int, top)), bgcolor=Color.from_rgb(*map(int, bottom))))
            for top, bottom in zip(upper, lower, strict=True)
        ]


def kitty(image: Image.Image, columns: int, rows: int) -> str:
    """kitty's graphics protocol: a PNG in chunks, scaled by the terminal to so many cells."""
    payload = _png(image)
    chunks = [payload[i : i + _KITTY_CHUNK] for i in range(0, len(payload), _KITTY_CHUNK)]
    out = []
    for number, chunk in enumerate(chunks):
        first = f"a=T,f=100,q=2,c={columns},r={rows}," if number == 0 else ""
        out.append(f"\x1b_G{first}m={int(number < len(chunks) - 1)};{chunk}\x1b\\")
    return "".join(out)


def iterm2(image: Image.Image, columns: int, rows: int) -> str:
    """iTerm2's inline image (also WezTerm and mintty)."""
    payload = _png(image)
    return f"\x1b]1337;File=inline=1;width={columns};height={rows};preserveAspectRatio=1:{payload}\x07"


def sixel(image: Image.Image, *, colours: int = 200) -> str:
    """DEC sixel: bands of six rows, in each band one run-length coded line a colour."""
    indexed = image.convert("RGB").quantize(colours, kmeans=2)
    palette = indexed.getpalette() or []
    pixels = np.asarray(indexed)  # (H, W)
    height, width = pixels.shape
    out = ["\x1bPq", f'"1;1;{width};{height}']
    for index in np.unique(pixels):
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * index : 3 * index + 3])
        out.append(f"#{index};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        weights = 1 << np.arange(len(band))
        for index in np.unique(band):
            bits = ((band == index) * weights[:, None]).sum(axis=0)
            runs = ((63 + int(value), len(list(group))) for value, group in itertools.groupby(bits))
            out.append(f"#{index}" + "".join(f"!{n}{chr(code)}" if n > 3 else chr(code) * n for code, n in runs) + "$")
        out.append("-")
    return "".join(out) + "\x1b\\"


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _cells(size: tuple[int, int], columns: int, rows: int) -> tuple[int, int]:
    """The largest number of cells that keeps the aspect ratio, a cell being twice as high as wide."""
    width, height = size
    scale = min(columns / width, 2 * rows / height)
    return max(1, round(width * scale)), max(1, round(height * scale / 2))
