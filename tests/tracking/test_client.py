"""Tests of opening MLflow: embedded, over HTTP, and when it does not answer."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
from projects import databases
from sqlalchemy import create_engine

from satx.errors import ConfigError, TrackerUnavailable
from satx.storage import sqlite_path
from satx.study.database import open_storage
from satx.tracking.client import (
    KIND_TAG,
    MlflowException,
    experiment_id,
    is_away,
    open_tracker,
    tracker_that_may_be_away,
    tracking_uri,
)
from satx.tracking.server import refuse_busy_port, server_command, server_environment


def test_the_embedded_store_and_its_artifacts_are_in_satx_home(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), home)
    assert tracking_uri() == f"sqlite:///{home}/mlflow.db"
    client = open_tracker()
    made = experiment_id(client, "session2")
    assert experiment_id(client, "session2") == made
    assert client.get_experiment(made).artifact_location == (home / "mlartifacts" / "session2").as_uri()
    assert client.get_experiment(made).tags[KIND_TAG] == "custom_model_development", (
        "not in the views for language models"
    )
    assert not (Path.cwd() / "mlruns").exists()
    client.delete_experiment(made)
    assert experiment_id(client, "session2") == made, "a deleted experiment is restored"
    assert client.get_experiment(made).lifecycle_stage == "active"


def test_mlflow_tracking_uri_overrides_the_embedded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5999")
    assert tracking_uri() == "http://127.0.0.1:5999"
    assert "MLFLOW_TRACKING_URI" not in server_environment(), "the server must not use another server"


@pytest.mark.parametrize(
    "uri", ["sqlite:////proc/none/mlflow.db", "file:///nowhere/mlruns", "mssql://localhost:9/none"]
)
def test_a_store_that_cannot_be_opened_is_one_clear_error(uri: str) -> None:
    with pytest.raises(TrackerUnavailable) as caught:
        open_tracker(uri)
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_a_database_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database " * 100)
    with pytest.raises(ConfigError, match=str(tmp_path / "mlflow.db")):
        open_tracker(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_server_that_does_not_answer_is_an_error_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(TrackerUnavailable):
            open_tracker(f"http://127.0.0.1:{port}")
    assert os.environ["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"] == "1"


def test_a_worker_starts_while_the_server_is_away_but_not_without_an_embedded_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{probe.getsockname()[1]}")
        client = tracker_that_may_be_away()
        with pytest.raises(MlflowException) as caught:
            client.search_experiments()
    assert is_away(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/none/mlflow.db")
    with pytest.raises(TrackerUnavailable):
        tracker_that_may_be_away()


def test_a_port_in_use_is_refused_and_a_free_one_is_not() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"{port}.*PORT={port + 1}"):
            refuse_busy_port(port)
    refuse_busy_port(port)


def test_the_server_listens_on_this_machine_only(home: Path) -> None:
    command = server_command(5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{home}/mlflow.db"
    assert server_environment()["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_the_server_writes_no_files_for_others_and_imports_nothing_from_the_current_folder(home: Path) -> None:
    assert "--no-serve-artifacts" in server_command(5001)
    assert server_command(5001)[1] == "-P"
    assert server_environment()["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize("name", ["a b", "a?b", "a#b", "a%20b", "é", "a:b@c"])
def test_a_home_of_any_name_has_its_databases_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SATX_HOME", str(tmp_path / name))
    monkeypatch.delenv("SATX_STUDY_URL", raising=False)
    assert sqlite_path(tracking_uri()) == tmp_path / name / "mlflow.db"
    create_engine(tracking_uri()).connect().close()
    open_storage().engine.dispose()
    assert {"mlflow.db", "studies.db"} <= {path.name for path in (tmp_path / name).iterdir()}
