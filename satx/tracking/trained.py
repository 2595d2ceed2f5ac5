"""What a promising trial leaves until the sweep is over: its trained values, from which a model is written only if it stays best.

Building a network and drawing its plots takes seconds, and most of what leads for a while is overtaken.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities import Run

from satx.config import Configuration, SessionConfig, read_yaml, validated
from satx.errors import WeightsError
from satx.models.weights import Weights
from satx.storage import file_digest
from satx.tiles.store import TileStore
from satx.tracking.results import log_evidence
from satx.tracking.runs import CONFIRMED, delete_folder, fetch_file, log_files, log_numbers, own_score_first
from satx.tracking.tracker import MlflowClient
from satx.training.trainer import TrainingResult, network_of

FOLDER, NAME = "trained", "values.npz"
TRAINED, KEPT, DROPPED = "trained", "kept", "dropped"  # the tag `model`


def log_trained(client: MlflowClient, run: Run, result: TrainingResult) -> None:
    """Keep a trial's best values and its validation probabilities with its run; tag `model` says `trained`."""
    digests: dict[str, str] = {}

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, result.val_probabilities, *result.values)
        digests["trained_sha256"] = file_digest(path)

    log_files(client, run, {f"{FOLDER}/{NAME}": write})
    log_numbers(client, run.info.run_id, {}, tags={"model": TRAINED, **digests})


def write_model(client: MlflowClient, run: Run, weights: Weights, *, store: TileStore, session: SessionConfig) -> None:
    """Turn what `log_trained` kept into model, plots and predictions; tag `model` says `kept`.

    Raises:
        WeightsError: The values are not those that were logged.
    """
    run_id = str(run.info.run_id)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("config.json", "history.csv", FOLDER):
            fetch_file(client, run_id, file, folder)
        found, recorded = folder / FOLDER / NAME, run.data.tags["trained_sha256"]
        if not found.is_file() or file_digest(found) != recorded:
            raise WeightsError(
                f"Run {run_id}: expected trained values with SHA-256 {recorded[:12]}…, got others or none. They are not loaded; "
                f"repeat the run: `satx train --from-run {run_id}`."
            )
        configuration = validated(Configuration, read_yaml(folder / "config.json"), source=f"run {run_id}")
        history = pd.read_csv(folder / "history.csv")
        with np.load(found, allow_pickle=False) as archive:
            probabilities, *values = [archive[f"arr_{number}"] for number in range(len(archive.files))]
    network = network_of(configuration, weights, len(store.classes), values)
    log_evidence(client, run, configuration, network, history, probabilities, store=store, session=session)
    delete_folder(client, run, FOLDER)


def drop_models(client: MlflowClient, experiment_id: str, study_name: str, backbone: str, *, keep: int) -> None:
    """Of a study's finished runs of a backbone the best `keep` keep their models, the others curves and settings.

    A promoted model is never dropped, nor one that was confirmed: newer ones that score higher are still to be.
    """
    query = (
        f"tags.study = '{study_name}' and tags.backbone = '{backbone}' and tags.model != '{DROPPED}' "
        f"and attributes.status = 'FINISHED'"  # one that another worker is closing has no score yet
    )
    runs = client.search_runs([experiment_id], filter_string=query, max_results=1000)
    for run in sorted(runs, key=own_score_first)[keep:]:
        if "promoted" not in run.data.tags and CONFIRMED not in run.data.metrics:
            folders = ("model", "plots") if run.data.tags["model"] == KEPT else (FOLDER,)
            client.set_tag(run.info.run_id, "model", DROPPED)
            for folder in folders:
                delete_folder(client, run, folder)
