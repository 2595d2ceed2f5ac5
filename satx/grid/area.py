"""Areas of the globe: polygons from GeoJSON, checked, and on both sides of the antimeridian where they cross it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from satx.errors import DataError
from satx.grid.geojson import Rings, read_polygons
from satx.grid.tiles import MAX_LATITUDE

Bounds = tuple[float, float, float, float]

_MAX_LONGITUDE = 540.0  # a world to each side of the map, for areas that cross the antimeridian
_ROUNDED = 1e-6  # degrees; what the latitude of the map's edge may be rounded by


@dataclass(frozen=True)
class Area:
    """A part of the globe.

    Attributes:
        geometry: Polygon or MultiPolygon of shapely in degrees, longitudes from -180 to 180, without overlaps.
        bounds: West, south, east and north in degrees; as in RFC 7946, west is above east if the area crosses the antimeridian.
    """

    geometry: Any
    bounds: Bounds

    def __str__(self) -> str:
        """Return the bounding box for people, who see there whether longitude and latitude are swapped."""
        west, south, east, north = self.bounds
        across = ", across the antimeridian," if west > east else ""
        return f"Area: longitude {west:.5f}{across} to {east:.5f}, latitude {south:.5f} to {north:.5f}."


def read_area(path: Path) -> Area:
    """Return the area of all polygons of a GeoJSON file.

    Edges are straight in longitude and latitude, as RFC 7946 says. An area may cross the antimeridian in three ways: split into
    polygons on both sides, as RFC 7946 recommends; with longitudes beyond 180 or -180; or with rings that jump from one side to
    the other. So an edge that is longer than 180 degrees always goes the shorter way, across the antimeridian.

    Raises:
        DataError: The file is no GeoJSON with polygons, or a polygon is empty, crosses itself, encloses a pole, is beyond the
            map, or has longitude and latitude swapped.
    """
    polygons = read_polygons(path)
    _check_ranges(np.concatenate([ring for rings in polygons for ring in rings]), path)
    parts = [
        part
        for number, rings in enumerate(polygons, 1)
        for part in _on_the_map(_polygon(rings, f"{path}, polygon {number}"))
    ]
    geometry = parts[0] if len(parts) == 1 else shapely.union_all(parts)
    return Area(geometry, _bounds_of(geometry))


def check_not_swapped(area: Area, bounds: Bounds, name: str) -> None:
    """Refuse an area that misses the tiles it is meant for, but would meet them with longitude and latitude swapped.

    Args:
        area: The area.
        bounds: West, south, east and north of the tiles or points, degrees.
        name: What has these bounds, for the message.

    Raises:
        DataError: The swapped area meets the bounds, and the area does not.
    """
    box = shapely.box(*bounds)
    swapped = shapely.transform(area.geometry, lambda points: points[:, ::-1])
    if not area.geometry.intersects(box) and swapped.intersects(box):
        west, south, east, north = bounds
        raise DataError(
            f"{area} {name} has longitude {west:.5f} to {east:.5f}, latitude {south:.5f} to {north:.5f}. Longitude and latitude "
            f"of the area look swapped: only the swapped area meets it. GeoJSON has the longitude first."
        )


def _check_ranges(points: np.ndarray, path: Path) -> None:
    """Refuse coordinates, (num_points, 2), that are no degrees, swapped, or beyond the map."""
    longitude, latitude = np.abs(points).max(axis=0).tolist()
    if max(longitude, latitude) > _MAX_LONGITUDE:
        raise DataError(
            f"{path}: expected longitude and latitude in degrees, got {max(longitude, latitude):g}. Export the area in WGS 84 "
            f"(EPSG:4326)."
        )
    if latitude <= MAX_LATITUDE + _ROUNDED:
        return
    advice = []
    if longitude <= MAX_LATITUDE:
        advice.append("Longitude and latitude look swapped: GeoJSON has the longitude first.")
    if longitude > MAX_LATITUDE or latitude <= 90:
        advice.append("Maps in Web Mercator end there: cut the area.")
    raise DataError(
        f"{path}: expected latitudes within ±{MAX_LATITUDE:.4f}, got {latitude:g}, with all longitudes within "
        f"±{longitude:g}. {' Or: '.join(advice)}"
    )


def _polygon(rings: Rings, where: str) -> Any:
    """Return the polygon of the rings, with longitudes that do not jump and may be beyond 180 degrees."""
    shell, *holes = (_without_jumps(ring, where) for ring in rings)
    # A hole may be written on the other side of the antimeridian than its shell.
    aligned = [hole + np.array([360 * round((_middle(shell) - _middle(hole)) / 360), 0]) for hole in holes]
    polygon = shapely.Polygon(shell, aligned)
    if shapely.convex_hull(polygon).area == 0:
        raise DataError(f"{where}: expected a polygon with an area, got one without. Remove it from the file.")
    if not shapely.is_valid(polygon):
        reason = shapely.is_valid_reason(polygon)  # such as "Self-intersection[36.8 -1.3]"
        raise DataError(
            f"{where}: expected a polygon that does not cross itself, got: {reason}. Repair it, with `Fix geometries` of QGIS or "
            f"buffer(0) of shapely, and look at the result."
        )
    if np.ptp(shell[:, 0]) > 360:
        raise DataError(
            f"{where}: expected at most 360 degrees of longitude, got {np.ptp(shell[:, 0]):g}. Split the area."
        )
    return polygon


def _without_jumps(ring: np.ndarray, where: str) -> np.ndarray:
    """Return a ring, (num_points, 2), whose longitudes go on beyond 180 degrees where they jumped to the other side."""
    steps = np.diff(ring[:, 0], append=ring[0, 0])
    turns = np.where(np.abs(steps) > 180, -np.rint(steps / 360), 0.0)
    if not turns.any():
        return ring
    longitude = ring[:, 0] + 360 * np.concatenate([[0.0], np.cumsum(turns[:-1])])
    if np.ptp(longitude) == 0:  # only corners at -180 and 180: the whole width of the map
        return ring
    if turns.sum():
        raise DataError(
            f"{where}: expected a polygon that encloses no pole, got one that goes around the globe. Split it at the "
            f"antimeridian and cut it at latitude ±{MAX_LATITUDE:.4f}."
        )
    return np.column_stack([longitude, ring[:, 1]])


def _middle(ring: np.ndarray) -> float:
    return float(ring[:, 0].min() + ring[:, 0].max()) / 2


def _on_the_map(polygon: Any) -> list[Any]:
    """Return the parts of a polygon, moved to longitudes from -180 to 180."""
    west, _, east, _ = polygon.bounds
    if west >= -180 and east <= 180:
        return [polygon]
    parts = []
    for world in range(math.floor((west + 180) / 360), math.ceil((east - 180) / 360) + 1):
        piece = polygon.intersection(shapely.box(360 * world - 180, -90, 360 * world + 180, 90))
        moved = shapely.transform(piece, lambda points, shift=360 * world: points - [shift, 0])
        # Where the polygon only touches the border, the intersection has points and lines.
        parts += [part for part in shapely.get_parts(moved) if part.geom_type == "Polygon" and not part.is_empty]
    return parts


def _bounds_of(geometry: Any) -> Bounds:
    """Return the smallest bounds; across the antimeridian if the widest gap between the parts is elsewhere."""
    _, south, _, north = geometry.bounds
    spans = sorted((part.bounds[0], part.bounds[2]) for part in shapely.get_parts(geometry))
    west, east = _without_widest_gap(spans)
    return west, south, east, north


def _without_widest_gap(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return where spans of longitude, sorted, begin and end, if the widest gap between two is outside."""
    west, east = spans[0][0], max(end for _, end in spans)
    widest, found = west + 360 - east, (west, east)
    reached = spans[0][1]
    for begin, end in spans[1:]:
        if begin - reached > widest:
            widest, found = begin - reached, (begin, reached)
        reached = max(reached, end)
    return found
