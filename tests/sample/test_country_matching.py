import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from satx.bulk.block_file import ModelIdentity, block_table
from satx.bulk.counts import POSITIVES
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import plan_grid
from satx.evaluation.intervals import wilson_interval
from satx.grid.tiles import keys_of
from satx.imagery.contract import MISSING, Unscored

FILE = Path(__file__).parents[2] / "experiments" / "benchmarks" / "country_matching.py"


@pytest.fixture(scope="module")
def matching() -> ModuleType:
    spec = importlib.util.spec_from_file_location("country_matching", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def scores(*tiles: tuple[int, int, float]) -> pa.Table:
    rows = [{"tile_id": f"18-{x}-{y}", "z": 18, "x": x, "y": y, "probability": p} for x, y, p in tiles]
    return pa.Table.from_pylist(rows, schema=POSITIVES)


def test_a_candidate_is_right_if_any_of_its_tiles_is_at_most_one_tile_from_a_school(matching: ModuleType) -> None:
    schools = np.array([[10, 10], [50, 50], [80, 80]])
    row = scores((13, 10, 0.9), (12, 10, 0.8), (11, 11, 0.7), (52, 50, 0.95), (30, 30, 0.1), (79, 81, 0.6))
    found = matching.match(row, 0.5, schools)
    assert found.is_found.tolist() == [True, False, True]
    assert {tuple(best): bool(right) for best, right in zip(found.bests.tolist(), found.is_right, strict=True)} == {
        (13, 10): True,  # its best tile is three away, but another one is next to the school
        (52, 50): False,  # two tiles away
        (79, 81): True,
    }


def test_scores_are_those_of_the_scored_tiles_of_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FILE.parent)
    country = importlib.import_module("country")
    model = ModelIdentity("school", 3, "d" * 64, ("not-school", "school"), "school", 0.75, 64, sample=True)
    plan = plan_grid(keys_of(np.full(4, 18), np.arange(40, 44), np.full(4, 70)))
    ledger = open_ledger(str(tmp_path))
    ledger.prepare({"identity": {"plan": plan.digest, "model": asdict(model)}, "kind": plan.kind}, plan.table)
    found = [np.array([1 - p, p], np.float32) for p in (0.0, 0.5, 1.0)]
    (block,) = plan.blocks
    ledger.write(block.name, block_table(plan.tiles(block), [*found, Unscored(MISSING, "404")], model))
    table, threshold = country.read_scores(tmp_path)
    assert table.schema == POSITIVES and threshold == 0.75
    assert table["x"].to_pylist() == [40, 41, 42] and table["probability"].to_pylist() == [0.0, 0.5, 1.0]


def test_a_higher_threshold_splits_and_loses_candidates(matching: ModuleType) -> None:
    row = scores((10, 10, 0.9), (11, 10, 0.5), (12, 10, 0.9))
    schools = np.array([[10, 10]])
    assert len(matching.match(row, 0.5, schools).is_right) == 1
    at_most = matching.match(row, 0.9, schools)
    assert len(at_most.is_right) == 2
    assert at_most.is_right.sum() == 1
    none = matching.match(row, 0.95, schools)
    assert (none.is_found.tolist(), none.is_right.tolist()) == ([False], [])


def test_the_table_has_recall_and_precision_with_intervals(matching: ModuleType) -> None:
    schools = np.array([[10 * k, 7 * k] for k in range(20)])
    hits = scores(*((10 * k, 7 * k, 0.9) for k in range(15)), *((1000 + 5 * k, 3, 0.9) for k in range(5)))
    row = matching.row_of(matching.match(hits, 0.5, schools), 0.5, schools)
    assert (row["schools"], row["candidates"]) == (20, 20)
    assert (row["recall"], row["precision"]) == (0.75, 0.75)
    wilson = wilson_interval(15, 20)
    assert row["recall 95%"] == f"{wilson.low:.3f} to {wilson.high:.3f}"
    empty = matching.row_of(matching.match(hits, 0.99, schools), 0.99, schools)
    assert empty["recall"] == 0
    assert np.isnan(empty["precision"])
    assert empty["precision 95%"] == "no cases"


def test_resampling_squares_is_wider_where_neighbours_are_alike(matching: ModuleType) -> None:
    places = np.array([[12 * (k // 10), 0] for k in range(200)])
    clustered = np.arange(200) // 10 % 2 == 0
    mixed = np.arange(200) % 2 == 0
    wide, narrow = (matching.by_squares(places, flags) for flags in (clustered, mixed))
    assert wide[0] < 0.35 < 0.65 < wide[1]
    assert narrow[0] == narrow[1] == 0.5
