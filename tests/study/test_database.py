"""The study's database on a server that machines share: heartbeats, retries, locks, and which worker has a trial."""

from __future__ import annotations

import inspect
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, _cached_storage
from optuna.trial import TrialState
from projects import with_databases

from satx.errors import Interrupted, TrackerUnavailable
from satx.execution.worker import _take_one
from satx.study import database
from satx.study.database import SharedStorage, alone_at, open_storage
from satx.study.owner import owner_of_this_process
from satx.study.reconcile import reconcile
from satx.testing.local_postgres import Postgres
from satx.tracking.client import MlflowClient, experiment_id, open_tracker

Open = Callable[..., optuna.Study]


@pytest.fixture
def opened(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Return a function that opens the test's study with connections of its own, as another process would."""
    storages = []

    def open_study(**options: Any) -> optuna.Study:
        storages.append(open_storage(postgres.url(), patience_seconds=60, **options))
        name = request.node.name
        return optuna.create_study(study_name=name, storage=storages[-1], direction="maximize", load_if_exists=True)

    yield open_study
    for storage in storages:
        storage.engine.dispose()


@pytest.fixture
def study(opened: Open) -> optuna.Study:
    return opened()


@pytest.fixture
def client(home: Path, tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    with_databases(home, tmp_path_factory.getbasetemp())
    return open_tracker()


def test_every_storage_method_that_optunas_cache_calls_is_retried_during_an_outage() -> None:
    called = set(re.findall(r"_backend\.(\w+)\(", inspect.getsource(_cached_storage)))
    impatient = {name for name in called if getattr(SharedStorage, name) is getattr(RDBStorage, name)}
    assert len(called) > 20
    # these two do not access the database
    assert impatient == {"get_heartbeat_interval", "get_heartbeat_stale_trial_callback"}


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_short_outage_of_the_database_fails_no_trial(study: optuna.Study, postgres: Postgres, mode: str) -> None:
    away = threading.Event()

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        if not away.is_set():
            postgres.stop(mode)
            away.set()
            threading.Timer(2.0, postgres.start).start()
        for step in range(3):
            trial.report(x, step)
        return x

    study.optimize(objective, n_trials=2)
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert [sorted(trial.intermediate_values) for trial in trials] == [[0, 1, 2]] * 2


def test_an_outage_longer_than_the_heartbeat_limit_fails_no_trial_of_a_living_worker(
    study: optuna.Study, opened: Open, postgres: Postgres, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STALE_SECONDS", 4)
    monkeypatch.setattr(database, "BEAT_SECONDS", 1)
    experiment = experiment_id(client, "outage")
    worker, elsewhere = opened(), opened()
    elsewhere._storage._backend.back_at = float("-inf")  # like a process that started later and did not see the outage

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("owner", owner_of_this_process() | {"host": "another machine"})
        trial.set_user_attr("configuration", "c")
        postgres.stop("fast")
        time.sleep(5.0)
        postgres.start()
        for _ in range(10):
            reconcile(elsewhere, client, experiment)
            time.sleep(0.2)
        return trial.suggest_float("x", 0, 1)

    worker.optimize(objective, n_trials=1)
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE]


def test_a_worker_that_starts_during_an_outage_of_the_database_waits_unless_it_is_stopped(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "OPEN_AGAIN_SECONDS", 0.1)
    postgres.stop()
    coming = threading.Timer(1.5, postgres.start)
    try:
        with pytest.raises(TrackerUnavailable):
            open_storage(postgres.url())
        with pytest.raises(Interrupted):
            open_storage(postgres.url(), opening_seconds=60, stop=lambda: True)
    finally:
        coming.start()
    open_storage(postgres.url(), opening_seconds=60).engine.dispose()
    coming.join()
    with pytest.raises(TrackerUnavailable):  # `stop` would raise Interrupted if it waited
        open_storage(postgres.url("no_such_database"), opening_seconds=60, stop=lambda: True)


def test_a_process_that_should_stop_does_not_wait_for_the_database(postgres: Postgres, opened: Open) -> None:
    other = opened(stop=lambda: True)
    postgres.stop()
    try:
        with pytest.raises(StorageInternalError):
            other.get_trials()
    finally:
        postgres.start()


def test_an_error_other_than_a_lost_connection_is_not_retried(study: optuna.Study) -> None:
    with pytest.raises(KeyError):
        study._storage.get_study_id_from_name("nobody's")


def test_a_database_that_does_not_exist_raises_one_clear_error(postgres: Postgres) -> None:
    with pytest.raises(TrackerUnavailable):
        open_storage(postgres.url("nobodys"), patience_seconds=60)


def test_a_worker_without_heartbeats_loses_its_trial_once_and_its_report_is_refused(
    study: optuna.Study, opened: Open, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BEAT_SECONDS", 1)
    monkeypatch.setattr(database, "STALE_SECONDS", 2)
    elsewhere = opened()
    experiment = experiment_id(client, "shared")
    told: list[str] = []

    def silent(trial: optuna.Trial) -> float:
        """Run a trial that sends no heartbeats, as on a suspended machine, until another process queues it again."""
        trial.set_user_attr("owner", owner_of_this_process() | {"host": "another machine"})
        trial.set_user_attr("configuration", "c")
        trial.suggest_float("x", 0, 1)
        monkeypatch.setattr(SharedStorage, "record_heartbeat", lambda *_: None)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len(study.get_trials()) < 2:
            reconcile(elsewhere, client, experiment)
            time.sleep(0.2)
        try:
            trial.report(0.5, 0)
        except UpdateFinishedTrialError:
            told.append("refused")
            raise
        return 0.5

    _take_one(opened(), silent)
    assert told == ["refused"]
    lost, queued = study.get_trials()
    assert (lost.state, queued.state) == (TrialState.FAIL, TrialState.WAITING)
    assert queued.user_attrs["retry_of"] == lost.number
    assert queued.system_attrs["fixed_params"] == lost.params
    reconcile(study, client, experiment)
    assert len(study.get_trials()) == 2


def test_only_one_process_at_a_time_holds_the_lock_of_an_operation(study: optuna.Study, opened: Open) -> None:
    seen: list[str] = []
    elsewhere, told_to_stop = opened(), opened(stop=lambda: True)

    def other() -> None:
        with alone_at(elsewhere, "testing"):
            seen.append("other")

    thread = threading.Thread(target=other)
    with alone_at(study, "testing"):
        thread.start()
        time.sleep(0.3)
        with pytest.raises(Interrupted), alone_at(told_to_stop, "testing"):
            seen.append("one that was told to stop")
        seen.append("first")
    thread.join()
    assert seen == ["first", "other"]
    with alone_at(told_to_stop, "testing"):
        seen.append("who is told to stop may still finish what it does")
    assert len(seen) == 3
