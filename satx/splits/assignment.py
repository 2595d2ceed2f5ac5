"""Assign blocks of tiles to train, valid and test, with the classes in equal shares and whole blocks in one split.

The blocks are dealt to folds by scikit-learn's StratifiedGroupKFold, and the folds to the splits: for 70:20:10 seven, two and one
of ten. All follows from the tiles' labels, slices and blocks, in the order of their paths, and the seed.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from satx.errors import ConfigError, DataError
from satx.splits.buffer import NOWHERE, left_out
from satx.splits.groups import blocks_of, groups_of
from satx.splits.pairs import Pair
from satx.tiles.layout import SPLITS, TileFile

MAX_FOLDS = 100
SHARES = (70, 20, 10)
_DEEPER = 3  # zooms whose numbers of blocks are named when there are too few


@dataclass(frozen=True)
class Ground:
    """What decides which tiles go together.

    Attributes:
        strata: (N,) what each split gets an equal share of: `strata_of`.
        labels: (N,) int64 index into `classes`.
        classes: Sorted by name.
        footprints: (N, 4) west, north, east and south as parts of the world, NaN where unknown.
        groups: (N,) from `groups_of`.
        block_zoom: Zoom of the blocks; None if no tile has a place.
        blocks: (N,) from `blocks_of`.
    """

    strata: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    footprints: np.ndarray
    groups: np.ndarray
    block_zoom: int | None
    blocks: np.ndarray

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return int(self.blocks.max()) + 1


@dataclass(frozen=True)
class Assignment:
    """One division of the tiles.

    Attributes:
        splits: (N,) index into `SPLITS`, or `NOWHERE` for a tile that is left out.
        too_near: (N,) `NOWHERE`, or for a tile that is left out the split that it is within one window of.
    """

    splits: np.ndarray
    too_near: np.ndarray


def parse_shares(text: str) -> tuple[int, int, int]:
    """Return shares such as `70:20:10` as the smallest whole numbers: how many of the folds each split gets.

    Raises:
        ConfigError: It is no such text, or needs more than `MAX_FOLDS` folds.
    """
    parts = text.split(":")
    shares = [int(part) if part.strip().isdecimal() else 0 for part in parts]
    common = math.gcd(*shares) or 1
    if len(shares) != len(SPLITS) or min(shares) < 1 or sum(shares) // common > MAX_FOLDS:
        raise ConfigError(
            f"--shares: expected whole numbers for {':'.join(SPLITS)} such as 70:20:10, in steps of a percent or more, got "
            f"{text!r}. Correct it."
        )
    train, valid, test = (share // common for share in shares)
    return train, valid, test


def check_splittable(
    files: Sequence[TileFile], footprints: np.ndarray, block_zoom: int | None, shares: Sequence[int]
) -> None:
    """Check what can be known before the pictures are read.

    Args:
        files: The tiles.
        footprints: (N, 4) their squares on the map, NaN where unknown.
        block_zoom: Zoom of the blocks; None if no tile has a place.
        shares: Folds of each split, from `parse_shares`.

    Raises:
        DataError: A tile has no label, there is only one class, or there are fewer tiles than folds.
        ConfigError: A block would be smaller than a tile.
    """
    if unlabelled := [file.relative for file in files if not file.label]:
        raise DataError(
            f"Expected a label for each tile, got none for {len(unlabelled)} of {len(files)}, the first of which is "
            f"{unlabelled[0]}. Fill the column label of tiles.csv, or remove their lines."
        )
    classes = {file.label for file in files}
    if len(classes) < 2:
        raise DataError(
            f"Expected tiles of two classes or more, got {classes.pop()!r} only. Add tiles of another class."
        )
    if len(files) < sum(shares):
        raise DataError(f"Expected at least {sum(shares)} tiles for these shares, got {len(files)}. Add tiles.")
    if block_zoom is not None and block_zoom > (deepest := _deepest(footprints)):
        raise ConfigError(
            f"--block-zoom: expected blocks that are at least as large as a tile, so a zoom up to {deepest}, got {block_zoom}. "
            f"Pass a smaller number; a block should be larger than what makes neighbouring places alike, such as a town."
        )


def ground_of(
    files: Sequence[TileFile],
    footprints: np.ndarray,
    pairs: Iterable[Pair],
    block_zoom: int | None,
    shares: Sequence[int],
) -> Ground:
    """Gather what decides which tiles go together; the arguments are those of `check_splittable`, and `groups_of`."""
    classes = tuple(sorted({file.label for file in files}))
    groups = groups_of(len(files), pairs)
    return Ground(
        strata=strata_of(files, sum(shares)),
        labels=np.array([classes.index(file.label) for file in files], np.int64),
        classes=classes,
        footprints=footprints,
        groups=groups,
        block_zoom=block_zoom,
        blocks=blocks_of(footprints, groups, block_zoom or 0),
    )


def strata_of(files: Sequence[TileFile], num_folds: int) -> np.ndarray:
    """Return the stratum of each tile, (N,) int64: class and slice, or the class alone where a slice has too few tiles."""
    counts = Counter((file.label, file.slice) for file in files)
    names = [(file.label, file.slice if counts[file.label, file.slice] >= num_folds else "") for file in files]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], np.int64)


def assign(ground: Ground, shares: Sequence[int], seed: int) -> Assignment:
    """Assign every tile, and leave out those within one window of another split.

    Args:
        ground: What decides which tiles go together.
        shares: Folds of each split, from `parse_shares`.
        seed: Other seeds give other divisions.

    Raises:
        DataError: There are fewer blocks than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    num_folds = sum(shares)
    if ground.num_blocks < num_folds:
        raise DataError(
            f"Expected at least {num_folds} blocks for these shares, got {_named(ground)}. {_advice(ground)}."
        )
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    fold_of = np.zeros(len(ground.strata), np.int64)
    with warnings.catch_warnings():
        # A stratum with fewer tiles than folds is missing in some of them, which `check_every_class` judges.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, rows) in enumerate(folds.split(fold_of, _spread_enough(ground, num_folds), ground.blocks)):
            fold_of[rows] = number
    # The first folds get the largest blocks, so the folds are dealt at random.
    split_of_fold = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(SPLITS)), shares))
    splits = split_of_fold[fold_of].astype(np.int8)
    too_near = left_out(ground.footprints, splits)
    return Assignment(np.where(too_near == NOWHERE, splits, np.int8(NOWHERE)), too_near)


def lacking_class(ground: Ground, splits: np.ndarray) -> tuple[str, str] | None:
    """Return a split and a class that it has no tile of, from (N,) indices into `SPLITS`; None if each has every class."""
    for number, split in enumerate(SPLITS):
        counts = np.bincount(ground.labels[splits == number], minlength=len(ground.classes))
        if not counts.all():
            return split, ground.classes[int(counts.argmin())]
    return None


def check_every_class(ground: Ground, assignment: Assignment) -> None:
    """Check that every split has tiles of every class.

    Raises:
        DataError: One has not; the message names zooms with more blocks.
    """
    lacking = lacking_class(ground, assignment.splits)
    if lacking is not None:
        split, label = lacking
        with_class = len(np.unique(ground.blocks[ground.labels == ground.classes.index(label)]))
        near = ", some of them too near to another split" if (assignment.too_near != NOWHERE).any() else ""
        raise DataError(
            f"Expected tiles of every class in every split, got none of {label} in {split}: its tiles lie in {with_class} of "
            f"{_named(ground)}{near}. {_advice(ground)}, or try another --seed."
        )


def _named(ground: Ground) -> str:
    """Return how many blocks there are, in words."""
    if ground.block_zoom is None:
        return f"{ground.num_blocks} groups of tiles that show the same ground"
    return f"{ground.num_blocks} blocks of zoom {ground.block_zoom}"


def _advice(ground: Ground) -> str:
    """Return what to do if there are too few blocks, without a full stop."""
    if ground.block_zoom is None:
        return "Add tiles of other places"
    deeper = ", ".join(f"{zoom} has {number}" for zoom, number in _deeper_blocks(ground))
    return f"Pass a deeper --block-zoom ({deeper})" if deeper else "Add tiles farther away"


def _deeper_blocks(ground: Ground) -> list[tuple[int, int]]:
    """Return the next zooms whose blocks are larger than a tile, and how many blocks each has."""
    zoom = ground.block_zoom or 0
    deeper = [one for one in range(zoom + 1, zoom + 1 + _DEEPER) if one <= _deepest(ground.footprints)]
    return [(one, int(blocks_of(ground.footprints, ground.groups, one).max()) + 1) for one in deeper]


def _deepest(footprints: np.ndarray) -> int:
    """Return the deepest zoom whose tiles are at least as large as the largest of these."""
    largest = float(np.nanmax(footprints[:, 2] - footprints[:, 0]))
    return math.floor(-math.log2(largest) + 1e-6)


def _spread_enough(ground: Ground, num_folds: int) -> np.ndarray:
    """Return the strata, or a single one if each has fewer tiles than there are folds, which scikit-learn refuses."""
    return ground.strata if np.bincount(ground.strata).max() >= num_folds else np.zeros_like(ground.strata)
