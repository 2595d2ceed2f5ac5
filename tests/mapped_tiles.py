"""Blocks of a prediction, for the tests of its map: vectorized, so that 100,000 tiles take a second."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from satx.bulk.block_file import PROBABILITY_PREFIX, ModelIdentity, block_schema
from satx.grid.tiles import tile_of
from satx.imagery.contract import DONE

MODEL = ModelIdentity("school", 4, "d" * 64, ("not-school", "school"), "school", 0.62, 256, False)
ZOOM = 18


def block_of(
    x: np.ndarray,
    y: np.ndarray,
    probability: np.ndarray,
    *,
    zoom: int = ZOOM,
    statuses: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    model: ModelIdentity = MODEL,
) -> pa.Table:
    """Return a block as the engine writes it: columns, rows and probabilities of the class of interest, each (n,)."""
    schema, num_tiles = block_schema(model.classes), len(x)
    statuses = np.full(num_tiles, DONE) if statuses is None else statuses
    is_unscored = statuses != DONE
    tile_ids = names if names is not None else [f"{zoom}-{a}-{b}" for a, b in zip(x, y, strict=True)]
    rest = (1 - probability) / (len(model.classes) - 1)
    columns = {
        "tile_id": pa.array(tile_ids, pa.string()),
        "z": pa.array(np.full(num_tiles, zoom), pa.int8()),
        "x": pa.array(x, pa.int32()),
        "y": pa.array(y, pa.int32()),
        "status": pa.array(statuses.tolist()).dictionary_encode().cast(schema.field("status").type),
        "reason": pa.array(np.where(is_unscored, "a reason", None).tolist(), pa.string()),
        **{
            PROBABILITY_PREFIX + name: pa.array(
                (probability if name == model.positive_class else rest).astype(np.float32), mask=is_unscored
            )
            for name in model.classes
        },
        "above_threshold": pa.array(probability.astype(np.float32) >= np.float32(model.threshold), mask=is_unscored),
        "model_version": pa.array(np.full(num_tiles, model.version, np.int32)),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def country(num_tiles: int, *, seed: int = 0, zoom: int = ZOOM) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return columns, rows and probabilities, each (n,), of different tiles around towns of an area of 3 by 2 degrees."""
    draw = np.random.default_rng(seed)
    towns = draw.uniform((-90.0, 12.8), (-87.0, 14.8), (200, 2))
    drawn = 2 * num_tiles
    spread = draw.normal(0, 0.08, (drawn, 2))
    longitude, latitude = (towns[draw.integers(len(towns), size=drawn)] + spread).T
    x, y = tile_of(longitude, latitude, zoom)
    _, first = np.unique(x << 32 | y, return_index=True)
    kept = draw.permutation(first)[:num_tiles]
    assert len(kept) == num_tiles
    return x[kept], y[kept], draw.uniform(0.31, 1, num_tiles) ** draw.choice([0.4, 1.0], num_tiles)
