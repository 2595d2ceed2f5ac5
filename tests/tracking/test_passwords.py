"""Tests with an MLflow server that requires a password, as `infra/control/` starts it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarded import guarded_mlflow
from projects import databases

from satx.errors import ConfigError
from satx.tracking.client import experiment_id, open_tracker, tracker_that_may_be_away

PASSWORD = "a-password-of-this-test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run MLflow with basic authentication; yield its URL."""
    folder = tmp_path_factory.mktemp("passwords")
    shutil.copy(databases(tmp_path_factory.getbasetemp()) / "mlflow.db", folder)
    with guarded_mlflow(folder, PASSWORD, lambda name: f"sqlite:///{folder / name}.db") as uri:
        yield uri


@pytest.mark.parametrize(("name", "password"), [("", ""), ("satx", ""), ("satx", "wrong")])
def test_a_missing_or_wrong_password_is_refused_at_once(
    server: str, monkeypatch: pytest.MonkeyPatch, name: str, password: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        tracker_that_may_be_away()  # a wrong password is an error at once, and is not retried
    assert "wrong" not in str(caught.value)


def test_with_the_password_a_run_and_its_file_are_written_and_read(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "satx")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    client = open_tracker()
    run = client.create_run(experiment_id(client, "guarded"))
    (tmp_path / "a.txt").write_text("a")
    client.log_artifact(run.info.run_id, str(tmp_path / "a.txt"))
    client.log_metric(run.info.run_id, "val_auc", 0.9)
    assert client.get_run(run.info.run_id).data.metrics == {"val_auc": 0.9}
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["a.txt"]
