"""Runs written from the study: those whose machine is gone with what it had not sent, and inputs of older runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna
from mlflow.entities import Run

from satx.config import Configuration, validated
from satx.models.weights_file import Weights
from satx.study.database import open_storage, open_study
from satx.study.outcomes import DONE
from satx.tracking.client import MlflowClient
from satx.tracking.curves import direct_curves
from satx.tracking.finish_run import close_run
from satx.tracking.provenance import INPUTS
from satx.tracking.runs import Opening, find_run, open_run
from satx.tracking.writer import DirectWriter
from satx.training.checkpoint import Epoch

RECORD = "record"  # attribute of a trial


def keep_record(
    trial: optuna.Trial,
    opening: Opening,
    configuration: Configuration,
    history: list[Epoch],
    *,
    status: str,
    tags: Mapping[str, str],
    numbers: Mapping[str, float],
) -> None:
    """Keep with a trial all that its run is to hold but the models' files."""
    record = {
        "opening": asdict(opening),
        "configuration": configuration.model_dump(),
        "history": [asdict(epoch) for epoch in history],
        "status": status,
        "tags": dict(tags),
        "numbers": dict(numbers),
    }
    trial.set_user_attr(RECORD, record)


def write_missing_records(study: optuna.Study, client: MlflowClient, experiment_id: str) -> int:
    """Write the runs of finished trials whose machine could not; to be called when no worker is left that still could.

    Returns:
        How many there were.
    """
    written = 0
    for trial in study.get_trials(deepcopy=False, states=DONE):
        record = trial.user_attrs.get(RECORD)
        if record is not None:
            written += _write(client, experiment_id, record)
    return written


def _write(client: MlflowClient, experiment_id: str, record: dict[str, Any]) -> bool:
    opening = Opening(**record["opening"])
    run = find_run(client, experiment_id, opening.identity)
    if run is not None and "compute_seconds" in run.data.metrics:
        return False  # closed by its own worker after all
    configuration = validated(Configuration, record["configuration"], source="a trial's record")
    if run is None:
        run, _ = open_run(client, experiment_id, opening)
    history, curves = [Epoch(**epoch) for epoch in record["history"]], direct_curves(client, run)
    for epoch in history:
        curves.add(epoch)
    tags, numbers = record["tags"] | {"recorded_by": "study"}, record["numbers"]
    writer = DirectWriter(client, run)
    close_run(writer, configuration, history, curves, status=record["status"], tags=tags, numbers=numbers)
    return True


def record_inputs(client: MlflowClient, run: Run) -> Run:
    """Give a run of version 0.1, which named its study instead, the tag that says what it was trained on.

    Args:
        client: MLflow.
        run: The run; one of a study that does not exist any more is left as it is.
    """
    tags = run.data.tags
    storage = open_storage()
    if tags.get("study") in optuna.get_all_study_names(storage=storage):
        attributes = open_study(storage, tags["study"]).user_attrs
        inputs = {name: attributes[name] for name in ("session", "store", "weights") if name in attributes}
    elif "session_config" in tags:
        weights = Weights(tags["backbone"], tags["weights_file"], tags["weights_digest"], tags["weights"])
        inputs = {"session": json.loads(tags["session_config"]), "store": tags["store"]}
        inputs["weights"] = {weights.backbone: weights.as_dict()}
    else:
        return run
    client.set_tag(run.info.run_id, INPUTS, json.dumps(inputs))
    return client.get_run(run.info.run_id)
