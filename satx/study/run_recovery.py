"""Runs written from the study: those whose machine was lost before it sent them to MLflow, and inputs of older runs."""

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

RECORD = "record"  # user attribute of a trial: the content of its run


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
    """Store the content of a trial's run, except the model files, in the study with the trial."""
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
    """Write the runs of finished trials whose machine could not; call it when no worker is left that still could.

    Returns:
        How many runs were written.
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
        return False  # its own worker closed it after all
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
    """Set the tag `inputs` on a run of version 0.1, whose inputs are recorded with its study or in older tags.

    Args:
        client: MLflow client.
        run: The run; left unchanged if its study no longer exists and it has no such tags.
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
