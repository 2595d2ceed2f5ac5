"""Check the chunks of a PNG, and reduce it to those that hold its pixels.

Pillow checks neither the checksums of the pixels nor that all of them are there, and it fails on damaged metadata, which
TensorFlow skips.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from satx.tiles.formats import BrokenTile, check_size

_SIGNATURE_BYTES = 8
_HEADER, _PALETTE, _DATA, _END = b"IHDR", b"PLTE", b"IDAT", b"IEND"
_NEEDED = (_HEADER, _PALETTE, b"tRNS", _DATA, _END)
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel by color type
_PALETTE_TYPE = 3
_MAX_EDGE_PX = 1_000_000  # of libpng
_SPARE_BYTES = 65_536  # pixel data beyond what the size asks for is ignored up to here
# Start and step of the rows and columns in each pass of an interlaced image.
_PASSES = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))


@dataclass(frozen=True)
class PlainPng:
    """A PNG without metadata.

    Attributes:
        data: The file's bytes without the chunks that do not change its pixels.
        has_more_images: Whether it is animated.
    """

    data: bytes
    has_more_images: bool


def plain_png(data: bytes) -> PlainPng:
    """Check a PNG as strictly as libpng does, and return it without metadata.

    Raises:
        BrokenTile: A chunk is damaged, missing or in a wrong place; pixels are missing; or it has 16 bits per band or
            too many pixels.
    """
    chunks = list(_chunks(data))
    names = [name for name, _ in chunks]
    _check_order(names)
    header = chunks[0][1]
    width_px, height_px, num_bits, color_type, interlaced = _read_header(header)
    has_palette = _PALETTE in names
    if color_type == _PALETTE_TYPE and not has_palette:
        raise BrokenTile("broken", "damaged PNG: its palette is missing")
    expected_bytes = _num_bytes(width_px, height_px, num_bits * _SAMPLES[color_type], interlaced)
    _check_pixels(b"".join(body for name, body in chunks if name == _DATA), expected_bytes)
    kept = b"".join(_chunk(name, body) for name, body in chunks if name in _NEEDED)
    animated = any(name == b"acTL" and body[:4] not in (b"\0\0\0\0", b"\0\0\0\x01") for name, body in chunks)
    return PlainPng(data[:_SIGNATURE_BYTES] + kept, animated)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of every chunk up to the last."""
    position = _SIGNATURE_BYTES
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        name, end = data[position + 4 : position + 8], position + 12 + length
        if end > len(data):
            break
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if not name.isalpha() or zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:
            raise BrokenTile("broken", f"damaged PNG: the checksum of its chunk {name!r} is wrong")
        yield name, data[position + 8 : end - 4]
        if name == _END:
            return
        position = end
    raise BrokenTile("broken", "truncated PNG: its end is missing")


def _check_order(names: list[bytes]) -> None:
    """Refuse chunks that libpng does not know but would need, and those that are twice or in a wrong place."""
    unknown = [name for name in names if name[:1].isupper() and name not in _NEEDED]
    if unknown:
        raise BrokenTile("broken", f"damaged PNG: unknown chunk {unknown[0]!r}")
    data = [place for place, name in enumerate(names) if name == _DATA]
    palette = [place for place, name in enumerate(names) if name == _PALETTE]
    in_place = names[0] == _HEADER and names.count(_HEADER) == 1 and bool(data)
    in_place = in_place and len(palette) <= 1 and all(place < data[0] for place in palette)
    if not in_place or data != list(range(data[0], data[0] + len(data))):
        raise BrokenTile("broken", "damaged PNG: its chunks are missing, repeated or in a wrong order")


def _read_header(body: bytes) -> tuple[int, int, int, int, bool]:
    """Return width and height in pixels, bits per sample, color type, and whether the image is interlaced."""
    if len(body) != 13:
        raise BrokenTile("broken", f"damaged PNG: expected a header of 13 bytes, got {len(body)}")
    width_px, height_px, num_bits, color_type, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    check_size(width_px, height_px)
    if num_bits == 16:
        # Pillow would silently keep only the upper byte of color samples, but all 16 bits of grey ones.
        raise BrokenTile("refused", "16-bit PNG; convert it to 8 bits per band")
    if (
        max(width_px, height_px) > _MAX_EDGE_PX
        or color_type not in _SAMPLES
        or compression
        or filtering
        or interlace > 1
    ):
        raise BrokenTile("broken", "damaged PNG: its header has a value that PNG does not define")
    return width_px, height_px, num_bits, color_type, bool(interlace)


def _num_bytes(width_px: int, height_px: int, bits_per_pixel: int, interlaced: bool) -> int:
    """Return the length of the pixels before compression; every row begins with one byte for its filter."""
    passes = _PASSES if interlaced else ((0, 1, 0, 1),)
    total = 0
    for row, row_step, column, column_step in passes:
        num_rows = max(0, -(-(height_px - row) // row_step))
        num_columns = max(0, -(-(width_px - column) // column_step))
        total += num_rows * (1 + (num_columns * bits_per_pixel + 7) // 8) if num_columns else 0
    return total


def _check_pixels(compressed: bytes, expected_bytes: int) -> None:
    inflate = zlib.decompressobj()
    try:
        found = len(inflate.decompress(compressed, expected_bytes + _SPARE_BYTES))
    except zlib.error as error:
        raise BrokenTile("broken", f"damaged PNG: {error}") from error
    if found < expected_bytes or not inflate.eof:
        raise BrokenTile("broken", f"damaged PNG: expected {expected_bytes:,} bytes of pixels, got {found:,} or no end")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
