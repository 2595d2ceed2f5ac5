"""The file of a block: one row for each of its tiles, in the order of the plan, as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from satx.imagery.contract import DONE, UNKNOWN, Tile, Unscored

PROBABILITY_PREFIX = "prob_"


@dataclass(frozen=True)
class ModelIdentity:
    """The model that scores the tiles of a run.

    Attributes:
        name: Name of the registered model.
        version: Its version.
        digest: SHA-256 of its weights; of an endpoint, of what it says of itself.
        classes: Class names, in the order of the probabilities.
        positive_class: The class of interest.
        threshold: Probability of the positive class from which a tile counts as found.
        image_size_px: Edge of its tiles.
        sample: Whether it was trained on rendered tiles.
    """

    name: str
    version: int
    digest: str
    classes: tuple[str, ...]
    positive_class: str
    threshold: float
    image_size_px: int
    sample: bool

    @property
    def positive_index(self) -> int:
        """Index of the class of interest."""
        return self.classes.index(self.positive_class)


def recorded_model(plan: Mapping[str, Any]) -> ModelIdentity:
    """Return the model of a run from its `plan.json`."""
    model = plan["identity"]["model"]
    return ModelIdentity(**{**model, "classes": tuple(model["classes"])})


def block_schema(classes: Sequence[str]) -> pa.Schema:
    """Return the columns of a block's file.

    `z`, `x` and `y` are null where unknown. `reason` is null for `done`. The probabilities and `above_threshold` are null for
    all other statuses. The metadata of the file's schema names the positive class and the threshold.
    """
    return pa.schema(
        [
            pa.field("tile_id", pa.string(), nullable=False),
            pa.field("z", pa.int8()),
            pa.field("x", pa.int32()),
            pa.field("y", pa.int32()),
            pa.field("status", pa.dictionary(pa.int8(), pa.string()), nullable=False),
            pa.field("reason", pa.string()),
            *(pa.field(PROBABILITY_PREFIX + name, pa.float32()) for name in classes),
            pa.field("above_threshold", pa.bool_()),
            pa.field("model_version", pa.int32(), nullable=False),
        ]
    )


def block_table(tiles: Sequence[Tile], scores: Sequence[np.ndarray | Unscored], model: ModelIdentity) -> pa.Table:
    """Return the table of a block.

    Args:
        tiles: Its tiles, in the order of the plan.
        scores: For each tile, its calibrated probabilities, `(num_classes,)` float32, or why it has none.
        model: The model that scored them.

    Raises:
        ValueError: The numbers of tiles and scores differ.
    """
    if len(tiles) != len(scores):
        raise ValueError(f"Expected a score for each of {len(tiles)} tiles, got {len(scores)}.")
    is_done = np.array([not isinstance(score, Unscored) for score in scores], bool)
    probabilities = np.zeros((len(tiles), len(model.classes)), np.float32)
    for row, score in enumerate(scores):
        if not isinstance(score, Unscored):
            probabilities[row] = score
    above = probabilities[:, model.positive_index] >= np.float32(model.threshold)
    places = np.array([(tile.z, tile.x, tile.y) for tile in tiles], np.int64).reshape(-1, 3)
    columns = [
        pa.array([tile.tile_id for tile in tiles], pa.string()),
        *(pa.array(places[:, axis], kind, mask=places[:, axis] == UNKNOWN) for axis, kind in _PLACE_TYPES),
        pa.array([score.status if isinstance(score, Unscored) else DONE for score in scores]).dictionary_encode(),
        pa.array([score.reason if isinstance(score, Unscored) else None for score in scores], pa.string()),
        *(pa.array(column, mask=~is_done) for column in probabilities.T),
        pa.array(above, mask=~is_done),
        pa.array(np.full(len(tiles), model.version, np.int32)),
    ]
    schema = block_schema(model.classes)
    arrays = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
    metadata = {"positive_class": model.positive_class, "threshold": repr(model.threshold)}
    return pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata))


_PLACE_TYPES = ((0, pa.int8()), (1, pa.int32()), (2, pa.int32()))
