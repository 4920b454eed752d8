"""Pictures in the terminal: each protocol carries the pixels it was given, and none is used where it would be noise."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sifthinker.agent.inline import Graphics, Inline, graphics_of, half_blocks, iterm2, kitty, sixel


def console(**options: object) -> Console:
    settings: dict[str, object] = {
        "force_terminal": True,
        "color_system": "truecolor",
        "file": io.StringIO(),
        "width": 80,
    }
    return Console(**{**settings, **options})  # type: ignore[arg-type]


def noise(width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("environ", "graphics"),
    [
        ({"TERM": "xterm-kitty"}, Graphics.KITTY),
        ({"TERM": "xterm-ghostty"}, Graphics.KITTY),
        ({"TERM_PROGRAM": "iTerm.app"}, Graphics.ITERM2),
        ({"TERM_PROGRAM": "WezTerm"}, Graphics.ITERM2),
        ({"TERM": "foot"}, Graphics.SIXEL),
        ({"TERM": "xterm-256color"}, Graphics.BLOCKS),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, Graphics.BLOCKS),
        ({"TERM": "foot", "SIFTHINKER_PICTURES": "none"}, Graphics.NONE),
        ({"TERM": "xterm", "SIFTHINKER_PICTURES": "sixel"}, Graphics.SIXEL),
        ({"TERM": "xterm", "SIFTHINKER_PICTURES": "nonsense"}, Graphics.BLOCKS),
    ],
)
def test_the_terminal_is_known_by_its_environment(environ: dict[str, str], graphics: Graphics) -> None:
    assert graphics_of(console(), environ) is graphics


def test_no_pictures_without_colour_or_terminal() -> None:
    assert graphics_of(console(no_color=True), {"TERM": "xterm-kitty"}) is Graphics.NONE
    assert graphics_of(console(force_terminal=False), {"TERM": "xterm-kitty"}) is Graphics.NONE
    assert graphics_of(console(color_system="standard"), {"TERM": "xterm"}) is Graphics.NONE


def test_half_blocks_carry_two_pixels_a_cell() -> None:
    image = Image.fromarray(np.array([[[255, 0, 0]], [[0, 0, 255]]], dtype=np.uint8))
    [[cell]] = half_blocks(image, 1, 1)
    assert cell.text == "▀"
    assert cell.style is not None
    assert cell.style.color is not None
    assert cell.style.color.triplet == (255, 0, 0)
    assert cell.style.bgcolor is not None
    assert cell.style.bgcolor.triplet == (0, 0, 255)


def test_kitty_carries_the_png_in_small_chunks() -> None:
    image = noise(200, 150)
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(image, 20, 8))
    assert len(chunks) > 1
    assert all(len(payload) <= 4096 for _, payload in chunks)
    assert [control.rsplit("m=", 1)[1] for control, _ in chunks] == ["1"] * (len(chunks) - 1) + ["0"]
    assert "c=20,r=8" in chunks[0][0]
    assert decoded("".join(payload for _, payload in chunks)) == image


def test_iterm2_carries_the_png() -> None:
    image = noise()
    matched = re.fullmatch(r"\x1b\]1337;File=([^:]*):([^\x07]*)\x07", iterm2(image, 20, 8))
    assert matched is not None
    assert "inline=1" in matched[1]
    assert decoded(matched[2]) == image


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (7, 13)])
def test_sixel_carries_the_pixels(size: tuple[int, int]) -> None:
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 102, 255]], dtype=np.uint8)
    pixels = colours[np.random.default_rng(5).integers(0, 4, (size[1], size[0]))]
    shown = read_sixel(sixel(Image.fromarray(pixels)))
    assert np.abs(shown.astype(int) - pixels).max() <= 3  # sixel knows per cents


def test_a_picture_keeps_its_aspect_and_its_bounds() -> None:
    wide, high = Inline(noise(400, 100), Graphics.BLOCKS), Inline(noise(100, 400), Graphics.BLOCKS)
    assert (wide.columns, wide.rows) == (28, 4)
    assert high.rows == 10
    assert high.columns == 5


@pytest.mark.parametrize("graphics", [Graphics.KITTY, Graphics.ITERM2])
def test_a_large_picture_is_sent_no_larger_than_it_is_shown(graphics: Graphics) -> None:
    inline = Inline(noise(2000, 1000), graphics, columns=28, rows=8)
    assert (inline.columns, inline.rows) == (28, 7)
    assert inline.image.size == (560, 280)
    assert len(inline.escape()) < 1_000_000
    assert Inline(noise(40, 30), graphics).image.size == (40, 30)


def test_nothing_is_written_where_there_are_no_graphics() -> None:
    out = io.StringIO()
    console(file=out).print(Inline(noise(), Graphics.NONE), end="")
    assert out.getvalue() == ""


def test_a_picture_escape_passes_rich_unharmed() -> None:
    out = io.StringIO()
    inline = Inline(noise(200, 150), Graphics.KITTY, indent=4)
    console(file=out, width=30).print(inline)
    assert inline.escape() in out.getvalue()


def decoded(payload: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(payload))).convert("RGB")


def read_sixel(text: str) -> np.ndarray:
    """A small sixel decoder: raster size, colour definitions, repeats, carriage returns and line feeds."""
    body = text.removeprefix("\x1bPq").removesuffix("\x1b\\")
    raster = re.match(r'"1;1;(\d+);(\d+)', body)
    assert raster is not None
    width, height = int(raster[1]), int(raster[2])
    canvas = np.zeros((height + 6, width, 3), np.uint8)
    palette: dict[int, list[int]] = {}
    x = top = colour = 0
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])", body[raster.end() :]):
        if token[2]:
            palette[int(token[1])] = [round(int(part) * 2.55) for part in token.groups()[1:4]]
        elif token[1]:
            colour = int(token[1])
        elif token[8]:
            x, top = 0, top + 6 * (token[8] == "-")
        else:
            count, bits = int(token[5] or 1), ord(token[6] or token[7]) - 63
            for row in range(6):
                if bits >> row & 1:
                    canvas[top + row, x : x + count] = palette[colour]
            x += count
    return canvas[:height]
