"""Score batches of tiles: with a classifier in this process, on TensorFlow or JAX, or at a serving endpoint.

A scorer is described by a JSON document, so that the workers of a cluster open the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from satx.bulk.block_file import ModelIdentity
from satx.imagery.contract import Unscored


class Scorer(Protocol):
    """What scores the tiles of a run.

    Attributes:
        model: The model.
        batch_size: Number of tiles that it scores at once.
        num_parallel: Number of batches that it works on at the same time.
    """

    model: ModelIdentity
    batch_size: int
    num_parallel: int

    def score(self, tiles: np.ndarray, files: Sequence[bytes]) -> list[np.ndarray | Unscored]:
        """Score one batch.

        Args:
            tiles: `(n, S, S, 3)` uint8, with `n` up to `batch_size`.
            files: The same tiles as image files.

        Returns:
            For each tile its calibrated probabilities, `(num_classes,)` float32, or why it has none.

        Raises:
            SatxError: The model cannot be used any more.
        """
        ...

    def about(self) -> dict[str, Any]:
        """Return what `run.json` records of the computation."""
        ...

    def close(self) -> None:
        """Free what the scorer holds."""
        ...


def open_scorer(spec: Mapping[str, Any]) -> Scorer:
    """Open the scorer of a description: `{"endpoint": URL, ...}` or `{"folder": PATH, ...}`.

    Raises:
        ConfigError, WeightsError: There is no such model, or it is another one.
    """
    if "endpoint" in spec:
        from satx.bulk.endpoint import open_endpoint

        return open_endpoint(spec["endpoint"], name=spec["name"], version=spec["version"])
    from satx.bulk.local_scorer import open_local_scorer  # imports Keras

    return open_local_scorer(
        Path(spec["folder"]),
        name=spec["name"],
        version=spec["version"],
        weights_sha256=spec["weights_sha256"],
        precision=spec["precision"],
    )
