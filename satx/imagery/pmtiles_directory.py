"""Directories of PMTiles 3 as arrays: https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md.

The library `pmtiles` reads a directory one number at a time in Python, and again for each tile. A run asks for millions of
tiles, so here whole directories are decoded at once; the tests compare both.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

MAX_DIRECTORY_BYTES = 64_000_000  # unpacked; writers make leaves of some 4,096 entries
_NUM_COLUMNS = 4
_LONGEST_NUMBER_BYTES = 10
_GZIP_WINDOW = 31  # zlib's number for gzip


class DamagedDirectory(ValueError):
    """The bytes are no directory."""


@dataclass(frozen=True)
class Directory:
    """Entries in the order of their ids; all arrays are int64 and of the same length.

    Attributes:
        ids: Id of an entry's first tile.
        run_lengths: Number of tiles that share an entry's bytes; 0 for a directory below this one.
        lengths: Bytes.
        offsets: Where they begin, within the tiles or within the directories below.
    """

    ids: np.ndarray
    run_lengths: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray


def read_directory(data: bytes) -> Directory:
    """Decode an unpacked directory.

    Raises:
        DamagedDirectory: It is cut off, has more than it says, or its entries are not in order.
    """
    numbers = _varints(data)
    num_entries = int(numbers[0]) if len(numbers) else 0
    if num_entries < 1 or len(numbers) != 1 + _NUM_COLUMNS * num_entries:
        raise DamagedDirectory(f"{len(numbers)} numbers for {num_entries} entries")
    steps, run_lengths, lengths, offsets = numbers[1:].reshape(_NUM_COLUMNS, num_entries)
    ids = np.cumsum(steps)
    if (numbers < 0).any() or (steps[1:] < 1).any() or (ids < 0).any():
        raise DamagedDirectory("entries that are not in order")
    return Directory(ids, run_lengths, lengths, _offsets(offsets, lengths))


def unpacked(data: bytes, max_bytes: int) -> bytes:
    """Return the content of gzip data of at most `max_bytes`.

    Raises:
        DamagedDirectory: It is no gzip data, is cut off, or has more.
    """
    inflate = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = inflate.decompress(data, max_bytes)
    except zlib.error as error:
        raise DamagedDirectory(f"damaged compressed data: {error}") from error
    if not inflate.eof:
        raise DamagedDirectory(f"compressed data that is cut off, or has more than {max_bytes:,} bytes")
    return content


def ids_of_zoom(zoom: int) -> tuple[int, int]:
    """Return the first id of a zoom, and the first of the next."""
    return (4**zoom - 1) // 3, (4 ** (zoom + 1) - 1) // 3


def places_of_ids(ids: np.ndarray, zoom: int) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and rows, int64, of ids of one zoom: their places on a Hilbert curve.

    The algorithm is that of `pmtiles.tile.tileid_to_zxy`, which is `d2xy` of https://en.wikipedia.org/wiki/Hilbert_curve.
    """
    remaining = ids - ids_of_zoom(zoom)[0]
    x, y = np.zeros_like(ids), np.zeros_like(ids)
    for bit in range(zoom):
        side = 1 << bit
        right = remaining >> 1 & 1
        lower = (remaining ^ right) & 1
        flipped, turned = (lower == 0) & (right == 1), lower == 0
        x, y = np.where(flipped, side - 1 - x, x), np.where(flipped, side - 1 - y, y)
        x, y = np.where(turned, y, x), np.where(turned, x, y)
        x, y = x + (right << bit), y + (lower << bit)
        remaining = remaining >> 2
    return x, y


def _varints(data: bytes) -> np.ndarray:
    """Return all numbers of a sequence of LEB128, seven bits a byte with the lowest first; int64, negative from 2^63."""
    values = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(values < 0x80)
    if not len(values) or not len(ends) or ends[-1] != len(values) - 1:
        raise DamagedDirectory("a number that is cut off")
    starts = np.concatenate(([0], ends[:-1] + 1))
    num_bytes = ends - starts + 1
    if num_bytes.max() > _LONGEST_NUMBER_BYTES:
        raise DamagedDirectory(f"a number of {num_bytes.max()} bytes")
    shifts = (np.arange(len(values)) - np.repeat(starts, num_bytes)) * 7
    parts = (values & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.add.reduceat(parts, starts).astype(np.int64)


def _offsets(stored: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return offsets; they are stored plus one, and as 0 where an entry follows the bytes of the one before it."""
    if stored[0] == 0:
        raise DamagedDirectory("a first entry without an offset")
    before = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    last_stored = np.maximum.accumulate(np.where(stored > 0, np.arange(len(stored)), 0))
    return np.asarray(stored[last_stored] - 1 + before - before[last_stored])
