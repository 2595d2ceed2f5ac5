"""Pairs of tiles that show the same ground: by where they lie, by their pixels, and by how alike they look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from satx.models.weights_file import Weights
from satx.splits.neighbours import Looks, looks_of, nearest_pairs
from satx.splits.pictures import Sketch, encoded_again, sketch_of, turned_digest
from satx.splits.registration import MIN_FIT, best_fits
from satx.tiles.check import in_parallel, mapped_in_parallel, no_progress, read_and_decode
from satx.tiles.decode import pixel_digest
from satx.tiles.layout import TileFile
from satx.tiles.report import Problem

OVERLAP, PIXELS, HASH, FEATURES, CONFIRMED = "overlap", "pixels", "hash", "features", "confirmed"
CERTAIN = (OVERLAP, PIXELS, HASH, CONFIRMED)  # kinds of pairs that need no answer of a person
TOUCH_SHARE = 1 / 128  # two pixels of 256

OnProgress = Callable[[int, int], None]
OnStage = Callable[[str, int, int], None]  # what, number done, total


def silent(_what: str, _done: int, _total: int) -> None:
    """Report no progress."""


class Pair(NamedTuple):
    """Two tiles that show the same ground, or may.

    Attributes:
        first: Index of a tile.
        second: Index of another, larger than `first`.
        how: `overlap` (their squares overlap), `pixels` (the same picture, or it flipped or turned), `hash` (the same picture
            encoded again, or it flipped or turned), `features` (they look alike; a person decides) or `confirmed` (a person said
            so).
        score: Share of the smaller square that both cover; 1 for the same pixels; else how well the pictures correlate.
    """

    first: int
    second: int
    how: str
    score: float


def overlapping(footprints: np.ndarray) -> list[Pair]:
    """Return the pairs of tiles whose squares on the map overlap.

    Squares that overlap by at most `TOUCH_SHARE` of the smaller side along an axis only touch: coordinates are rounded to seven
    digits and windows to pixels, each of which moves a square by up to a pixel. Squares meet across the antimeridian too.

    Args:
        footprints: (N, 4) float64 west, north, east, south, as `read_footprints` returns it; tiles with NaN are in no pair.

    Returns:
        The pairs in ascending order; the score is the common share of the smaller square's area.
    """
    from shapely import STRtree, box

    known = np.flatnonzero(~np.isnan(footprints).any(axis=1))
    places = footprints[known].copy()
    places[:, [0, 2]] -= np.floor(places[:, :1])  # west in 0..1; a square across the antimeridian ends beyond 1
    beyond = np.flatnonzero(places[:, 2] > 1)
    squares = np.concatenate([places, places[beyond] - [1, 0, 1, 0]])
    numbers = np.concatenate([known, known[beyond]])
    one, other = STRtree(box(*squares.T)).query(box(*places.T))
    share = _common_share(places[one], squares[other])
    first, second = known[one], numbers[other]
    found = {
        (a, b): shared
        for a, b, shared in zip(first.tolist(), second.tolist(), share.tolist(), strict=True)
        if a != b and shared > 0
    }
    both = {(min(key), max(key)): shared for key, shared in found.items()}
    return [Pair(a, b, OVERLAP, shared) for (a, b), shared in sorted(both.items())]


def _common_share(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the common share of the smaller square's area, (n,), 0 where two squares (n, 4) only touch."""
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    smaller = np.minimum(one[:, 2:] - one[:, :2], other[:, 2:] - other[:, :2])  # (n, 2) sides
    parts = (high - low) / smaller
    return np.where((parts > TOUCH_SHARE).all(axis=1), np.minimum(parts, 1).prod(axis=1), 0.0)


def same_pictures(files: Sequence[TileFile], on_progress: OnProgress = no_progress) -> list[Pair]:
    """Read all tiles and return the pairs of one picture, flipped or turned or not, in the same pixels or encoded again.

    Tiles that cannot be decoded are in no pair; `satx data check` reports them.

    Args:
        files: The tiles.
        on_progress: Called with (done, total).

    Returns:
        As `alike` returns it.

    Raises:
        DataError: Memory does not suffice to decode a tile.
    """
    sketches = mapped_in_parallel(_sketch, files, on_progress)
    return alike(files, {index: sketch for index, sketch in enumerate(sketches) if sketch is not None})


def alike(files: Sequence[TileFile], sketches: Mapping[int, Sketch]) -> list[Pair]:
    """Return the pairs of one picture among tiles whose sketches are known.

    Several tiles of the same pixels are paired with the first of them only, which stands for all of them in other pairs: so there
    are few pairs, however often a placeholder was saved, and they connect the same tiles.

    Args:
        files: The tiles.
        sketches: Sketches by index into `files`.

    Returns:
        The pairs in ascending order, each with `how` `pixels` or `hash`.
    """
    firsts, pairs = _same_pixels(files, dict(sorted(sketches.items())))
    if firsts:
        for found in encoded_again(np.array([sketches[index].reduced for index in firsts])):
            pairs.append(Pair(firsts[found.first], firsts[found.second], HASH, found.correlation))
    return sorted(pairs)


def _same_pixels(files: Sequence[TileFile], sketches: Mapping[int, Sketch]) -> tuple[list[int], list[Pair]]:
    """Return the first tile of every picture, in ascending order, and its pairs with the others.

    Only tiles whose marks another picture has too are decoded again, for the digests of their flips and turns.
    """
    pictures: dict[bytes, set[str]] = defaultdict(set)
    for sketch in sketches.values():
        pictures[sketch.marks].add(sketch.digest)
    first_of: dict[str, int] = {}
    turned_of: dict[str, str] = {}
    pairs = []
    for index, sketch in sketches.items():
        picture = sketch.digest
        if len(pictures[sketch.marks]) > 1:
            if picture not in turned_of:
                turned_of[picture] = _turned_digest(files[index]) or picture
            picture = turned_of[picture]
        first = first_of.setdefault(picture, index)
        if first != index:
            pairs.append(Pair(first, index, PIXELS, 1.0))
    return sorted(first_of.values()), pairs


def _turned_digest(file: TileFile) -> str | None:
    tile = read_and_decode(file)
    return None if isinstance(tile, Problem) else turned_digest(tile.pixels)


def _sketch(file: TileFile) -> Sketch | None:
    tile = read_and_decode(file)
    return None if isinstance(tile, Problem) else sketch_of(tile.pixels, pixel_digest(tile.pixels))


def feature_neighbours(
    files: Sequence[TileFile],
    footprints: np.ndarray,
    weights: Weights,
    *,
    certain: Collection[Pair] = (),
    on_progress: OnStage = silent,
) -> list[Pair]:
    """Return the pairs of tiles that look alike and fit on each other: candidates, for a person to confirm.

    A frozen network finds the nearest neighbours of each tile; pairs whose pictures also fit on each other when one is shifted,
    flipped or turned are returned (`registration.best_fit`). Pairs of tiles that both have a place on the map are left out, since
    `overlapping` knows them.

    Args:
        files: The tiles.
        footprints: (N, 4), as `read_footprints` returns it.
        weights: Weights of `neighbours.BACKBONE`.
        certain: Pairs to leave out.
        on_progress: Called with (what, done, total).

    Returns:
        Those across splits first, each sort with the best fit first; the score is the correlation of what both show.
    """
    looks = looks_of(files, weights, partial(on_progress, "looking at tiles"))
    return fitting_pairs(files, footprints, looks, certain=certain, on_progress=partial(on_progress, "comparing tiles"))


def fitting_pairs(
    files: Sequence[TileFile],
    footprints: np.ndarray,
    looks: Looks,
    *,
    certain: Collection[Pair] = (),
    on_progress: OnProgress = no_progress,
) -> list[Pair]:
    """Return the neighbours in features that fit on each other; see `feature_neighbours`.

    Args:
        files: The tiles.
        footprints: (N, 4), as `read_footprints` returns it.
        looks: What the tiles look like.
        certain: Pairs to leave out.
        on_progress: Called with (done, total).
    """
    splits = np.array([files[number].split for number in looks.numbers])
    placed = ~np.isnan(footprints[looks.numbers]).any(axis=1)
    left_out = {(pair.first, pair.second) for pair in certain}
    neighbours: dict[int, list[int]] = defaultdict(list)
    for first, second in nearest_pairs(looks.features, splits).tolist():
        numbers = int(looks.numbers[first]), int(looks.numbers[second])
        if not (placed[first] and placed[second]) and numbers not in left_out:
            neighbours[first].append(second)

    def fits(first: int) -> np.ndarray:
        return best_fits(looks.edges[first], looks.edges[neighbours[first]])

    pairs = []
    for done, (first, scores) in enumerate(in_parallel(fits, neighbours), 1):
        for second, score in zip(neighbours[first], scores.tolist(), strict=True):
            if score >= MIN_FIT:
                pairs.append(Pair(int(looks.numbers[first]), int(looks.numbers[second]), FEATURES, score))
        on_progress(done, len(neighbours))
    return sorted(pairs, key=lambda pair: (files[pair.first].split == files[pair.second].split, -pair.score))
