"""Candidates as FlatGeobuf, with its spatial index: the extra `satx[geo]`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satx.bulk.geoparquet import GEOMETRY, points_as_wkb
from satx.errors import ConfigError


def check_flatgeobuf() -> None:
    """Check that FlatGeobuf can be written; call it before the prediction.

    Raises:
        ConfigError: pyogrio is not installed.
    """
    if importlib.util.find_spec("pyogrio") is None:
        raise ConfigError(
            "FlatGeobuf: expected the package pyogrio, got none. Run pip install 'satx[geo]', or leave FlatGeobuf out."
        )


def write_flatgeobuf(path: Path, candidates: pa.Table) -> None:
    """Write the candidates that have coordinates as points.

    Args:
        path: The file.
        candidates: The columns of `candidates.CANDIDATES`.

    Raises:
        ConfigError: pyogrio is not installed.
    """
    check_flatgeobuf()
    import pyogrio  # loads GDAL

    placed = candidates.filter(pc.is_valid(candidates["longitude"]))
    coordinates = np.stack([placed[name].to_numpy() for name in ("longitude", "latitude")], axis=1)
    table = placed.append_column(GEOMETRY, points_as_wkb(coordinates)).replace_schema_metadata(None)
    pyogrio.write_arrow(
        table,
        path,
        layer="candidates",
        driver="FlatGeobuf",
        geometry_name=GEOMETRY,
        geometry_type="Point",
        crs="EPSG:4326",  # FlatGeobuf has no OGC:CRS84; its order is longitude, latitude in any case
    )
