"""Tests of a worker's runs while MLflow is unavailable, partly with a real server that is stopped and started."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import RunTag
from projects import databases

from satx.errors import Interrupted
from satx.testing.local_mlflow import LocalMlflow
from satx.tracking import spool
from satx.tracking.client import MlflowClient, experiment_id, open_tracker
from satx.tracking.curves import CurveLogger
from satx.tracking.runs import CURVES, WAITING, curve_of
from satx.tracking.spooled_writer import Opening, SpooledRuns
from satx.training.checkpoint import Epoch

DATASET = {"name": "s", "digest": "d", "source_type": "tiles", "source": "{}", "schema": "{}", "profile": "{}"}


@pytest.fixture
def server(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalMlflow]:
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), home)
    made = LocalMlflow(home / "mlflow.log")
    made.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(spool, "RETRY_SECONDS", 0.0)
    yield made
    made.stop()


def epoch(step: int) -> Epoch:
    return Epoch(step, "head", 0.5, 1.0 / step, 0.6, 0.7, 0.8 + step / 100, 1e-3, 0.25)


def opening(number: int) -> Opening:
    tags, machine = {"backbone": "mobilenetv2"}, {"machine": f"i-{number} g6.xlarge"}
    return Opening({"study": "s", "configuration": "c"}, "name", tags, {}, "parent", DATASET, number, machine)


def the_run(client: MlflowClient, experiment: str) -> Any:
    (run,) = client.search_runs([experiment], filter_string="tags.configuration = 'c'")
    return run


@pytest.mark.faults
@pytest.mark.slow
def test_what_is_written_while_mlflow_is_away_is_logged_when_it_is_back(server: LocalMlflow, home: Path) -> None:
    client = open_tracker()
    experiment = experiment_id(client, "scribed")
    first = SpooledRuns(client, experiment, home / "spool")
    server.stop()
    writer = first.open(opening(0), is_new=True)
    curves = CurveLogger(writer, params={"train.batch_size": 16})
    for step in (1, 2):
        curves.add(epoch(step))
    curves.flush()
    writer.end(WAITING)
    assert first.spool.num_waiting == 3
    first.finish(0.0, lambda: False)  # then its process ends

    second = SpooledRuns(client, experiment, home / "spool")
    writer = second.open(opening(1), is_new=False)
    server.start()
    curves = CurveLogger(writer, params={"train.batch_size": 16})
    for step in (1, 2, 3):  # an attempt adds all epochs again
        curves.add(epoch(step))
    curves.flush({"best_val_auc": 0.83}, tags={"trunk_cache": "read"})
    server.stop()
    writer.files(
        {"history.csv": lambda path: path.write_text("step\n1\n"), "deep/a.txt": lambda path: path.write_text("a")}
    )
    writer.batch([], [], [RunTag("model", "trained")])
    writer.end("FINISHED")
    server.start()
    second.finish(10.0, lambda: False)

    run = the_run(client, experiment)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.batch_size": "16"}
    tags = {"backbone": "mobilenetv2", "trial_numbers": "0,1", "trunk_cache": "read", "model": "trained"}
    tags |= {"machine": "i-1 g6.xlarge"}  # the machine of the last attempt
    assert {name: run.data.tags[name] for name in tags} == tags
    assert run.data.metrics["best_val_auc"] == 0.83
    for name in CURVES:
        assert [metric.step for metric in curve_of(client, run.info.run_id, name)] == [1, 2, 3]
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"history.csv", "deep"}
    assert run.inputs.dataset_inputs[0].dataset.digest == "d"
    assert list((home / "spool").iterdir()) == []


def test_two_workers_that_search_for_a_run_at_once_create_one_run(home: Path, tmp_path_factory: Any) -> None:
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), home)
    client = open_tracker()
    experiment = experiment_id(client, "scribed")
    lock, both_look = threading.Lock(), threading.Barrier(2)
    scribes = [SpooledRuns(client, experiment, home / f"spool{number}", lambda: lock) for number in range(2)]

    def opened(number: int) -> None:
        both_look.wait()
        scribes[number].open(opening(number), is_new=False)

    workers = [threading.Thread(target=opened, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(the_run(client, experiment).data.tags["trial_numbers"].split(",")) == ["0", "1"]
    for spooled_runs in scribes:
        spooled_runs.spool.close()


def test_a_run_created_just_before_the_server_died_is_not_created_again(home: Path, tmp_path_factory: Any) -> None:
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), home)
    client = open_tracker()
    experiment = experiment_id(client, "scribed")
    made = SpooledRuns(client, experiment, home / "spool")
    made._perform({"do": "open", **vars(opening(0))}, None)  # MLflow created the run, but its answer was lost
    answers = iter([False, True])

    class Flaky:
        def __getattr__(self, name: str) -> Any:
            if name == "create_run" and not next(answers):
                from satx.tracking.client import MlflowException

                raise MlflowException("API request to x failed")
            return getattr(client, name)

    made._client = Flaky()  # type: ignore[assignment]
    made.open(opening(0), is_new=True)
    assert made.spool.num_waiting == 1
    made.spool._tried_at = float("-inf")
    assert made.spool.drain()
    assert the_run(client, experiment).data.tags["trial_numbers"] == "0"
    made.spool.close()


class Away:
    """Client of a server that does not answer."""

    def __getattr__(self, name: str) -> Any:
        from satx.tracking.client import MlflowException

        raise MlflowException("API request to x failed")


def test_a_run_creation_queued_by_a_dead_worker_adds_no_second_run(home: Path, tmp_path_factory: Any) -> None:
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), home)
    client = open_tracker()
    experiment = experiment_id(client, "scribed")
    killed = SpooledRuns(client, experiment, home / "spool")
    killed._client = Away()  # type: ignore[assignment]
    first = opening(0)
    killed.open(replace(first, identity=first.identity | {"configuration": "before"}), is_new=True)
    killed.open(first, is_new=True)  # queued behind the first operation, never attempted
    assert killed.spool.num_waiting == 2
    killed.spool.close()
    took_its_trial = SpooledRuns(client, experiment, home / "spool of another machine")
    took_its_trial.open(opening(1), is_new=False)
    took_its_trial.spool.close()
    started_again = SpooledRuns(client, experiment, home / "spool")
    assert started_again.spool.drain()
    assert the_run(client, experiment).data.tags["trial_numbers"] == "1,0"
    started_again.spool.close()


def test_a_worker_stopped_while_it_waits_for_the_lock_skips_no_operation(home: Path, tmp_path_factory: Any) -> None:
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), home)
    client = open_tracker()
    experiment = experiment_id(client, "scribed")

    def never_alone() -> Any:
        raise Interrupted("Stopped while waiting for another process")

    stopped = SpooledRuns(client, experiment, home / "spool", never_alone)
    stopped.open(opening(0), is_new=False).end("FAILED")
    stopped.finish(0.0, lambda: True)
    later = SpooledRuns(client, experiment, home / "spool")
    assert later.spool.num_waiting == 2
    assert later.spool.drain()
    assert the_run(client, experiment).info.status == "FAILED"
    later.spool.close()
