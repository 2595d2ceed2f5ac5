"""A property of every file that a folder of tiles can hold: it is read, or named with the reason why it is not.

What is read as JPEG, PNG, GIF or BMP has the pixels that Pillow and the exported graph give; WebP has Pillow's. CMYK may
differ by one grey level.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from PIL import Image
from tiles.folders import image_bytes, noise_image, tiff_bytes, write_tiles

from satx.inference.graph import decoded_image
from satx.tiles.check import check_tiles
from satx.tiles.decode import decode_tile
from satx.tiles.formats import SERVED_FORMATS, BrokenTile, image_format
from satx.tiles.layout import SPLITS, read_layout

MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "LA", "1", "P", "RGBA"),
    "GIF": ("P", "L", "1"),
    "BMP": ("RGB", "L", "1", "P", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "L", "LA", "1", "P", "RGBA", "CMYK", "YCbCr", "F", "I;16"),
}
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "JPEG": {
        "quality": st.integers(1, 100),
        "progressive": st.booleans(),
        "subsampling": st.sampled_from([0, 1, 2]),
        "exif": st.sampled_from([b"", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"]),
    },
    "PNG": {"bits": st.sampled_from([1, 2, 4, 8]), "transparency": st.sampled_from([None, 0, 3])},
    "GIF": {"interlace": st.booleans(), "transparency": st.sampled_from([None, 0, 3])},
    "BMP": {},
    "WEBP": {"lossless": st.booleans(), "quality": st.integers(0, 100)},
    "TIFF": {"compression": st.sampled_from(["raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])},
}
OTHERS = (b"", b"text", b"<html>", b"BM", b"RIFF1234WEBP", b"\xff\xd8\xff", bytes(500), b"\x93NUMPY\x01\0" + bytes(99))


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """Draw an undamaged image file of any kind that Pillow or tifffile writes."""
    kind = draw(st.sampled_from(sorted(MODES)))
    mode, size = draw(st.sampled_from(MODES[kind])), (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    if kind == "TIFF" and draw(st.booleans()):
        bands = draw(st.sampled_from([(), (2,), (3,), (4,), (5,)]))
        dtype = draw(st.sampled_from(["uint8", "uint8", "uint8", "uint16", "int8", "float32"]))
        return tiff_bytes(
            *size, *bands, dtype=dtype, photometric="minisblack", planarconfig="contig" if bands else None
        )
    seed = draw(st.integers(0, 10**6))
    image = noise_image(seed, size_px=draw(st.sampled_from([1, 4, 40]))).resize(size, Image.Resampling.BICUBIC)
    options = {name: draw(value) for name, value in OPTIONS[kind].items()}
    options = {name: value for name, value in options.items() if value is not None}
    if mode not in ("P", "L", "1"):
        options.pop("transparency", None)
    if mode != "P":
        options.pop("bits", None)
    if draw(st.booleans()) and kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options |= {"save_all": True, "append_images": [image.convert("RGB").rotate(90)]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return image_bytes(
                image.convert("L").convert(mode) if mode in ("F", "I;16") else image.convert(mode), kind, **options
            )
    except (OSError, ValueError, KeyError, TypeError, struct.error):  # Pillow cannot write this combination
        reject()


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Draw the bytes of a file: an image, mostly damaged, or something else."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(OTHERS))
    data = bytearray(draw(images()))
    damage = draw(st.sampled_from(["none", "none", "cut", "flip", "zero", "append", "prepend", "splice"]))
    place = draw(st.integers(0, len(data)))
    if damage == "cut":
        del data[place:]
    elif damage == "flip" and place < len(data):
        data[place] ^= draw(st.integers(1, 255))
    elif damage == "zero":
        data[place : place + 20] = bytes(len(data[place : place + 20]))
    elif damage == "append":
        data += draw(st.binary(min_size=1, max_size=40))
    elif damage == "prepend":
        data = bytearray(draw(st.binary(min_size=1, max_size=4))) + data
    elif damage == "splice":
        data[place:place] = draw(st.binary(min_size=1, max_size=8))
    return bytes(data)


def by_graph(data: bytes) -> np.ndarray:
    return np.asarray(decoded_image(tf.constant(data)))


def by_pillow(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which satx does not use
        image = Image.open(io.BytesIO(data))
        return np.asarray((image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB"))


def difference(first: np.ndarray, second: np.ndarray) -> int:
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second).max())


@settings(max_examples=600)
@given(data=files())
def test_what_is_read_has_the_pixels_of_pillow_and_of_the_exported_graph(data: bytes) -> None:
    try:
        tile = decode_tile(data, "tile")
    except BrokenTile as broken:
        assert broken.kind in ("broken", "refused") and str(broken)
        return
    assert tile.format == image_format(data[:32])
    assert (tile.pixels.dtype, tile.pixels.ndim, tile.pixels.shape[2]) == (np.uint8, 3, 3)
    if tile.format in SERVED_FORMATS:
        assert difference(by_graph(data), tile.pixels) <= (1 if tile.converted_from == "CMYK" else 0)
    if tile.format in (*SERVED_FORMATS, "WebP"):
        assert difference(by_pillow(data), tile.pixels) <= (1 if tile.converted_from == "CMYK" else 0)


NAMES = st.one_of(
    st.sampled_from(
        ["tile.jpg", "tile", "tile.JPEG", "tile.tif", "tile.txt", "a b.png", ".png", "[bold]x.png", "tiles.csv"]
    ),
    st.binary(min_size=1, max_size=12)
    .filter(lambda name: not set(name) & set(b"/\0") and name not in (b".", b".."))
    .map(os.fsdecode),
)
PLACES = st.sampled_from(
    ["train/school", "test/not-school/deep/er", "train", "elsewhere", ".", "__x", "train/school/.x"]
)


@settings(max_examples=150)
@given(drawn=st.lists(st.tuples(files(), NAMES, PLACES), min_size=1, max_size=6))
def test_every_file_of_a_folder_is_read_or_named_with_its_reason(
    drawn: list[tuple[bytes, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = write_tiles(tmp_path_factory.mktemp("tiles"), num_each=1)
    for data, name, place in drawn:
        assume(not (root / place / name).is_dir() and not (place == "." and name == "tiles.csv"))
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / name).write_bytes(data)
    report = check_tiles(read_layout(root))
    used_or_named = sum(report.counts.values()) + sum(report.num_unused.values())
    assert used_or_named == num_files(root)
    assert set(dict(report.counts)) == {(split, label) for split in SPLITS for label in ("not-school", "school")}
    assert all(problem.detail for problem in report.problems)


def num_files(folder: Path) -> int:
    """Count the files below a folder; a hidden folder counts as one."""
    hidden = (".", "__")
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    return (
        len(list(folder.iterdir()))
        - len(inner)
        + sum(1 if path.name.startswith(hidden) else num_files(path) for path in inner)
    )
