"""Sessions with different versions of the test split: the older model is scored anew on the newer tiles."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from inference.tiny import fitted_classifier, open_tiles, render_tiles
from projects import with_databases
from registry.small_runs import make_run

from satx.commands.compare_versions import recorded_test_version, score_anew, shared_tests
from satx.errors import ConfigError, DataError
from satx.inference.predictor import predict_split
from satx.models.classifier import Classifier
from satx.reports.comparison import SessionRuns
from satx.tiles.store import TileStore
from satx.tracking.artifacts import predictions_frame
from satx.tracking.client import MlflowClient, open_tracker
from satx.tracking.provenance import INPUTS
from satx.tracking.runs import get_run, log_files

NUM_SWAPPED = 3  # tiles of the older train split that are test tiles of the newer version


@dataclass(frozen=True)
class Versions:
    """Two sessions whose test splits differ: stores, the classifier of the older one, and a home."""

    home: Path
    older: TileStore
    newer: TileStore
    classifier: Classifier


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    folder = tmp_path_factory.mktemp("versions")
    tiles = render_tiles(folder / "older")
    newer = shutil.copytree(tiles, folder / "newer")
    train, test = (sorted((newer / split / "school").iterdir())[:NUM_SWAPPED] for split in ("train", "test"))
    for first, second in zip(train, test, strict=True):
        other = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(other)
    stores = [open_tiles(one, folder / "cache") for one in (tiles, newer)]
    return Versions(folder, *stores, fitted_classifier(stores[0]))


@pytest.fixture
def client(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("SATX_HOME", str(with_databases(tmp_path / "home", tmp_path_factory.getbasetemp())))
    return open_tracker()


def run_of(
    client: MlflowClient, versions: Versions, store: TileStore, test_version: int | None, *, keep: bool = True
) -> str:
    """Log a finished run of a session with a manifest of this test version, with its test predictions."""
    run_id = make_run(client, versions.classifier, store, keep=keep)
    if test_version is not None:
        inputs = json.loads(get_run(client, run_id).data.tags[INPUTS])
        manifest = {"file": "experiments/session1.csv", "digest": "0" * 64, "test_version": test_version}
        inputs["session"]["manifest"] = manifest
        client.set_tag(run_id, INPUTS, json.dumps(inputs))
    frame = predictions_frame(store, "test", predict_split(versions.classifier.network, store, "test"))
    log_files(client, get_run(client, run_id), {"predictions/test.parquet": lambda path: frame.to_parquet(path)})
    return run_id


def session_of(name: str, run_id: str) -> SessionRuns:
    row = {"run_id": run_id, "run_name": name, "backbone": "mobilenetv2", "status": "FINISHED", "hours": 0.1}
    row |= {"val_auc": 0.9, "val_loss": 0.2, "val_accuracy": 0.8, "test_auc": 0.9}
    runs = pd.DataFrame([row])
    return SessionRuns(name, "1", name, runs, pd.DataFrame(), pd.DataFrame(), {}, {})


def test_the_older_model_is_scored_anew_on_the_newer_test_tiles_that_it_has_not_seen(
    client: MlflowClient, versions: Versions
) -> None:
    new = run_of(client, versions, versions.newer, 2)
    for order, version in ((("session1", "session2"), 1), (("session2", "session1"), None)):
        runs = {"session1": run_of(client, versions, versions.older, version), "session2": new}
        found = shared_tests(client, [session_of(name, runs[name]) for name in order])
        assert [*found.tested] == [*order] and not found.are_equal
        index = versions.newer.index.iloc[versions.newer.rows("test")]
        seen = set(versions.older.index.loc[versions.older.index["split"] == "train", "content_digest"])
        tested = found.tested["session1"]
        assert len(set(index["content_digest"]) & seen) == NUM_SWAPPED
        assert set(tested["content_digest"]) == set(index["content_digest"]) - seen
        own = predict_split(versions.classifier.network, versions.newer, "test")[:, 1]
        expected = dict(zip(index["content_digest"], own, strict=True))
        assert np.allclose(
            tested["probability_school"], [expected[tile] for tile in tested["content_digest"]], atol=1e-5
        )
        assert len(found.tested["session2"]) == len(index)
        (note,) = found.notes
        assert "session1 has test version 1, session2 test version 2" in note
        assert f"without the {NUM_SWAPPED} of them that it has seen" in note


def test_equal_versions_and_sessions_without_a_manifest_are_compared_as_logged(
    client: MlflowClient, versions: Versions
) -> None:
    for first, second in ((2, 2), (None, None), (None, 1)):
        ids = [run_of(client, versions, versions.older, version) for version in (first, second)]
        assert [recorded_test_version(client, run_id) for run_id in ids] == [first or 1, second or 1]
        found = shared_tests(client, [session_of(f"session{n}", run_id) for n, run_id in enumerate(ids)])
        assert found.are_equal and found.notes == ()
        assert len(found.tested["session0"]) == len(versions.older.rows("test"))


@pytest.mark.slow
def test_an_older_model_that_was_not_kept_or_has_seen_every_tile_is_one_clear_error(
    client: MlflowClient, versions: Versions, tmp_path: Path
) -> None:
    new = run_of(client, versions, versions.newer, 2)
    dropped = run_of(client, versions, versions.older, 1, keep=False)
    with pytest.raises(ConfigError, match=f"Run {dropped}: expected a run with a stored model"):
        score_anew(client, dropped, tested_by=new)
    old = run_of(client, versions, versions.older, 1)
    turned = shutil.copytree(versions.older.report.root, tmp_path / "turned")
    for label in ("school", "not-school"):
        (turned / "train" / label).rename(turned / "kept")
        (turned / "test" / label).rename(turned / "train" / label)
        (turned / "kept").rename(turned / "test" / label)
    lines = (turned / "tiles.csv").read_text(encoding="utf-8")
    swapped = lines.replace("train", "KEPT").replace("test", "train").replace("KEPT", "test")
    (turned / "tiles.csv").write_text(swapped, encoding="utf-8")
    everything_seen = run_of(client, versions, open_tiles(turned, tmp_path / "cache"), 3)
    with pytest.raises(DataError, match="has not seen, got"):
        score_anew(client, old, tested_by=everything_seen)
