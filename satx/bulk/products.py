"""What a run makes from its blocks: counts, candidates, and the files for maps and mappers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satx.bulk.block_file import ModelIdentity
from satx.bulk.candidates import group
from satx.bulk.counts import collect
from satx.bulk.flatgeobuf import write_flatgeobuf
from satx.bulk.geojson import write_josm, write_maproulette
from satx.bulk.geoparquet import write_boxes, write_points
from satx.grid.tiles import bounds_of

CANDIDATES_NAME, TILES_NAME = "candidates.parquet", "tiles_above_threshold.parquet"
JOSM_NAME, MAPROULETTE_NAME, FLATGEOBUF_NAME = "candidates.geojson", "candidates.maproulette.geojsonl", "candidates.fgb"


class Products(NamedTuple):
    """What is made from the blocks of a finished run.

    Attributes:
        counts: For `run.json`: the record of `counts.Tally`, `num_candidates` and `num_candidates_without_place`.
        files: For each file its name, and a function that writes it at a local path.
    """

    counts: dict[str, Any]
    files: Mapping[str, Callable[[Path], None]]


def products_of(
    blocks: Iterable[pa.Table], model: ModelIdentity, *, attribution: str = "", with_flatgeobuf: bool = False
) -> Products:
    """Read the blocks once, and return the counts and how to write each file.

    Equal blocks give equal files, byte for byte, in whatever order they come, except the counts of reasons beyond the most
    frequent ones.

    Args:
        blocks: The tables of all blocks.
        model: The model that scored them.
        attribution: Whose imagery it was; empty if unknown.
        with_flatgeobuf: Whether to write FlatGeobuf too; check before the run with `flatgeobuf.check_flatgeobuf`.
    """
    counts, positives = collect(blocks, model)
    tiles, candidates = group(positives)
    num_unplaced = candidates["longitude"].null_count
    counts |= {"num_candidates": len(candidates), "num_candidates_without_place": num_unplaced}
    about = _metadata(model, attribution)
    tiles, candidates = tiles.replace_schema_metadata(about), candidates.replace_schema_metadata(about)
    files: dict[str, Callable[[Path], None]] = {
        CANDIDATES_NAME: partial(write_points, table=candidates, longitude="longitude", latitude="latitude"),
        TILES_NAME: partial(write_boxes, table=tiles, bounds=_bounds(tiles)),
    }
    if num_unplaced == 0 or num_unplaced < len(candidates):  # an empty map would say that nothing was found
        told = {"candidates": candidates, "model": model, "attribution": attribution}
        files |= {JOSM_NAME: partial(write_josm, **told), MAPROULETTE_NAME: partial(write_maproulette, **told)}
        if with_flatgeobuf:
            files[FLATGEOBUF_NAME] = partial(write_flatgeobuf, candidates=candidates)
    return Products(counts, files)


def _metadata(model: ModelIdentity, attribution: str) -> dict[str, str]:
    return {
        "model": model.name,
        "model_version": str(model.version),
        "positive_class": model.positive_class,
        "threshold": repr(model.threshold),
        "attribution": attribution,
    }


def _bounds(tiles: pa.Table) -> np.ndarray:
    """Return west, south, east and north of each tile, `(n, 4)` float64 degrees; NaN without a place."""
    bounds = np.full((len(tiles), 4), np.nan)
    places = [tiles[axis].drop_null().to_numpy() for axis in ("z", "x", "y")]
    bounds[pc.is_valid(tiles["z"]).to_numpy()] = np.stack(bounds_of(*places), axis=1)
    return bounds
