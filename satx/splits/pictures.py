"""Which tiles are one picture: by their pixels, flipped or turned or not, and by a perceptual hash if it was encoded again.

The eight transformations of a square (four turns, and the same after a flip) are numbered 0 to 7 throughout; see `turned`.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn

from satx.tiles.decode import pixel_digest

NUM_TURNS = 8
REDUCED_PX = 32  # four pixels for each of the hash's 8 x 8 frequencies, as in imagehash
# Measured on the 732 tiles of a session, their quarters and 2,420 rendered ones: pairs of different pictures within this distance
# correlate by at most 0.963; JPEG of quality 40 to 85, half to full size, 20% darker to 15% brighter and of 30% more contrast
# keeps 95% to 100% of the pictures within both limits (`make bench NAME=pairs`).
MAX_HASH_DISTANCE = 6
MIN_CORRELATION = 0.97
MIN_CONTRAST = 2.0  # grey levels of standard deviation; the plainest of those tiles has 2.2

_HASH_EDGE = 8
_NUM_SPOTS = 8  # places of which each gives eight pixels to the marks
_CHUNK = 4096  # pictures at a time, to bound memory


class Sketch(NamedTuple):
    """What is kept of a picture to find it again.

    Attributes:
        digest: Digest of its pixels, as `satx.tiles.decode.pixel_digest` gives it.
        marks: Bytes that are the same in every flip and turn of the picture, and rarely in another one.
        reduced: (32, 32) uint8, the green of the picture, made small.
    """

    digest: str
    marks: bytes
    reduced: np.ndarray


class Likeness(NamedTuple):
    """Two pictures of which one is the other encoded again: their indices, the smaller first, and how they correlate."""

    first: int
    second: int
    correlation: float


def sketch_of(pixels: np.ndarray, digest: str) -> Sketch:
    """Return the sketch of a picture.

    Args:
        pixels: (H, W, 3) uint8.
        digest: Their digest.
    """
    green = Image.fromarray(np.ascontiguousarray(pixels[:, :, 1]))  # nearly as grey is, in a quarter of the time
    return Sketch(digest, _marks(pixels), np.asarray(green.resize((REDUCED_PX, REDUCED_PX), Image.Resampling.BILINEAR)))


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Return a view of a picture, (H, W, ...), under one of the eight transformations.

    Args:
        pixels: The picture.
        turn: Four quarter turns (counterclockwise) are 0 to 3; 4 to 7 are the same of the picture flipped left to right.
    """
    return np.rot90(np.fliplr(pixels) if turn >= 4 else pixels, turn % 4)


def turned_digest(pixels: np.ndarray) -> str:
    """Return the smallest digest of the eight transformations of a picture, which is the same for each of them."""
    return min(pixel_digest(turned(pixels, turn)) for turn in range(NUM_TURNS))


def perceptual_hashes(reduced: np.ndarray) -> np.ndarray:
    """Return the perceptual hashes of pictures under the eight transformations.

    The hash is pHash as imagehash computes it of a small picture: the signs of the 8 x 8 lowest frequencies of a discrete cosine
    transform, against their median. A flip changes the sign of the odd frequencies along its axis and a quarter turn exchanges
    the axes too, so one transform of each picture gives all eight hashes.

    Args:
        reduced: (N, 32, 32) uint8.

    Returns:
        (N, 8) uint64.
    """
    waves = dctn(reduced.astype(np.float32), axes=(1, 2))[:, :_HASH_EDGE, :_HASH_EDGE]  # (N, 8, 8)
    odd = np.where(np.arange(_HASH_EDGE) % 2, -1, 1).astype(np.float32)
    hashes = np.empty((len(reduced), NUM_TURNS), np.uint64)
    for turn in range(NUM_TURNS):
        found = waves * odd if turn >= 4 else waves
        for _ in range(turn % 4):  # a quarter turn counterclockwise exchanges the axes, then flips upside down
            found = found.transpose(0, 2, 1) * odd[:, None]
        bits = found.reshape(-1, _HASH_EDGE**2)
        is_above = bits > np.median(bits, axis=1, keepdims=True)
        hashes[:, turn] = np.packbits(is_above, axis=1).view(">u8")[:, 0]
    return hashes


def encoded_again(reduced: np.ndarray) -> list[Likeness]:
    """Return the pairs of pictures of which one is the other encoded again, flipped or turned or not.

    Their hashes differ by at most `MAX_HASH_DISTANCE` of 64 bits under one of the eight transformations, and the small pictures
    correlate by at least `MIN_CORRELATION` under it. The hash of a picture of one color is that of its noise, so such
    pictures are in no pair. Pictures of one hash are paired with the first of them only, which stands for all in other pairs.

    Args:
        reduced: (N, 32, 32) uint8.
    """
    starts = range(0, len(reduced), _CHUNK)
    contrast = [chunk.std(axis=(1, 2)) for chunk in (reduced[start : start + _CHUNK] for start in starts)]
    told = np.flatnonzero(np.concatenate([*contrast, np.zeros(0)]) >= MIN_CONTRAST)
    hashes = np.zeros((len(reduced), NUM_TURNS), np.uint64)
    for start in starts:
        hashes[start : start + _CHUNK] = perceptual_hashes(reduced[start : start + _CHUNK])
    firsts, found = _same_hash(reduced, hashes, told)
    for one, other, turn in _near(hashes[firsts]):
        first, second = firsts[one], firsts[other]
        correlation = _correlation(reduced[first], turned(reduced[second], turn))
        if correlation >= MIN_CORRELATION:
            found.append(Likeness(first, second, correlation))
    return sorted(found)


def _same_hash(reduced: np.ndarray, hashes: np.ndarray, told: np.ndarray) -> tuple[list[int], list[Likeness]]:
    """Return the first picture of every hash, in ascending order, and its pairs with the others of that hash.

    The smallest of the eight hashes of a picture is that of all its flips and turns. Two pictures may have one hash by chance;
    then both are a first one.
    """
    turns = hashes.argmin(axis=1)
    firsts_of: dict[int, list[int]] = defaultdict(list)
    firsts, found = [], []
    for index in told.tolist():
        rivals = firsts_of[int(hashes[index, turns[index]])]
        upright = turned(reduced[index], turns[index])
        for first in rivals:
            correlation = _correlation(turned(reduced[first], turns[first]), upright)
            if correlation >= MIN_CORRELATION:
                found.append(Likeness(first, index, correlation))
                break
        else:
            rivals.append(index)
            firsts.append(index)
    return firsts, found


def _near(hashes: np.ndarray) -> list[tuple[int, int, int]]:
    """Return the pairs of near hashes, (N, 8): two indices, the smaller first, and the nearest transformation of the second.

    Hashes that differ in at most d bits are equal in one of d + 1 bands of bits, so only those are compared.
    """
    found = [np.empty((0, 4), np.int64)]
    for low, high in pairwise(np.linspace(0, 64, MAX_HASH_DISTANCE + 2).astype(np.uint64)):
        mask = (np.uint64(1) << (high - low)) - np.uint64(1)
        bands = hashes >> low & mask
        order = np.argsort(bands[:, 0], kind="stable")
        for start in range(0, len(hashes), _CHUNK):
            for turn in range(NUM_TURNS):
                second, position = _equal(bands[order, 0], bands[start : start + _CHUNK, turn])
                first, second = order[position], second + start
                distance = np.bitwise_count(hashes[first, 0] ^ hashes[second, turn])
                near = (first < second) & (distance <= MAX_HASH_DISTANCE)
                columns = (first[near], second[near], distance[near], np.full(int(near.sum()), turn))
                found.append(np.stack(columns, axis=1).astype(np.int64))
    rows = np.unique(np.concatenate(found), axis=0)  # of each pair, the smallest distance comes first
    _, kept = np.unique(rows[:, :2], axis=0, return_index=True)
    return [(first, second, turn) for first, second, _, turn in rows[kept].tolist()]


def _equal(ordered: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of equal values as their places in `asked` and in `ordered`, which ascends."""
    start, stop = np.searchsorted(ordered, asked, "left"), np.searchsorted(ordered, asked, "right")
    counts = stop - start
    before = np.cumsum(counts) - counts
    places = np.arange(counts.sum()) + np.repeat(start - before, counts)
    return np.repeat(np.arange(len(asked)), counts), places


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _marks(pixels: np.ndarray) -> bytes:
    """Return pixels at the same distances from each corner along both axes, sorted: a flip or turn only exchanges them."""
    height, width = pixels.shape[:2]
    red, green, blue = (
        pixels.reshape(-1, 3)[_spots(height, width)].astype(np.int32).transpose(2, 0, 1)
    )  # each (8, spots)
    marks = np.sort(red << 16 | green << 8 | blue, axis=0)
    return np.array(sorted((height, width)), np.int32).tobytes() + marks.tobytes()


@lru_cache(16)
def _spots(height: int, width: int) -> np.ndarray:
    """Return the indices of the pixels of the marks, (8, spots)."""
    half = (min(height, width) + 1) // 2
    steps = np.arange(_NUM_SPOTS)
    near, far = steps * half // _NUM_SPOTS, (5 * steps + 2) % _NUM_SPOTS * half // _NUM_SPOTS
    rows = np.stack([near, near, -1 - near, -1 - near, far, far, -1 - far, -1 - far])
    columns = np.stack([far, -1 - far, far, -1 - far, near, -1 - near, near, -1 - near])
    return np.asarray(rows % height * width + columns % width)
