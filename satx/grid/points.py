"""Points with labels: read from GeoJSON, CSV or Parquet, checked, and written as GeoJSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from satx.errors import DataError
from satx.grid.geojson import Feature, is_geojson, read_features
from satx.grid.point_table import read_point_rows
from satx.grid.tiles import MAX_LATITUDE
from satx.storage import replacing

NUM_DECIMALS = 7  # of degrees: about a centimeter; points that are equal in all of them are one place

_PARTS = 10**NUM_DECIMALS  # of a degree
_LATITUDE_BITS = np.uint64(31)  # hold 180 degrees in these parts
_MAX_DEGREES = 540.0  # a world to each side of the map, as in an area across the antimeridian
_ROUNDED = 1e-6  # degrees; what the latitude of the map's edge may be rounded by


@dataclass(frozen=True)
class Points:
    """Points of the globe, in the order of their file.

    Attributes:
        longitude: (num_points,) float64, degrees in [-180, 180), rounded to 7 digits when they are read.
        latitude: (num_points,) float64, degrees within ±`MAX_LATITUDE`, rounded in the same way.
        labels: One for each point; "" where unknown.
        slices: One for each point; "" where unknown.
        num_duplicates: Points that were left out because an earlier one has the same place, to 7 digits, and the same label.
    """

    longitude: np.ndarray
    latitude: np.ndarray
    labels: tuple[str, ...]
    slices: tuple[str, ...]
    num_duplicates: int = 0


def read_points(path: Path) -> Points:
    """Return the points of a GeoJSON, CSV or Parquet file.

    GeoJSON has features of type Point or MultiPoint, as one document or one a line, with the properties `label` and `slice` if
    they are known. Tables have the columns `lon` and `lat`, or `longitude` and `latitude`, and may have `label` and `slice`.
    The content decides which one a file is. A longitude beyond 180 degrees is that on the other side of the antimeridian.

    Raises:
        DataError: The file cannot be read, has no point, a geometry that is no point, coordinates that are not finite, beyond
            the map or swapped, or two labels for one place. The message names the first such point, counted from 1.
    """
    try:
        rows = _geojson_rows(path) if path.suffix.lower() in (".geojson", ".json") or is_geojson(path) else None
    except OSError as error:
        raise DataError(
            f"{path}: expected a GeoJSON, CSV or Parquet file of points, but it cannot be read ({error.strerror})."
        ) from error
    longitudes: list[np.ndarray] = []
    latitudes: list[np.ndarray] = []
    labels: list[str] = []
    slices: list[str] = []
    for longitude, latitude, some_labels, some_slices in _table_rows(path) if rows is None else rows:
        longitudes.append(longitude)
        latitudes.append(latitude)
        labels += some_labels
        slices += some_slices
    if not labels:
        raise DataError(f"{path}: expected at least one point, got none. Look at the file.")
    keys = place_keys(*on_the_map(np.concatenate(longitudes), np.concatenate(latitudes), path))
    kept = _without_duplicates(keys, labels, path)
    longitude, latitude = places_of_keys(keys[kept])
    return Points(
        longitude,
        np.clip(latitude, -MAX_LATITUDE, MAX_LATITUDE),  # rounded, the edge of the map is beyond it
        tuple(labels[index] for index in kept),
        tuple(slices[index] for index in kept),
        len(labels) - len(kept),
    )


def write_points(path: Path, points: Points, properties: Mapping[str, Sequence[Any]] | None = None) -> None:
    """Write points as a FeatureCollection, a feature a line, with coordinates of 7 digits.

    Args:
        path: The file; it is complete or not there.
        points: What to write; a label or slice that is unknown is left out.
        properties: Further properties: a name, and one JSON-able value for each point; None where a point has none.
    """
    longitude, latitude = places_of_keys(place_keys(points.longitude, points.latitude))
    columns = [longitude.tolist(), latitude.tolist(), points.labels, points.slices]
    names, values = list(properties or {}), list((properties or {}).values())
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write('{"type":"FeatureCollection","features":[')
        for row, (east, north, label, slice_name, *more) in enumerate(zip(*columns, *values, strict=True)):
            known = {"label": label or None, "slice": slice_name or None, **dict(zip(names, more, strict=True))}
            feature = {
                "type": "Feature",
                "properties": {name: value for name, value in known.items() if value is not None},
                "geometry": {"type": "Point", "coordinates": [east, north]},
            }
            text = json.dumps(feature, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
            stream.write(f"{',' if row else ''}\n{text}")
        stream.write("\n]}\n")


def on_the_map(
    longitude: np.ndarray, latitude: np.ndarray, path: Path, *, first: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return checked coordinates, float64: longitudes in [-180, 180), latitudes within ±`MAX_LATITUDE`.

    Args:
        longitude: (num_points,) degrees.
        latitude: (num_points,) degrees.
        path: Their file, for messages.
        first: Number of the first of them in the file, for messages.

    Raises:
        DataError: A coordinate is not finite, is no degree, or is beyond the map.
    """
    is_finite = np.isfinite(longitude) & np.isfinite(latitude)
    is_degrees = (np.abs(longitude) <= _MAX_DEGREES) & (np.abs(latitude) <= _MAX_DEGREES)
    is_mapped = np.abs(latitude) <= MAX_LATITUDE + _ROUNDED
    wrong = ~(is_finite & is_degrees & is_mapped)
    if wrong.any():
        index = int(wrong.argmax())
        where = f"{path}, point {first + index:,}: expected"
        got = f"got longitude {longitude[index]:g}, latitude {latitude[index]:g}"
        if not is_finite[index]:
            raise DataError(f"{where} finite coordinates, {got}. Correct or remove the point.")
        if not is_degrees[index]:
            raise DataError(
                f"{where} longitude and latitude in degrees, {got}. Export the points in WGS 84 (EPSG:4326)."
            )
        raise DataError(f"{where} a latitude within ±{MAX_LATITUDE:.4f}, {got}. {_beyond(longitude, latitude[index])}")
    is_outside = (longitude < -180) | (longitude >= 180)
    if is_outside.any():
        moved = (longitude + 180) % 360 - 180
        longitude = np.where(is_outside, np.where(moved >= 180, -180.0, moved), longitude)
    return longitude, np.clip(latitude, -MAX_LATITUDE, MAX_LATITUDE)


def place_keys(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return one uint64 for each place, equal for points that are equal to 7 digits; sorted from west to east.

    Args:
        longitude: (num_points,) degrees in [-180, 180].
        latitude: (num_points,) degrees.
    """
    east = np.rint((longitude + 180) * _PARTS).astype(np.uint64) % np.uint64(360 * _PARTS)  # 180 is -180
    north = np.rint((latitude + 90) * _PARTS).astype(np.uint64)
    return np.asarray(east << _LATITUDE_BITS | north)


def places_of_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitudes and latitudes of `place_keys`, float64 degrees, rounded to 7 digits."""
    east, north = keys >> _LATITUDE_BITS, keys & np.uint64((1 << 31) - 1)
    # Integers, divided once, give the float64 that is nearest to the decimal number.
    longitude = (east.astype(np.int64) - 180 * _PARTS) / _PARTS
    latitude = (north.astype(np.int64) - 90 * _PARTS) / _PARTS
    return longitude, latitude


def _beyond(longitudes: np.ndarray, latitude: float) -> str:
    """Return what to do about a latitude beyond the map."""
    advice = []
    widest = np.abs(longitudes[np.isfinite(longitudes)]).max()
    if widest <= MAX_LATITUDE:
        advice.append("Longitude and latitude look swapped: GeoJSON has the longitude first.")
    if widest > MAX_LATITUDE or abs(latitude) <= 90:
        advice.append("Maps in Web Mercator end there: remove the point.")
    return " Or: ".join(advice)


_Rows = tuple[np.ndarray, np.ndarray, list[str], list[str]]


def _table_rows(path: Path) -> Iterator[_Rows]:
    for rows in read_point_rows(path, ("label", "slice")):
        yield rows.longitude, rows.latitude, rows.texts["label"], rows.texts["slice"]


def _geojson_rows(path: Path) -> Iterator[_Rows]:
    """Yield the points of each feature."""
    num_points = 0
    for feature in read_features(path):
        positions = _positions(feature, f"{path}, point {num_points + 1:,}")
        label, slice_name = (_text(feature, name, f"{path}, point {num_points + 1:,}") for name in ("label", "slice"))
        num_points += len(positions)
        yield positions[:, 0], positions[:, 1], [label] * len(positions), [slice_name] * len(positions)


def _positions(feature: Feature, where: str) -> np.ndarray:
    """Return the points of a feature, (num_points, 2) float64; heights are left out."""
    kind = "no geometry" if feature.geometry is None else feature.geometry["type"]
    if feature.geometry is None or kind not in ("Point", "MultiPoint"):
        raise DataError(
            f"{where}: expected a Point or MultiPoint, got {kind}. Remove it, or turn outlines into points, as `Centroids` of "
            f"QGIS does."
        )
    coordinates = feature.geometry.get("coordinates")
    try:
        places: Any = [coordinates] if kind == "Point" else coordinates
        positions = np.array([place[:2] for place in places], np.float64)
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise DataError(
            f"{where}: expected [longitude, latitude], got {str(coordinates)[:80]}. Export the points again."
        ) from error
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise DataError(
            f"{where}: expected [longitude, latitude], got {str(coordinates)[:80]}. Remove the empty point."
        )
    return positions


def _text(feature: Feature, name: str, where: str) -> str:
    value = feature.properties.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: expected a text as {name}, got {value!r:.80}. Put it in quotes, or remove it.")
    return value.strip()


def _without_duplicates(keys: np.ndarray, labels: Sequence[str], path: Path) -> list[int]:
    """Return the indices of the first point at each place, in order.

    Raises:
        DataError: Two points at one place have different labels.
    """
    first_at: dict[int, int] = {}
    kept = []
    for index, key in enumerate(keys.tolist()):
        first = first_at.setdefault(key, index)
        if first == index:
            kept.append(index)
        elif labels[first] != labels[index]:
            longitude, latitude = (float(part[0]) for part in places_of_keys(keys[index : index + 1]))
            raise DataError(
                f"{path}, points {first + 1:,} and {index + 1:,}: expected one label for one place, got {labels[first]!r} and "
                f"{labels[index]!r} at longitude {longitude:.7f}, latitude {latitude:.7f}. Remove one of them."
            )
    return kept
