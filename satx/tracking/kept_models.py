"""Trained values of promising trials, kept until the sweep ends.

A model is written from them only if the trial is still among the best then. Building a network and drawing its plots
takes seconds, and most trials that lead for a while are overtaken.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlflow.entities import RunTag

from satx.storage import file_digest
from satx.tracking.client import MlflowClient
from satx.tracking.runs import CONFIRMED, delete_folder, find_runs, own_score_first, runs_query
from satx.tracking.writer import RunWriter
from satx.training.contract import TrainingResult

FOLDER, NAME = "trained", "values.npz"
TRAINED, KEPT, DROPPED = "trained", "kept", "dropped"  # values of the tag `model`


def log_trained(writer: RunWriter, result: TrainingResult) -> None:
    """Log a trial's best values and its validation probabilities to its run; set the tag `model` to `trained`."""
    digests: dict[str, str] = {}

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, result.val_probabilities, *result.values)
        digests["trained_sha256"] = file_digest(path)

    writer.files({f"{FOLDER}/{NAME}": write})
    writer.batch([], [], [RunTag("model", TRAINED), *(RunTag(name, digest) for name, digest in digests.items())])


def drop_models(client: MlflowClient, experiment_id: str, study_name: str, backbone: str, *, keep: int) -> None:
    """Delete the models of a study's finished runs of a backbone, except those of the best `keep` runs.

    Curves and settings are kept. The model of a promoted or confirmed run is never deleted: newer runs that score
    higher than a confirmed one have not been confirmed yet.
    """
    tags = {"study": study_name, "backbone": backbone}
    # FINISHED only: a run that another worker is closing has no score yet
    query = runs_query(tags, excluding={"model": DROPPED}, status="FINISHED")
    runs = find_runs(client, experiment_id, query)
    for run in sorted(runs, key=own_score_first)[keep:]:
        if "promoted" not in run.data.tags and CONFIRMED not in run.data.metrics:
            folders = ("model", "plots") if run.data.tags["model"] == KEPT else (FOLDER,)
            client.set_tag(run.info.run_id, "model", DROPPED)
            for folder in folders:
                delete_folder(client, run, folder)
