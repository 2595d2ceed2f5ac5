"""Load of the machine in a run, under the names that MLflow's own monitor gives it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from projects import databases

from satx.tracking.client import MlflowClient, experiment_id, open_tracker, tracking_uri
from satx.tracking.curves import CurveLogger
from satx.tracking.machine_load import PREFIX, machine_load
from satx.tracking.runs import Opening, curve_of, get_run, start_run
from satx.tracking.spooled_writer import SpooledRuns
from satx.tracking.writer import DirectWriter
from satx.training.checkpoint import Epoch

DATASET = {"name": "s", "digest": "d", "source_type": "tiles", "source": "{}", "schema": "{}", "profile": "{}"}
MEMORY = f"{PREFIX}system_memory_usage_percentage"


def epoch(step: int) -> Epoch:
    return Epoch(step, "head", 0.5, 1.0 / step, 0.6, 0.7, 0.8, 1e-3, 0.25)


@pytest.fixture
def tracker(home: Path, tmp_path_factory: Any) -> tuple[MlflowClient, str]:
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), home)
    client = open_tracker()
    return client, experiment_id(client, "load")


def test_the_names_are_those_of_mlflows_own_monitor(tracker: tuple[MlflowClient, str]) -> None:
    load = machine_load()
    assert {f"{PREFIX}cpu_utilization_percentage", MEMORY} <= set(load)
    assert 0 <= load[f"{PREFIX}cpu_utilization_percentage"] <= 100
    assert load[MEMORY] == pytest.approx(psutil.virtual_memory().used / psutil.virtual_memory().total * 100, abs=20)
    monitor = SystemMetricsMonitor("run", tracking_uri=tracking_uri())
    monitor.collect_metrics()
    assert set(load) <= {f"{monitor._metrics_prefix}{name}" for name in monitor.aggregate_metrics()}


def test_a_run_has_one_sample_for_each_batch_of_epochs(tracker: tuple[MlflowClient, str]) -> None:
    client, experiment = tracker
    run = start_run(client, experiment, name="r", tags={}, params={}, parent=None)
    loads = iter([10.0, 20.0])
    curves = CurveLogger(DirectWriter(client, get_run(client, run.info.run_id)), load=lambda: {MEMORY: next(loads)})
    for step in (1, 2):
        curves.add(epoch(step))
    curves.flush()
    curves.add(epoch(3))
    curves.flush({"best_val_auc": 0.8})
    curves.flush({"best_val_auc": 0.8})  # no epochs: no sample
    sampled = client.get_metric_history(run.info.run_id, MEMORY)
    assert [(metric.step, metric.value) for metric in sampled] == [(2, 10.0), (3, 20.0)]
    assert [metric.step for metric in curve_of(client, run.info.run_id, "loss")] == [1, 2, 3]


def test_an_attempt_that_adds_earlier_epochs_again_sends_no_second_sample_for_them(
    home: Path, tracker: tuple[MlflowClient, str]
) -> None:
    client, experiment = tracker
    opening = Opening({"study": "s", "configuration": "c"}, "r", {}, {}, None, DATASET, 0)
    for last, value in ((2, 10.0), (2, 20.0), (3, 30.0)):  # the second attempt is stopped before its first new epoch
        runs = SpooledRuns(client, experiment, home / "spool")
        curves = CurveLogger(runs.open(opening, is_new=False), load=lambda value=value: {MEMORY: value})  # type: ignore[misc]
        for step in range(1, last + 1):
            curves.add(epoch(step))
        curves.flush()
        runs.spool.close()
    (run,) = client.search_runs([experiment])
    sampled = client.get_metric_history(run.info.run_id, MEMORY)
    assert [(metric.step, metric.value) for metric in sampled] == [(2, 10.0), (3, 30.0)]
