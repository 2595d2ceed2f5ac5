"""What a machine wrote of a trial while MLflow was away, kept with the trial too: it may be gone before MLflow is back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna

from satx.config import Configuration, validated
from satx.study.outcomes import DONE
from satx.tracking.client import MlflowClient
from satx.tracking.curves import direct_curves
from satx.tracking.finish_run import close_run
from satx.tracking.runs import find_run, log_dataset_fields, start_run
from satx.tracking.spooled_writer import Opening
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
        tags = opening.tags | opening.identity | {"trial_numbers": str(opening.trial_number)}
        run = start_run(
            client, experiment_id, name=opening.name, tags=tags, params=opening.params, parent=opening.parent
        )
        log_dataset_fields(client, run.info.run_id, opening.dataset)
    history, curves = [Epoch(**epoch) for epoch in record["history"]], direct_curves(client, run)
    for epoch in history:
        curves.add(epoch)
    tags, numbers = record["tags"] | {"recorded_by": "study"}, record["numbers"]
    writer = DirectWriter(client, run)
    close_run(writer, configuration, history, curves, status=record["status"], tags=tags, numbers=numbers)
    return True
