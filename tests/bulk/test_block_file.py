"""The rows of a block's file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bulk_played import MODEL

from satx.bulk.block_file import block_table
from satx.imagery.contract import Tile, Unscored


def test_a_probability_equal_to_the_threshold_is_above_it_as_float32() -> None:
    model = replace(MODEL, threshold=0.1)  # no float32 has exactly this value
    shares = [np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(0))]
    scores = [np.array([1 - share, share], np.float32) for share in shares]
    tiles = [Tile(f"18-1-{row}", 18, 1, row) for row in range(2)]
    table = block_table(tiles, scores, model)
    assert table["above_threshold"].to_pylist() == [True, False]


def test_what_a_tile_lacks_is_null() -> None:
    table = block_table([Tile("a.jpg", -1, -1, -1)], [Unscored("missing", "no such file")], MODEL)
    (row,) = table.to_pylist()
    assert row == {
        **dict.fromkeys(("z", "x", "y", "prob_not-school", "prob_school", "above_threshold")),
        **{"tile_id": "a.jpg", "status": "missing", "reason": "no such file", "model_version": 3},
    }


def test_every_tile_needs_a_score() -> None:
    with pytest.raises(ValueError, match="Expected a score for each of 1 tiles, got 0"):
        block_table([Tile("18-1-2", 18, 1, 2)], [], MODEL)
