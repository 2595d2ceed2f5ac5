"""GeoParquet 1.1 with pyarrow alone: https://geoparquet.org/releases/v1.1.0/.

Geometries are well-known binary (WKB, OGC 06-103r4, section 8), computed for many rows at once. Coordinates are longitude and
latitude in degrees; without `crs` that is OGC:CRS84. Rows without coordinates have no geometry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VERSION = "1.1.0"
GEOMETRY, COVERING = "geometry", "bbox"
ROWS_PER_GROUP = 65_536  # what is encoded at once, and what a reader skips as a whole by its covering
_LITTLE_ENDIAN, _POINT, _POLYGON = 1, 1, 3
_SIDES = ("xmin", "ymin", "xmax", "ymax")  # in the order that the specification asks for
_POINT_WKB = np.dtype([("order", "u1"), ("type", "<u4"), ("point", "<f8", 2)])
_BOX_WKB = np.dtype(
    [("order", "u1"), ("type", "<u4"), ("num_rings", "<u4"), ("num_points", "<u4"), ("ring", "<f8", (5, 2))]
)


def write_points(path: Path, table: pa.Table, longitude: str, latitude: str) -> None:
    """Write a table whose rows are points.

    Args:
        path: The file.
        table: Its columns and metadata are kept.
        longitude: Name of the column of longitudes; null where there is no point.
        latitude: Name of the column of latitudes.
    """
    coordinates = np.stack([_degrees(table[name]) for name in (longitude, latitude)], axis=1)
    column = {"encoding": "WKB", "geometry_types": ["Point"], **_extent(coordinates, coordinates)}

    def with_geometry(rows: pa.Table, start: int) -> pa.Table:
        return rows.append_column(GEOMETRY, points_as_wkb(coordinates[start : start + len(rows)]))

    _write(path, table, column, with_geometry)


def write_boxes(path: Path, table: pa.Table, bounds: np.ndarray) -> None:
    """Write a table whose rows are boxes along meridians and parallels, with the column `bbox` by which readers skip rows.

    Args:
        path: The file.
        table: Its columns and metadata are kept.
        bounds: West, south, east and north of each row, `(n, 4)` float64 degrees; NaN without a box. None may cross the
            antimeridian.
    """
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "orientation": "counterclockwise",
        **_extent(bounds[:, :2], bounds[:, 2:]),
        "covering": {"bbox": {side: [COVERING, side] for side in _SIDES}},
    }

    def with_geometry(rows: pa.Table, start: int) -> pa.Table:
        of_rows = bounds[start : start + len(rows)]
        covering = pa.StructArray.from_arrays(
            [pa.array(side) for side in of_rows.T], _SIDES, mask=pa.array(_is_missing(of_rows))
        )
        return rows.append_column(COVERING, covering).append_column(GEOMETRY, boxes_as_wkb(of_rows))

    _write(path, table, column, with_geometry)


def points_as_wkb(coordinates: np.ndarray) -> pa.Array:
    """Return points as WKB.

    Args:
        coordinates: Longitude and latitude, `(n, 2)` float64; NaN gives null.
    """
    records = np.zeros(len(coordinates), _POINT_WKB)
    records["order"], records["type"], records["point"] = _LITTLE_ENDIAN, _POINT, coordinates
    return _as_binary(records, _is_missing(coordinates))


def boxes_as_wkb(bounds: np.ndarray) -> pa.Array:
    """Return boxes as polygons in WKB, counterclockwise from the south-west.

    Args:
        bounds: West, south, east and north, `(n, 4)` float64; NaN gives null.
    """
    west, south, east, north = bounds.T
    records = np.zeros(len(bounds), _BOX_WKB)
    records["order"], records["type"], records["num_rings"], records["num_points"] = _LITTLE_ENDIAN, _POLYGON, 1, 5
    records["ring"][:, :, 0] = np.stack([west, east, east, west, west], axis=1)
    records["ring"][:, :, 1] = np.stack([south, south, north, north, south], axis=1)
    return _as_binary(records, _is_missing(bounds))


def _write(
    path: Path, table: pa.Table, column: dict[str, Any], with_geometry: Callable[[pa.Table, int], pa.Table]
) -> None:
    """Write a table in groups of rows, so that memory does not grow with geometries."""
    if "bbox" not in column:  # no row has a geometry
        column = {**column, "geometry_types": []}
    geo = {"version": VERSION, "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
    schema = with_geometry(table.slice(0, 0), 0).schema
    schema = schema.with_metadata({**(table.schema.metadata or {}), b"geo": json.dumps(geo, allow_nan=False).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, len(table), ROWS_PER_GROUP):
            rows = with_geometry(table.slice(start, ROWS_PER_GROUP), start)
            writer.write_table(rows.cast(schema), row_group_size=ROWS_PER_GROUP)


def _extent(lowest: np.ndarray, highest: np.ndarray) -> dict[str, Sequence[float]]:
    """Return `bbox` of all geometries from their south-west and north-east corners, each `(n, 2)`; none if there are none."""
    lowest, highest = lowest[~_is_missing(lowest)], highest[~_is_missing(highest)]
    return {"bbox": [*lowest.min(axis=0).tolist(), *highest.max(axis=0).tolist()]} if len(lowest) else {}


def _degrees(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as float64, NaN where it is null."""
    return np.asarray(column.to_numpy(), np.float64)


def _is_missing(coordinates: np.ndarray) -> np.ndarray:
    return np.asarray(np.isnan(coordinates[:, 0]))


def _as_binary(records: np.ndarray, is_missing: np.ndarray) -> pa.Array:
    """Return records of equal size as an array of byte strings, which GeoParquet asks for instead of fixed sizes."""
    size_bytes = records.dtype.itemsize
    offsets = np.arange(0, (len(records) + 1) * size_bytes, size_bytes, dtype=np.int32)
    validity = pa.array(~is_missing).buffers()[1]
    return pa.Array.from_buffers(
        pa.binary(), len(records), [validity, pa.py_buffer(offsets), pa.py_buffer(records.tobytes())]
    )
