"""What to fetch for each point: a window around it or its map tile, and their parents two zooms up for context.

Points are fetched in Z-order of their tiles, so that neighbours share tiles, and in chunks: what became of a chunk is one file.
The plan follows from the points and the options alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from satx.errors import ConfigError, DataError
from satx.grid.points import Points, place_keys, places_of_keys
from satx.grid.tiles import keys_of, tile_of
from satx.imagery.contract import Tile
from satx.points.windows import TILE_PX, Part, corners_of, parts_of

CHUNK_POINTS = 64  # a killed run repeats at most about so many
CONTEXT_ZOOMS = 2  # how far up the context is: 16 times the area in as many pixels
UNLABELLED = "unlabelled"
TILES, CONTEXT = "tiles", "context"  # folders
MAX_LABEL_BYTES = 100  # of a folder's name; file systems allow 255

_WHOLE = (slice(None), slice(None))


class View(NamedTuple):
    """A picture of the ground at a point.

    Attributes:
        tiles: The map tiles that it is made of; none if it reaches beyond the map.
        parts: Which parts of them, in the same order.
    """

    tiles: tuple[Tile, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class FetchPlan:
    """The pictures to fetch for points.

    Attributes:
        points: The points.
        zoom: Zoom of their tiles.
        window_px: Edge of the window around each; None for the whole map tile that contains it.
        has_context: Whether to fetch the picture two zooms up too.
    """

    points: Points
    zoom: int
    window_px: int | None
    has_context: bool = False

    def __post_init__(self) -> None:
        """Check that there can be such pictures, and folders for them.

        Raises:
            ConfigError: There is no zoom for the context, or the window is larger than the map.
            DataError: A label cannot be the name of a folder, or a slice has a line break.
        """
        if self.zooms[-1] < 0:
            raise ConfigError(
                f"--context: expected a zoom of at least {CONTEXT_ZOOMS}, got {self.zoom}. Leave it out, or raise --zoom."
            )
        map_px = TILE_PX << self.zooms[-1]
        if self.window_px is not None and self.window_px > map_px:
            raise ConfigError(
                f"--window-px: expected at most {map_px}, the whole map at zoom {self.zooms[-1]}, got {self.window_px}. Lower "
                f"it, or raise --zoom."
            )
        for label in sorted(set(self.points.labels)):
            if "/" in label or "\\" in label or label.startswith(".") or _is_unfit(label):
                raise DataError(
                    f"Expected labels that can be names of folders, got {label!r}. Write letters, digits, - and _ only."
                )
        for name in sorted(set(self.points.slices)):
            if _is_unfit(name):
                raise DataError(f"Expected slices of at most {MAX_LABEL_BYTES} bytes in one line, got {name!r}.")

    @property
    def num_points(self) -> int:
        """Number of points."""
        return len(self.points.labels)

    @property
    def zooms(self) -> tuple[int, ...]:
        """The zoom of the tiles and, if there is context, that of the context."""
        return (self.zoom, self.zoom - CONTEXT_ZOOMS) if self.has_context else (self.zoom,)

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.num_points // CHUNK_POINTS)

    def chunk(self, number: int) -> np.ndarray:
        """Return the indices of a chunk's points, int64, in the order in which they are fetched."""
        return self._order[number * CHUNK_POINTS : (number + 1) * CHUNK_POINTS]

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of the tiles that contain the points, int64; a point on a border is in the eastern and southern."""
        return tile_of(self.points.longitude, self.points.latitude, self.zoom)

    def views(self, point: int) -> Iterator[View]:
        """Yield the picture of a point and, if it is asked for, its context."""
        for zoom, columns, rows in self._corners:
            column, row = int(columns[point]), int(rows[point])
            parts = (
                (Part(column, row, _WHOLE, _WHOLE),)
                if self.window_px is None
                else parts_of(column, row, zoom, self.window_px)
            )
            yield View(tuple(Tile(f"{zoom}-{part.x}-{part.y}", zoom, part.x, part.y) for part in parts), parts)

    def file_stem(self, point: int) -> str:
        """Return the path of a point's picture below `tiles` or `context`, without its ending; unique and stable.

        A window is named by its place and zoom; `z-x-y` is the name of a map tile only. The second point in one map tile has
        `-2` after its name.
        """
        folder = self.points.labels[point] or UNLABELLED
        if self.window_px is None:
            column, row = (axis[point] for axis in self.places)
            number = int(self._earlier[point]) + 1
            return f"{folder}/{self.zoom}-{column}-{row}" + (f"-{number}" if number > 1 else "")
        longitude, latitude = (axis[point] for axis in self._rounded)
        return f"{folder}/{longitude:.7f}_{latitude:.7f}_z{self.zoom}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the points: their places, labels and slices, in their order."""
        places = (np.ascontiguousarray(axis, "<f8").tobytes() for axis in (self.points.longitude, self.points.latitude))
        names = json.dumps([self.points.labels, self.points.slices]).encode()
        return hashlib.sha256(b"".join([*places, names])).hexdigest()

    @cached_property
    def _corners(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Zoom, and where each picture begins: its first pixel, or the tile itself where it is whole."""
        longitude, latitude = self.points.longitude, self.points.latitude
        if self.window_px is None:
            return [(zoom, *tile_of(longitude, latitude, zoom)) for zoom in self.zooms]
        return [(zoom, *corners_of(longitude, latitude, zoom, self.window_px)) for zoom in self.zooms]

    @cached_property
    def _rounded(self) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes to 7 digits, in which no two points are equal."""
        return places_of_keys(place_keys(self.points.longitude, self.points.latitude))

    @cached_property
    def _keys(self) -> np.ndarray:
        return keys_of(self.zoom, *self.places)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._keys, kind="stable")

    @cached_property
    def _earlier(self) -> np.ndarray:
        """For each point, how many earlier ones have a file of the same name: the same tile and folder."""
        _, folders = np.unique([label or UNLABELLED for label in self.points.labels], return_inverse=True)
        order = np.lexsort((folders, self._keys))  # stable
        numbers, keys, folders = np.arange(len(order)), self._keys[order], folders[order]
        is_first = np.ones(len(order), bool)
        is_first[1:] = (keys[1:] != keys[:-1]) | (folders[1:] != folders[:-1])
        earlier = np.empty(len(order), np.int64)
        earlier[order] = numbers - np.maximum.accumulate(np.where(is_first, numbers, 0))
        return earlier


def _is_unfit(name: str) -> bool:
    return bool(name) and (not name.isprintable() or len(name.encode(errors="replace")) > MAX_LABEL_BYTES)
