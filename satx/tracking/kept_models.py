"""What a promising trial leaves until the sweep is over: its trained values, from which a model is written only if it stays best.

Building a network and drawing its plots takes seconds, and most of what leads for a while is overtaken.
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
TRAINED, KEPT, DROPPED = "trained", "kept", "dropped"  # the tag `model`


def log_trained(writer: RunWriter, result: TrainingResult) -> None:
    """Keep a trial's best values and its validation probabilities with its run; tag `model` says `trained`."""
    digests: dict[str, str] = {}

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, result.val_probabilities, *result.values)
        digests["trained_sha256"] = file_digest(path)

    writer.files({f"{FOLDER}/{NAME}": write})
    writer.batch([], [], [RunTag("model", TRAINED), *(RunTag(name, digest) for name, digest in digests.items())])


def drop_models(client: MlflowClient, experiment_id: str, study_name: str, backbone: str, *, keep: int) -> None:
    """Of a study's finished runs of a backbone the best `keep` keep their models, the others curves and settings.

    A promoted model is never dropped, nor one that was confirmed: newer ones that score higher are still to be.
    """
    tags = {"study": study_name, "backbone": backbone}
    # finished, since one that another worker is closing has no score yet
    query = runs_query(tags, excluding={"model": DROPPED}, status="FINISHED")
    runs = find_runs(client, experiment_id, query)
    for run in sorted(runs, key=own_score_first)[keep:]:
        if "promoted" not in run.data.tags and CONFIRMED not in run.data.metrics:
            folders = ("model", "plots") if run.data.tags["model"] == KEPT else (FOLDER,)
            client.set_tag(run.info.run_id, "model", DROPPED)
            for folder in folders:
                delete_folder(client, run, folder)
