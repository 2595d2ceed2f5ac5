"""A gate for a dozen test tiles, and runs of small classifiers, logged as trainings do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from inference.tiny import fitted_classifier
from mlflow.entities import Run, RunData, RunInfo

from satx.models.classifier import Classifier, save_classifier
from satx.models.weights_file import Weights
from satx.registry.candidate import Candidate
from satx.registry.gate import GateConfig
from satx.session_config import SessionConfig
from satx.storage import file_digest
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient, experiment_id
from satx.tracking.provenance import inputs_tag
from satx.tracking.runs import log_files, start_run

NAME = "school-sample"
RULES: dict[str, Any] = {
    "auc_floor": {"at_least": 0.1},
    "auc_not_worse": {"confidence": 0.95},
    "accuracy_not_worse": {"alpha": 0.05},
    "slice_floor": {"metric": "accuracy", "at_least": 0.3, "fewest_tiles": 2},
    "calibration_gap": {"at_most": 0.4},
    "served_parity": {"own_size_at_most": 1e-4, "resized_at_most": 0.05},
    "latency_per_tile": {"at_most_seconds": 60},
    "export_size": {"at_most_gb": 1},
}


def gate_with(**rules: dict[str, Any]) -> GateConfig:
    """Return a gate with only these rules."""
    return GateConfig.model_validate({"threshold": {"rule": "youden"}, "rules": rules})


GATE = gate_with(**RULES)


def make_run(
    client: MlflowClient, classifier: Classifier, store: TileStore, *, status: str = "FINISHED", keep: bool = True
) -> str:
    """Log a run of a classifier as a training does; return its id."""
    session = SessionConfig(
        session="tiny-sample", task="school-sample", positive_class="school", data_dir="data", sweep="quick"
    )
    backbone = classifier.model.backbone
    weights = Weights(backbone, "x", "0" * 64, "random")
    tags = {"backbone": backbone, **inputs_tag(session, store.folder, {backbone: weights})}
    run = start_run(client, experiment_id(client, "tiny-sample"), name="tiny", tags=tags, params={}, parent=None)
    run_id = str(run.info.run_id)
    if keep:

        def write(path: Path) -> None:
            save_classifier(classifier, path)
            client.set_tag(run_id, "weights_sha256", file_digest(path / "model.weights.h5"))

        log_files(client, run, {"model": write})
    client.set_terminated(run_id, status=status)
    return run_id


def candidate_of(classifier: Classifier, store: TileStore) -> Candidate:
    session = SessionConfig(
        session="tiny-sample", task=classifier.task, positive_class="school", data_dir="data", sweep="quick"
    )
    run = Run(RunInfo("e" * 32, "0", "satx", "FINISHED", 0, 1, "active"), RunData())
    return Candidate(run, classifier, session, store)


def worse_by_chance(store: TileStore) -> Classifier:
    """Return a classifier that ranks one school of the test tiles last, and is right about all others.

    Its AUC is lower than the champion's, but not beyond chance.
    """
    classifier = fitted_classifier(store)
    network, rows = classifier.network, store.rows("test")
    features = np.asarray(network.features(network.encode(np.asarray(store.pixels())[rows])))
    wanted = np.where(store.labels()[rows] == store.classes.index("school"), 1.0, -1.0)
    wanted[np.argmax(wanted)] = -3.0
    kernel, *_ = np.linalg.lstsq(features, wanted)
    network.head.layers[-1].set_weights([np.stack([-kernel, kernel], axis=1), np.zeros(2)])
    return classifier
