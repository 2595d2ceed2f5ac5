"""Where buildings stand: footprints or points from GeoJSON, CSV or Parquet, millions of them, as their centers in an area."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from satx.errors import DataError
from satx.grid.area import Area
from satx.grid.geojson import documents, is_geojson
from satx.grid.point_table import read_point_rows
from satx.grid.points import on_the_map, place_keys
from satx.grid.tiles import sorted_keys

_DOCUMENTS_AT_ONCE = 1 << 13
_METERS_A_DEGREE = 110_574.0  # of latitude, at the equator, where it is shortest


def read_buildings(
    path: Path, area: Area, reach_m: float, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """Return the keys (`place_keys`) of the centers of all buildings in or near an area, sorted, each once, uint64.

    GeoJSON has polygons, whose center is their centroid, or points; the polygons of a MultiPolygon are buildings of their own.
    It is best written one feature a line: then the file may be larger than memory. A file of one document must be smaller than
    128 MiB. Tables have the columns `lon` and `lat`, or `longitude` and `latitude`.

    Memory is some 30 bytes for each building in or near the area, and one batch.

    Args:
        path: The file.
        area: Buildings elsewhere are left out.
        reach_m: How far from the area a building is still near, metres.
        on_progress: Called with the buildings read, and about how many there are.

    Raises:
        DataError: The file cannot be read, a building is broken or beyond the map, or none stands in the area.
    """
    near = _widened(area, reach_m)
    shapely.prepare(near)
    num_read, total, found = 0, _about_how_many(path), False
    seen_swapped = False

    def parts() -> Iterator[np.ndarray]:
        nonlocal num_read, found, seen_swapped
        for longitude, latitude in _centers(path):
            east, north = on_the_map(longitude, latitude, path, first=num_read + 1)
            num_read += len(east)
            is_near = shapely.intersects_xy(near, east, north)
            found = found or bool(is_near.any())
            seen_swapped = seen_swapped or (not found and bool(shapely.intersects_xy(near, north, east).any()))
            on_progress(num_read, max(total, num_read))
            yield place_keys(east[is_near], north[is_near])

    keys, _ = sorted_keys(parts())
    if not len(keys):
        advice = (
            "Longitude and latitude of the buildings look swapped: only the swapped ones lie in it. GeoJSON has the longitude "
            "first."
            if seen_swapped
            else "Pass the buildings of this area."
        )
        raise DataError(f"{path}: expected buildings in the area, got {num_read:,} and none there. {area} {advice}")
    return keys


def _widened(area: Area, reach_m: float) -> Any:
    """Return a geometry that contains all points within a distance of an area; where it is wide, it contains more."""
    _, south, _, north = area.geometry.bounds
    degrees = reach_m / _METERS_A_DEGREE / math.cos(math.radians(max(abs(south), abs(north))))
    return area.geometry.buffer(
        degrees * math.sqrt(2), quad_segs=1
    )  # a circle with four corners is narrower between them


def _about_how_many(path: Path) -> int:
    """Return the number of rows of a table, or of lines of a text."""
    try:
        with path.open("rb") as stream:
            if stream.read(4) == b"PAR1":
                return int(pq.read_metadata(path).num_rows)
            return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(1 << 20), b""))
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: expected buildings as GeoJSON, CSV or Parquet, but it cannot be read: {error}. Export it again."
        ) from error


def _centers(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield longitudes and latitudes of the buildings of a file, some at a time."""
    if not is_geojson(path):
        for rows in read_point_rows(path):
            yield rows.longitude, rows.latitude
        return
    texts = documents(path)
    num_documents = 0
    while batch := list(islice(texts, _DOCUMENTS_AT_ONCE)):
        geometries = shapely.from_geojson(batch, on_invalid="ignore")
        if None in geometries:
            number = num_documents + geometries.tolist().index(None) + 1
            raise DataError(
                f"{path}: expected GeoJSON with a geometry in each feature, but document {number:,} of the file is broken or "
                f"has a feature without one. Export it again."
            )
        num_documents += len(batch)
        # First the members of collections, then the parts of each.
        centers = shapely.centroid(_without_jumps(shapely.get_parts(shapely.get_parts(geometries))))
        centers = centers[~shapely.is_empty(centers)]
        yield shapely.get_x(centers), shapely.get_y(centers)


def _without_jumps(buildings: np.ndarray) -> np.ndarray:
    """Return buildings whose longitudes go on beyond 180 degrees where they jumped to the other side of the antimeridian."""
    bounds = shapely.bounds(buildings)
    jumps = bounds[:, 2] - bounds[:, 0] > 180
    if jumps.any():
        buildings[jumps] = shapely.transform(
            buildings[jumps], lambda points: np.column_stack([points[:, 0] % 360, points[:, 1]])
        )
    return buildings
