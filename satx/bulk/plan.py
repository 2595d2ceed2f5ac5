"""Divide the tiles of a bulk prediction into blocks, the same ones for the same tiles on every machine and in every order.

A block of a grid has the tiles under one parent tile, at most `MAX_BLOCK_TILES`; a block of files has a run of sorted names, at
most `MAX_BLOCK_FILES`. The digest of a block tells which tiles it has, in which order; `verify_digest` computes it anew from the
rows of the block's file. A plan of a grid takes 8 bytes a tile.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satx.errors import DataError
from satx.grid.tiles import MAX_ZOOM, ZOOM_BIT, is_increasing, keys_of, places_of
from satx.imagery.contract import UNKNOWN, Tile

GRID, FILES = "grid", "files"
MAX_BLOCK_TILES = 4096  # a full parent, six zooms above its tiles
MAX_BLOCK_FILES = 1024

# Only a whole last part of the path, or whole last three, without leading zeros: a date in a name is no place.
_PLACE_IN_NAME = re.compile(r"(?:^|/)(0|[1-9]\d?)([-_/])(0|[1-9]\d{0,7})\2(0|[1-9]\d{0,7})\.[A-Za-z0-9]+\Z", re.ASCII)


class Block(NamedTuple):
    """A run of a plan's tiles, which are predicted and written together.

    Attributes:
        name: Unique in the plan, and a safe file name: `z-x-y` of the parent tile, or `files-000017`.
        start: Index of its first tile in the plan.
        stop: Index after its last tile.
    """

    name: str
    start: int
    stop: int

    @property
    def num_tiles(self) -> int:
        """Number of its tiles."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Plan:
    """All tiles of a bulk prediction, each in exactly one block.

    Attributes:
        kind: "grid" for tiles known by z, x and y, "files" for those known by name.
        blocks: The blocks, in the order of the tiles.
        rows: What identifies the tiles, sorted: keys of a grid, a NumPy array of uint64; or names of files, an Arrow array of
            strings.
    """

    kind: str
    blocks: tuple[Block, ...]
    rows: Any

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return len(self.rows)

    def tiles(self, block: Block) -> list[Tile]:
        """Return the tiles of a block, in order."""
        rows = self.rows[block.start : block.stop]
        if self.kind == FILES:
            return [Tile(name, *place_in_name(name)) for name in rows.to_pylist()]
        places = zip(*(axis.tolist() for axis in places_of(rows)), strict=True)
        return [Tile(f"{z}-{x}-{y}", z, x, y) for z, x, y in places]

    def block_digest(self, block: Block) -> str:
        """Return the digest of the identity and order of a block's tiles."""
        rows = self.rows[block.start : block.stop]
        return _digest_of_names(rows.to_pylist()) if self.kind == FILES else _digest_of_keys(rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan: its kind, and name, number of tiles and digest of each block."""
        return plan_digest(self.kind, self.table)

    @cached_property
    def table(self) -> pa.Table:
        """Name, num_tiles and digest of each block."""
        return pa.table(
            {
                "name": pa.array([block.name for block in self.blocks], pa.string()),
                "num_tiles": pa.array([block.num_tiles for block in self.blocks], pa.int32()),
                "digest": pa.array([self.block_digest(block) for block in self.blocks], pa.string()),
            }
        )


def plan_digest(kind: str, table: pa.Table) -> str:
    """Return `Plan.digest` from the table of the plan's blocks."""
    rows = zip(*(table[column].to_pylist() for column in ("name", "num_tiles", "digest")), strict=True)
    text = "".join(f"{name} {num_tiles} {digest}\n" for name, num_tiles, digest in rows)
    return hashlib.sha256(f"{kind}\n{text}".encode()).hexdigest()


def plan_grid(keys: np.ndarray) -> Plan:
    """Plan the tiles of a grid.

    Args:
        keys: Keys of tiles, as `satx.grid.tiles.keys_of` gives them, of one or several zooms. Sorted keys without duplicates
            are used as they are; others are sorted, and duplicates are removed.

    Raises:
        DataError: There is no tile.
    """
    if not is_increasing(keys):
        keys = np.unique(keys)
    if not len(keys):
        raise DataError("Expected at least one tile to predict, got none. Look at the area or the table of tiles.")
    borders = np.searchsorted(keys, np.arange(MAX_ZOOM + 2, dtype=np.uint64) << np.uint64(ZOOM_BIT))
    zooms = [zoom for zoom in range(MAX_ZOOM + 1) if borders[zoom] < borders[zoom + 1]]
    blocks: list[Block] = []
    for zoom in zooms:
        starts, stops = _divide(keys, zoom, int(borders[zoom]), int(borders[zoom + 1]))
        # One parent may have tiles of several zooms in the plan.
        ending = "" if len(zooms) == 1 else f"-zoom-{zoom}"
        names = _parent_names(keys[starts], keys[stops - 1])
        blocks += [
            Block(name + ending, start, stop)
            for name, start, stop in zip(names, starts.tolist(), stops.tolist(), strict=True)
        ]
    return Plan(GRID, tuple(blocks), keys)


def plan_files(names: Iterable[str]) -> Plan:
    """Plan the files of a folder or bucket.

    Args:
        names: Path of each file within the folder, with `/`; in any order.

    Raises:
        DataError: There is no name, one comes twice, or one is not plain text in UTF-8.
    """
    rows = _sorted_names(list(names))
    if not len(rows):
        raise DataError("Expected at least one file to predict, got none. Look at the folder.")
    is_repeated = pc.equal(rows[1:], rows[:-1])
    if pc.any(is_repeated).as_py():
        twice = rows[pc.index(is_repeated, True).as_py()].as_py()
        raise DataError(f"Expected each file once, got {twice!r} at least twice. List each file once.")
    starts = range(0, len(rows), MAX_BLOCK_FILES)
    blocks = (
        Block(f"files-{number:06d}", start, min(start + MAX_BLOCK_FILES, len(rows)))
        for number, start in enumerate(starts)
    )
    return Plan(FILES, tuple(blocks), rows)


def place_in_name(name: str) -> tuple[int, int, int]:
    """Return z, x and y that a path ends with, as `18/1234/567.jpg`, `18-1234-567.jpg` or `18_1234_567.jpg`.

    Returns:
        The place; `UNKNOWN` three times if the name tells none, or one that its zoom does not have.
    """
    found = _PLACE_IN_NAME.search(name)
    if found is None:
        return UNKNOWN, UNKNOWN, UNKNOWN
    z, x, y = int(found[1]), int(found[3]), int(found[4])
    return (z, x, y) if z <= MAX_ZOOM and max(x, y) < 1 << z else (UNKNOWN, UNKNOWN, UNKNOWN)


def verify_digest(table: pa.Table) -> str:
    """Return the digest that the plan has for a block with these rows, if they are its tiles in its order.

    The digest is the SHA-256 of the tiles' keys, as 64-bit little-endian numbers, if each `tile_id` is the `z-x-y` of its row;
    else of the tile ids, one a line.

    Args:
        table: Rows of a block's file; its columns `tile_id`, `z`, `x` and `y` are used.
    """
    tiles = identities(table)
    return _digest_of_names(tiles.tolist()) if tiles.dtype == object else _digest_of_keys(tiles)


def identities(table: pa.Table) -> np.ndarray:
    """Return what a plan sorts tiles by, from the rows of a block's file: keys of a grid, uint64, or names of files, objects.

    They are keys if each `tile_id` is the `z-x-y` of its row.
    """
    ids = table["tile_id"].cast(pa.string())
    places = [table[name] for name in "zxy"]
    if not any(column.null_count for column in places):
        texts = [column.cast(pa.string()) for column in places]
        if pc.binary_join_element_wise(*texts, "-").equals(ids):
            try:
                return keys_of(*(column.to_numpy() for column in places))
            except ValueError:  # such as zoom 99, which no tile of a plan has
                pass
    return np.array(ids.to_pylist(), object)


def _digest_of_keys(keys: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(keys, "<u8").data).hexdigest()


def _digest_of_names(names: Sequence[str]) -> str:
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def _divide(keys: np.ndarray, zoom: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide the keys of one zoom: parents with too many tiles into their four children, zoom by zoom.

    Returns:
        First indices of the blocks and those after the last, both sorted, int64.
    """
    starts, stops = np.array([start]), np.array([stop])
    places = np.zeros(1, np.uint64)  # of the parents: their keys without the zoom
    done: list[tuple[np.ndarray, np.ndarray]] = []
    for depth in range(zoom + 1):
        is_large = stops - starts > MAX_BLOCK_TILES
        done.append((starts[~is_large], stops[~is_large]))
        starts, stops, places = starts[is_large], stops[is_large], places[is_large]
        if not len(places):
            break
        children = (places[:, None] << np.uint64(2)) + np.arange(4, dtype=np.uint64)  # (num_parents, 4)
        first_keys = np.uint64(zoom << ZOOM_BIT) | children[:, 1:] << np.uint64(2 * (zoom - depth - 1))
        borders = np.searchsorted(keys, first_keys)  # (num_parents, 3)
        starts = np.column_stack([starts, borders]).ravel()
        stops = np.column_stack([borders, stops]).ravel()
        is_empty = starts == stops
        starts, stops, places = starts[~is_empty], stops[~is_empty], children.ravel()[~is_empty]
    all_starts, all_stops = (np.concatenate(parts) for parts in zip(*done, strict=True))
    order = np.argsort(all_starts)
    return all_starts[order], all_stops[order]


def _parent_names(first: np.ndarray, last: np.ndarray) -> list[str]:
    """Return `z-x-y` of the smallest tile above all tiles of each block, from the first and last key of each."""
    # frexp gives the number of bits, exactly below 2^53; two bits are one zoom.
    levels = (np.frexp((first ^ last).astype(np.float64))[1] + 1) // 2
    z, x, y = places_of(first)
    places = zip((z - levels).tolist(), (x >> levels).tolist(), (y >> levels).tolist(), strict=True)
    return [f"{zoom}-{column}-{row}" for zoom, column, row in places]


def _sorted_names(names: list[str]) -> pa.LargeStringArray:
    """Return names in the order of their code points.

    Raises:
        DataError: A name has a line break, or bytes that are not UTF-8.
    """
    try:
        rows = pa.array(names, pa.large_string())
    except UnicodeEncodeError as error:
        raise DataError(
            f"Expected names of files in UTF-8, got {error.object!r}. Rename the file; convmv does it for whole folders."
        ) from error
    has_break = pc.match_substring(rows, "\n")
    if pc.any(has_break).as_py():
        raise DataError(
            f"Expected names of files in one line, got {rows[pc.index(has_break, True).as_py()].as_py()!r}. Rename the file."
        )
    return rows.take(pc.sort_indices(rows))
