"""The baseline is fitted on the training tiles only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from satx.config import Configuration
from satx.training.baseline import fit_baseline
from satx.training.contract import TrainingData
from satx.training.trunk import trunk_source


def test_a_baseline_does_not_depend_on_validation_and_test_labels(
    short: Callable[..., Configuration], training_data: TrainingData
) -> None:
    store = training_data.store
    index = store.index.copy()
    held_out = index["split"].isin(["valid", "test"])
    index.loc[held_out, "label_index"] = 1 - index.loc[held_out, "label_index"]
    blinded = replace(store, index=index)
    assert not np.array_equal(blinded.labels()[held_out], store.labels()[held_out])
    found = [
        fit_baseline(
            trunk_source(short(), tiles, training_data.weights, training_data.cache_dir),
            seed=20,
            splits=("valid", "test"),
        )
        for tiles in (store, blinded)
    ]
    assert found[0].regularization == found[1].regularization
    for split in ("valid", "test"):
        assert len(found[0].probabilities[split]) == len(store.rows(split))
        assert np.array_equal(found[0].probabilities[split], found[1].probabilities[split])
