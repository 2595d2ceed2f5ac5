"""Tell whether bytes are a tile with imagery, by strict decoding; never by what a server says of them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from satx.errors import DataError
from satx.imagery.contract import BLANK, BROKEN, REFUSED, Unscored
from satx.tiles.decode import DecodedTile, decode_tile, pixel_digest, read_tile, resize_tile
from satx.tiles.formats import HEAD_BYTES, PNG, WEBP, BrokenTile, image_format

Placeholders = frozenset[str]  # pixel digests of pictures that stand for "no imagery here"

# Largest difference within a band of a picture of one color. JPEG stores one color exactly: no difference in 5,760 files of
# qualities 50 to 95, half of them compressed twice. WebP with loss does not: up to 11 in 900 files of qualities 75 to 90.
_COLOR_RANGE, _WEBP_COLOR_RANGE = 0, 12
_TEXT_CHARS = 40  # of a page, to tell what it is
# Words that could be a key are not shown: a page of an error may repeat the request.
_PERHAPS_SECRET = re.compile(r"[^\s<>\"'=&?/:,;]*\d[^\s<>\"'=&?/:,;]*|[^\s<>\"'=&?/:,;]{16,}|(?<==)[^\s<>\"']+")


def read_placeholders(paths: Iterable[Path]) -> Placeholders:
    """Return the digests of placeholders: pictures that a source gives where it has no imagery.

    A tile is one of them if it has the same pixels, in whatever file.

    Args:
        paths: Files as the source gave them; a screenshot has other pixels.

    Raises:
        DataError: A file is no image that satx reads.
    """
    digests = set()
    for path in paths:
        try:
            digests.add(pixel_digest(decode_tile(read_tile(path), path.name).pixels))
        except BrokenTile as error:
            raise DataError(
                f"{path}: expected the picture of a placeholder, got: {error}. Save the placeholder as the source gives it."
            ) from error
    return frozenset(digests)


def judged(data: bytes, name: str, image_size_px: int, placeholders: Placeholders) -> np.ndarray | Unscored:
    """Decode a tile strictly and resize it, or tell why it cannot be scored.

    Args:
        data: The bytes of a file, whatever they are.
        name: The tile's name, for log messages.
        image_size_px: Edge of the model's tiles.
        placeholders: Digests of the pictures that count as blank.

    Returns:
        The pixels, (S, S, 3) uint8. Or `broken`: damaged, or no image. `refused`: an image of a kind that satx does not take.
        `blank`: of one color, fully transparent, or a placeholder.

    Raises:
        MemoryError: There is too little memory to decode it; this tells nothing about the tile.
    """
    try:
        tile = decode_tile(data, name)
    except BrokenTile as error:
        return Unscored(BROKEN if error.kind == "broken" else REFUSED, _text_shown(data) or str(error))
    if _is_one_color(tile):
        return Unscored(BLANK, "one color")
    if placeholders and pixel_digest(tile.pixels) in placeholders:
        return Unscored(BLANK, "a known placeholder")
    if _is_transparent(tile, data):
        return Unscored(BLANK, "fully transparent")
    return resize_tile(tile.pixels, image_size_px)


def _is_one_color(tile: DecodedTile) -> bool:
    """Return whether a picture has one color; the first row tells it of most that have more."""
    allowed = _WEBP_COLOR_RANGE if tile.format == WEBP else _COLOR_RANGE
    return all(_range_of(part) <= allowed for part in (tile.pixels[:1], tile.pixels))


def _range_of(pixels: np.ndarray) -> int:
    """Return the largest difference within a band; first between rows, since whole rows are compared at once."""
    highest, lowest = pixels.max(axis=0).max(axis=0), pixels.min(axis=0).min(axis=0)
    return int((highest - lowest).max())


def _is_transparent(tile: DecodedTile, data: bytes) -> bool:
    """Return whether nothing of a picture is visible; the decoder drops alpha, so files that have it are decoded again."""
    if tile.format not in (PNG, WEBP):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            if not image.has_transparency_data:
                return False
            visible = image.convert("RGBA").getchannel("A").getbbox()
    except (OSError, ValueError, SyntaxError, UserWarning):  # metadata that Pillow cannot read, and the decoder skipped
        return False
    return visible is None


def _text_shown(data: bytes) -> str | None:
    """Return a reason with the beginning of a page of text, such as HTML or JSON; None if the data is none."""
    if not data or image_format(data[:HEAD_BYTES]) is not None:
        return None
    text = data[:512].decode("utf-8-sig", "ignore")
    if (
        "\ufffd" in text or len(text.encode()) < len(data[:512]) - 6
    ):  # 6: a byte order mark, and a character that was cut
        return None
    words = " ".join(text.split())
    if not words or not words.isprintable():
        return None
    shown = _PERHAPS_SECRET.sub("…", words[:512])
    return f"a page of text, not an image: {shown[:_TEXT_CHARS]}{'…' if len(shown) > _TEXT_CHARS else ''}"
