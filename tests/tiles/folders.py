"""Small folders of noise tiles for the tests of this folder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("not-school", "school")
SPLITS = ("train", "valid", "test")


def noise_image(seed: int, *, size_px: int = 16, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)  # (S, S, 3) uint8
    return Image.fromarray(pixels).convert(mode)


def image_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def write_tiles(root: Path, *, num_each: int = 3, size_px: int = 16) -> Path:
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
