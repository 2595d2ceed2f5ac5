"""Candidates as GeoJSON (RFC 7946): one collection for JOSM, and one task a line for MapRoulette.

MapRoulette's own documentation recommends a line for each task: a record separator (RFC 7464, U+001E), then a FeatureCollection
(https://learn.maproulette.org/documentation/line-by-line-geojson/).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from satx.bulk.block_file import ModelIdentity

RECORD_SEPARATOR = "\x1e"
NUM_DECIMALS = 7  # of degrees: about a centimeter
MAX_LINKED_ZOOM = 19  # the deepest of openstreetmap.org
_ROWS_AT_ONCE = 10_000


def write_josm(path: Path, candidates: pa.Table, model: ModelIdentity, attribution: str) -> None:
    """Write one FeatureCollection, a feature a line, without the candidates that have no coordinates.

    Its members `attribution`, `model`, `model_version` and `threshold` say where the points come from; readers ignore members
    that they do not know.

    Args:
        path: The file.
        candidates: The columns of `candidates.CANDIDATES`.
        model: The model that found them.
        attribution: Whose imagery it was; empty if unknown.
    """
    about = {
        "attribution": attribution,
        "model": model.name,
        "model_version": model.version,
        "threshold": model.threshold,
    }
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(f'{{"type":"FeatureCollection",{_json(about)[1:-1]},"features":[')
        for row, feature in enumerate(_features(candidates, model)):
            stream.write(f"{',' if row else ''}\n{_json(feature)}")
        stream.write("\n]}\n")


def write_maproulette(path: Path, candidates: pa.Table, model: ModelIdentity, attribution: str) -> None:
    """Write one task a line, without the candidates that have no coordinates.

    MapRoulette shows people the properties of a task, so the attribution is one of them.

    Args:
        path: The file.
        candidates: The columns of `candidates.CANDIDATES`.
        model: The model that found them.
        attribution: Whose imagery it was; empty if unknown.
    """
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for feature in _features(candidates, model):
            if attribution:
                feature["properties"]["attribution"] = attribution
            stream.write(f"{RECORD_SEPARATOR}{_json({'type': 'FeatureCollection', 'features': [feature]})}\n")


def link_to(longitude: float, latitude: float, zoom: int) -> str:
    """Return the address of a place on openstreetmap.org."""
    place = f"{latitude:.{NUM_DECIMALS}f}/{longitude:.{NUM_DECIMALS}f}"
    return f"https://www.openstreetmap.org/#map={min(zoom, MAX_LINKED_ZOOM)}/{place}"


def _features(candidates: pa.Table, model: ModelIdentity) -> Iterator[dict[str, Any]]:
    for batch in candidates.filter(pc.is_valid(candidates["longitude"])).to_batches(_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            yield _feature(row, model.positive_class)


def _feature(row: dict[str, Any], positive_class: str) -> dict[str, Any]:
    longitude, latitude = (round(row[name], NUM_DECIMALS) for name in ("longitude", "latitude"))
    return {
        "type": "Feature",
        "id": row["candidate_id"],
        "geometry": {"type": "Point", "coordinates": [longitude, latitude]},
        "properties": {
            "name": f"{positive_class}?",  # JOSM and MapRoulette show it beside the point
            "candidate_id": row["candidate_id"],
            "probability": round(row["probability"], 6),
            "num_tiles": row["num_tiles"],
            "tile": f"{row['z']}/{row['x']}/{row['y']}",
            "link": link_to(longitude, latitude, row["z"]),
        },
    }


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
