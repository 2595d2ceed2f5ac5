"""Runs written from the study if their machine was lost while MLflow was unavailable, and inputs of older runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from satx.config import Configuration, read_yaml, validated
from satx.errors import ConfigError
from satx.execution import worker
from satx.execution.driver import Sweep
from satx.execution.worker import run_worker
from satx.study.run_recovery import RECORD, record_inputs, write_missing_records
from satx.testing.rehearsal import rehearsal_engine, rehearsed_curve
from satx.tracking.client import MlflowException
from satx.tracking.provenance import recorded_inputs
from satx.tracking.runs import curve_of, fetch_file, start_run
from satx.tracking.spooled_writer import SpooledRuns

HEADS: dict[str, Any] = {
    "start": [],
    "space": {"train.head_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    "set": {"model.backbone": "mobilenetv2", "model.unfreeze": "none", "train.head_epochs": 3},
    "pruner": {"name": "none"},
}


@pytest.mark.parametrize("goes_after", [0, 1, 2])
def test_a_run_is_written_from_the_study_if_its_machine_is_lost(
    open_tiny: Callable[..., Sweep], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_after: int
) -> None:
    sweep = open_tiny(trials=1, **HEADS)
    perform, done = SpooledRuns._perform, list[str]()

    def away(self: SpooledRuns, operation: dict[str, Any], files: Path | None) -> None:
        if len(done) == goes_after:
            raise MlflowException("API request to http://127.0.0.1:9 failed")
        done.append(operation["do"])
        perform(self, operation, files)

    with monkeypatch.context() as patch:
        patch.setattr(SpooledRuns, "_perform", away)
        patch.setattr(worker, "PATIENCE_SECONDS", 0.0)
        run_worker(sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
    shutil.rmtree(home / "spool")  # the machine is lost, including its disk
    (trial,) = sweep.study.get_trials()
    assert RECORD in trial.user_attrs
    client, experiment = sweep.client, sweep.job.experiment_id
    assert write_missing_records(sweep.study, client, experiment) == 1
    assert write_missing_records(sweep.study, client, experiment) == 0
    (run,) = client.search_runs([experiment], filter_string="tags.configuration LIKE '%'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["best_val_auc"] == trial.value
    assert run.data.tags["recorded_by"] == "study"
    path = fetch_file(client, run.info.run_id, "config.json", tmp_path)
    assert path is not None
    configuration = validated(Configuration, read_yaml(path), source="test")
    expected = [(epoch.step, epoch.val_auc) for epoch in rehearsed_curve(configuration)]
    history = curve_of(client, run.info.run_id, "val_auc")
    assert [(metric.step, metric.value) for metric in history] == expected


def test_the_study_stores_no_content_of_a_run_while_mlflow_is_available(open_tiny: Callable[..., Sweep]) -> None:
    sweep = open_tiny(trials=1, **HEADS)
    run_worker(sweep.job.study_name, rehearsal_engine(0.0), stop=lambda: False)
    (trial,) = sweep.study.get_trials()
    assert RECORD not in trial.user_attrs
    assert write_missing_records(sweep.study, sweep.client, sweep.job.experiment_id) == 0


def test_the_inputs_of_a_run_of_an_older_version_are_recorded_with_the_run(open_tiny: Callable[..., Sweep]) -> None:
    sweep = open_tiny(trials=1, **HEADS)
    job, client = sweep.job, sweep.client
    weights = job.weights["mobilenetv2"]
    of_a_sweep = {"study": job.study_name, "backbone": "mobilenetv2"}
    of_a_training = {
        "backbone": "mobilenetv2",
        "weights": weights.source,
        "weights_file": weights.file,
        "weights_digest": weights.digest,
        "store": str(job.store.folder),
        "session_config": job.session.model_dump_json(),
    }
    for tags in (of_a_sweep, of_a_training):
        run = start_run(client, job.experiment_id, name="old", tags=tags, params={}, parent=None)
        with pytest.raises(ConfigError):
            recorded_inputs(run.info.run_id, run.data.tags)
        told = record_inputs(client, run)
        assert recorded_inputs(told.info.run_id, told.data.tags) == (job.session, job.store.folder, weights)
    other = start_run(client, job.experiment_id, name="x", tags={"study": "gone"}, params={}, parent=None)
    with pytest.raises(ConfigError):
        recorded_inputs(other.info.run_id, record_inputs(client, other).data.tags)
