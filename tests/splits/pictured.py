"""Pictures of a rendered country for the tests of pairs: its windows, and what flips, turns and encoders make of them."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from satx.sample.country import Country, render_window
from satx.tiles.layout import TileFile

COUNTRY = Country(seed=22)
WINDOW_PX = 128


@cache
def window(x_px: int, y_px: int, size_px: int = WINDOW_PX) -> np.ndarray:
    """Return (size_px, size_px, 3) uint8 of the country."""
    return render_window(COUNTRY, x_px, y_px, size_px)


def encoded(pixels: np.ndarray, *, quality: int = 40, brightness: float = 1.0, size_px: int | None = None) -> bytes:
    """Return a picture as JPEG, darker or lighter and in another size than before."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if size_px is not None:
        image = image.resize((size_px, size_px), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(brightness).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def lossless(pixels: np.ndarray) -> bytes:
    """Return a picture as PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def write_files(root: Path, pictures: dict[str, bytes], split: str = "") -> list[TileFile]:
    """Write files below a folder and return them as tiles, in this order."""
    files = []
    for relative, data in pictures.items():
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files.append(TileFile(path, relative, "school", split, ""))
    return files
