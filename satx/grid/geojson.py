"""Read GeoJSON (RFC 7946): the polygons of a file, or its features one by one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from satx.errors import DataError

Rings = list[
    np.ndarray
]  # of one polygon: its shell, then its holes; each (num_points, 2) float64, longitude and latitude

MAX_WHOLE_BYTES = (
    128 << 20
)  # of a file that is one JSON document: as Python objects it takes some ten times as much memory

_MEMBERS = {"FeatureCollection": "features", "GeometryCollection": "geometries"}
_MAX_FIRST_LINE = 1 << 20  # characters


class Feature(NamedTuple):
    """A geometry and what is known about it.

    Attributes:
        geometry: Object of GeoJSON with a `type` other than a collection's; None for a feature without geometry.
        properties: Those of its feature; empty for a geometry without a feature.
    """

    geometry: dict[str, Any] | None
    properties: dict[str, Any]


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
    geometries = [geometry for geometry, _ in _features_in(content, path) if geometry is not None]
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


def is_geojson(path: Path) -> bool:
    """Return whether a file starts as an object of JSON, whatever its name is.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\x1e").startswith(b"{")


def read_features(path: Path) -> Iterator[Feature]:
    """Yield the features of a file, in order; the members of collections one by one.

    Raises:
        DataError: The file cannot be read, is no GeoJSON, or is too large to be read whole.
    """
    for document in documents(path):
        try:
            content = json.loads(document)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}: expected GeoJSON, but it is no JSON: {error}. Export it again as GeoJSON."
            ) from error
        yield from _features_in(content, path)


def documents(path: Path) -> Iterator[str]:
    """Yield the JSON documents of a file as texts: one a line if the first line is a whole one, else all of the file.

    Line-delimited GeoJSON is read line by line, so a file may be larger than memory. Lines may begin with a record separator
    (RFC 7464).

    Raises:
        DataError: The file cannot be read, or is one document that is too large.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            if _is_whole(stream.readline(_MAX_FIRST_LINE)):
                stream.seek(0)
                for line in stream:
                    if document := line.strip():  # record separators, too, are white space in Python
                        yield document
                return
        num_bytes = path.stat().st_size
        if num_bytes > MAX_WHOLE_BYTES:
            raise DataError(
                f"{path}: expected at most {MAX_WHOLE_BYTES >> 20} MiB in one GeoJSON document, got {num_bytes >> 20} MiB. Write "
                f"one feature a line: `ogr2ogr -f GeoJSONSeq {path.stem}.geojsonl {path.name}`."
            )
        yield path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise DataError(f"{path}: expected a GeoJSON file, but it cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected GeoJSON in UTF-8, but it cannot be read: {error}. Export it again."
        ) from error


def _is_whole(line: str) -> bool:
    """Return whether a line is a document of JSON."""
    try:
        return isinstance(json.loads(line.strip()), dict)
    except (ValueError, RecursionError):
        return False


def _features_in(content: Any, path: Path) -> Iterator[Feature]:
    """Yield all geometries within an object of GeoJSON, with the properties of their features."""
    waiting: list[tuple[Any, dict[str, Any]]] = [(content, {})]
    while waiting:
        value, properties = waiting.pop()
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise DataError(
                f"{path}: expected GeoJSON, got JSON with {_brief(value)} where an object with a type belongs."
            )
        if value["type"] in _MEMBERS:
            members = value.get(_MEMBERS[value["type"]])
            if not isinstance(members, list):
                raise DataError(f"{path}: expected a list of {_MEMBERS[value['type']]} in the {value['type']}.")
            waiting += [(member, properties) for member in reversed(members)]
        elif value["type"] == "Feature":
            found = value.get("properties")
            properties = found if isinstance(found, dict) else {}
            if value.get("geometry") is None:
                yield Feature(None, properties)
            else:
                waiting.append((value["geometry"], properties))
        else:
            yield Feature(value, properties)


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
