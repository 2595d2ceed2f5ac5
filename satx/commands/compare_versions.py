"""Test predictions of the best runs of two sessions, on test tiles of the same version.

A session's manifest may open a new version of its test split. Scores of different versions are not comparable, so the older
session's model is then scored anew on the newer session's test tiles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pandas as pd

from satx.errors import ConfigError, DataError
from satx.reports.comparison import SessionRuns, best_tested_run
from satx.reports.paired import read_predictions
from satx.reports.two_sessions import SharedTests
from satx.tracking.client import MlflowClient
from satx.tracking.provenance import INPUTS, recorded_inputs
from satx.tracking.runs import get_run

FIRST_VERSION = 1  # of a session that has no manifest yet
OnStage = Callable[[str, int, int], None]  # stage, number done, total


def silent(_what: str, _done: int, _total: int) -> None:
    """Report no progress."""


def shared_tests(client: MlflowClient, sessions: list[SessionRuns], *, on_progress: OnStage = silent) -> SharedTests:
    """Return the test predictions of the best tested runs of two sessions, the older one's scored anew if the versions differ.

    Args:
        client: MLflow client.
        sessions: The two sessions.
        on_progress: Called with (stage, done, total) while a model is scored anew.

    Raises:
        ConfigError: The older session's model was not kept, or has other classes.
        DataError: A tile store is missing, the older model has seen all test tiles, or a run has no predictions.
    """
    runs = {session.experiment: str(best_tested_run(session)["run_id"]) for session in sessions}
    versions = {name: recorded_test_version(client, run_id) for name, run_id in runs.items()}
    if len(set(versions.values())) == 1:
        tested = {name: read_predictions(client, run_id) for name, run_id in runs.items()}
        return SharedTests(tested, (), are_equal=True)
    older, newer = sorted(runs, key=lambda name: versions[name])
    stage = f"scoring the model of {older} on the test tiles of {newer}"
    on_progress(stage, 0, 1)
    predictions, num_seen = score_anew(client, runs[older], tested_by=runs[newer])
    on_progress(stage, 1, 1)
    found = {older: predictions, newer: read_predictions(client, runs[newer])}
    note = (
        f"{older} has test version {versions[older]}, {newer} test version {versions[newer]}. So {older}'s model was scored anew "
        f"on {newer}'s test tiles, without the {num_seen} of them that it has seen in training or validation. The test scores in "
        f"the table of best runs are those of each session's own version; do not compare them. Baselines are not compared."
    )
    return SharedTests({name: found[name] for name in runs}, (note,), are_equal=False)


def recorded_test_version(client: MlflowClient, run_id: str) -> int:
    """Return the test version that a run's session recorded; 1 without a manifest."""
    recorded: Mapping[str, object] = json.loads(get_run(client, run_id).data.tags.get(INPUTS, "{}")).get("session", {})
    manifest = recorded.get("manifest")
    return int(manifest["test_version"]) if isinstance(manifest, dict) else FIRST_VERSION


def score_anew(client: MlflowClient, run_id: str, *, tested_by: str) -> tuple[pd.DataFrame, int]:
    """Predict the test tiles of another run's session with the model of a run.

    Args:
        client: MLflow client.
        run_id: The run whose model predicts.
        tested_by: The run of the session with the test tiles.

    Returns:
        Predictions as `read_predictions` returns them, without tiles that the model has seen in training or validation; and the
        number of those.

    Raises:
        ConfigError: The model was not kept, or has other classes than the tiles.
        DataError: A tile store is missing, or the model has seen all of the test tiles.
    """
    from satx.inference.predictor import predict_split  # these import Keras, which takes seconds
    from satx.registry.candidate import load_candidate
    from satx.registry.comparison import seen_tiles, store_at
    from satx.tiles.store import open_store
    from satx.tracking.artifacts import predictions_frame

    _, folder, _ = recorded_inputs(tested_by, get_run(client, tested_by).data.tags)
    store, model = open_store(folder), load_candidate(client, run_id)
    if model.classifier.classes != store.classes:
        raise ConfigError(
            f"Run {run_id}: expected a model of the classes {', '.join(store.classes)}, got "
            f"{', '.join(model.classifier.classes)}. Compare sessions of the same task."
        )
    seen = seen_tiles(store, model.store)
    tiles = store_at(store, model.classifier.image_size_px)
    frame = predictions_frame(store, "test", predict_split(model.classifier.network, tiles, "test"))
    unseen = ~store.index.iloc[store.rows("test")]["tile_id"].isin(seen).to_numpy()
    if not unseen.any():
        raise DataError(
            f"Run {run_id}: expected test tiles of the newer version that its model has not seen, got {len(seen)} that it was "
            f"trained or validated on, and no other. Sweep the older session again without them."
        )
    return frame[unseen].reset_index(drop=True), len(seen)
