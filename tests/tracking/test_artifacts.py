"""Tests of a run's artifacts: names in tables for spreadsheets stay text."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from satx.session_config import load_session
from satx.tiles.store import TileStore
from satx.tracking.artifacts import evaluation_files


@pytest.mark.parametrize(
    ("name", "written"),
    [("=cmd()", "'=cmd()"), ("+1", "'+1"), ("-1", "'-1"), ("@sum(a1)", "'@sum(a1)"), ("built-up", "built-up")],
)
def test_a_slice_that_begins_like_a_formula_stays_text(
    tiny_store: TileStore, tmp_path: Path, name: str, written: str
) -> None:
    store = replace(tiny_store, index=tiny_store.index.assign(slice=name))
    probabilities = np.full((len(store.rows("valid")), 2), 0.5, np.float32)
    evaluation_files(store, "valid", probabilities, load_session("2"))["slices/valid.csv"](tmp_path / "slices.csv")
    with (tmp_path / "slices.csv").open(newline="") as stream:
        assert {row["slice"] for row in csv.DictReader(stream)} == {written}
