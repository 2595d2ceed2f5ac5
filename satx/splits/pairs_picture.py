"""`pairs.png`: pairs of tiles side by side, with their names, so that a person sees whether they show the same ground."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from satx.splits.pairs import Pair
from satx.tiles.check import read_and_decode
from satx.tiles.layout import TileFile
from satx.tiles.report import Problem

TILE_PX = 192
NUM_COLUMNS = 3

_GAP_PX, _LINE_PX, _MARGIN_PX = 4, 15, 16
_CELL_PX = (2 * TILE_PX + _GAP_PX + _MARGIN_PX, TILE_PX + 3 * _LINE_PX + _MARGIN_PX)
_PAPER, _INK, _MUTED = "#ffffff", "#1f2328", "#656d76"


def draw_pairs(pairs: Sequence[Pair], files: Sequence[TileFile]) -> bytes:
    """Draw pairs in rows of three, as PNG.

    Args:
        pairs: At least one pair.
        files: The tiles.
    """
    columns = min(NUM_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (columns * _CELL_PX[0] + _MARGIN_PX, rows * _CELL_PX[1] + _MARGIN_PX), _PAPER)
    drawing = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for number, pair in enumerate(pairs):
        left = _MARGIN_PX + number % columns * _CELL_PX[0]
        top = _MARGIN_PX + number // columns * _CELL_PX[1]
        below = top + TILE_PX + 2
        drawing.text((left, below), f"{number + 1}. {pair.how} {pair.score:.2f}", _INK, font)
        for place, index in enumerate((pair.first, pair.second)):
            sheet.paste(_thumbnail(files[index]), (left + place * (TILE_PX + _GAP_PX), top))
            name = _shortened(files[index].relative, font, 2 * TILE_PX)
            drawing.text((left, below + (place + 1) * _LINE_PX), name, _MUTED, font)
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _thumbnail(file: TileFile) -> Image.Image:
    tile = read_and_decode(file)
    if isinstance(tile, Problem):  # removed since it was read
        return Image.new("RGB", (TILE_PX, TILE_PX), _MUTED)
    return Image.fromarray(tile.pixels).resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR)


def _shortened(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    """Return the end of a name that fits into a width."""
    short = name
    while font.getlength(short) > width_px:
        short = f"…{short[2:]}"
    return short
