"""Read the polygons of a GeoJSON file (RFC 7946)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from satx.errors import DataError

Rings = list[
    np.ndarray
]  # of one polygon: its shell, then its holes; each (num_points, 2) float64, longitude and latitude

_MEMBERS = {"FeatureCollection": "features", "GeometryCollection": "geometries"}


def read_polygons(path: Path) -> list[Rings]:
    """Return the polygons of a file, in order.

    Points and lines beside polygons are left out, such as the labels of an administrative border from OpenStreetMap. Heights
    are left out too.

    Raises:
        DataError: The file cannot be read, is no GeoJSON, has no polygon, or one with wrong coordinates.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: expected a GeoJSON file, but it cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected GeoJSON, but it is no JSON: {error}. Export the area again as GeoJSON."
        ) from error
    geometries = list(_geometries(content, path))
    polygons: list[Rings] = []
    for geometry in geometries:
        if geometry["type"] in ("Polygon", "MultiPolygon"):
            coordinates = geometry.get("coordinates")
            parts = [coordinates] if geometry["type"] == "Polygon" else coordinates
            for part in parts if isinstance(parts, list) else [parts]:
                polygons.append(_rings(part, f"{path}, polygon {len(polygons) + 1}"))
    if not polygons:
        kinds = Counter(geometry["type"] for geometry in geometries)
        found = ", ".join(f"{number} of type {kind}" for kind, number in kinds.items()) or "no geometry"
        raise DataError(
            f"{path}: expected at least one Polygon or MultiPolygon, got {found}. Draw the area as a polygon, or pass tiles as "
            f"a CSV of z,x,y."
        )
    return polygons


def _geometries(content: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield all geometries within an object of GeoJSON; features without a geometry have none."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise DataError(
                f"{path}: expected GeoJSON, got JSON with {_brief(value)} where an object with a type belongs."
            )
        if value["type"] in _MEMBERS:
            members = value.get(_MEMBERS[value["type"]])
            if not isinstance(members, list):
                raise DataError(f"{path}: expected a list of {_MEMBERS[value['type']]} in the {value['type']}.")
            waiting += reversed(members)
        elif value["type"] == "Feature":
            if value.get("geometry") is not None:
                waiting.append(value["geometry"])
        else:
            yield value


def _rings(coordinates: Any, where: str) -> Rings:
    """Return the rings of a polygon; rings that are not closed are closed later."""
    if not coordinates:
        raise DataError(f"{where}: expected coordinates, got an empty polygon. Remove it from the file.")
    rings = []
    for ring in coordinates:
        try:
            points = np.array([position[:2] for position in ring], np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{where}: expected rings of [longitude, latitude], got {_brief(ring)}. Export the area again."
            ) from error
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise DataError(
                f"{where}: expected rings of at least three [longitude, latitude], got {_brief(ring)}. Remove the empty "
                f"polygon, or export the area again."
            )
        if not np.isfinite(points).all():
            point = points[~np.isfinite(points).all(axis=1)][0].tolist()
            raise DataError(f"{where}: expected finite coordinates, got {point}. Export the area again.")
        rings.append(points)
    return rings


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
