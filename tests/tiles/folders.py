"""Small folders of noise tiles for the tests of this folder."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

CLASSES = ("not-school", "school")
SPLITS = ("train", "valid", "test")


def noise_image(seed: int, *, size_px: int = 16, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)  # (S, S, 3) uint8
    return Image.fromarray(pixels).convert(mode)


def image_bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff_bytes(*shape: int, dtype: str = "uint8", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def png_bytes(*, bits: int, color: int, num_bands: int, edge_px: int = 4) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = (b"\0" + bytes(edge_px * num_bands * bits // 8)) * min(edge_px, 64)
    header = struct.pack(">IIBBBBB", edge_px, edge_px, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write_tiles(root: Path, *, num_each: int = 3, size_px: int = 48) -> Path:
    """Write `num_each` different PNG tiles for every split and class: `train/school/0.png` and so on."""
    seed = 0
    for split in SPLITS:
        for label in CLASSES:
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(num_each):
                seed += 1
                (folder / f"{number}.png").write_bytes(image_bytes(noise_image(seed, size_px=size_px)))
    return root
