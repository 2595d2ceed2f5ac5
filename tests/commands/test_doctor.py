"""Tests of `satx doctor`: it lists what it finds, with a remedy for everything broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from projects import furnish

from satx.commands import doctor
from satx.commands.doctor import _checked, doctor_command
from satx.errors import ConfigError
from satx.testing import local_mlflow
from satx.testing.local_mlflow import LocalMlflow
from satx.tracking.server import server_command


def findings(capsys: Any) -> dict[str, dict[str, str]]:
    return {item["what"]: item for item in json.loads(capsys.readouterr().out)}


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "KERAS_WEIGHTS", "http://127.0.0.1:9/")


def test_nothing_is_broken_on_a_machine_on_which_a_sweep_works(
    home: Path, tiny_tiles: Path, nowhere: None, capsys: Any
) -> None:
    furnish(home, tiny_tiles)
    doctor_command(fleet=False, as_json=True)
    found = findings(capsys)
    assert {name: item["state"] for name, item in found.items()} == {
        "Python": "ok",
        "disk": "ok",
        "device": "ok",
        "weights": "note",
        "study database": "ok",
        "MLflow": "ok",
    }
    assert "WEIGHTS=DIR" in found["weights"]["remedy"]


def test_everything_that_is_broken_is_named_with_its_remedy(
    home: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("SATX_STUDY_URL", "sqlite:////proc/none/x.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="weights, study database, mlflow"):
        doctor_command(fleet=False, as_json=True)
    found = findings(capsys)
    assert "SATX_STUDY_URL" in found["study database"]["remedy"]
    assert "MLFLOW_TRACKING_URI" in found["mlflow"]["remedy"]


@pytest.fixture
def server(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run MLflow with proxied artifacts, as `infra/control/` starts it; yield the folder of its artifacts."""
    store = tmp_path / "store"
    proxied = ["--default-artifact-root", "mlflow-artifacts:/", "--artifacts-destination", str(store)]
    monkeypatch.setattr(
        local_mlflow,
        "server_command",
        lambda port: [*(part for part in server_command(port) if part != "--no-serve-artifacts"), *proxied],
    )
    home.mkdir()
    mlflow = LocalMlflow(tmp_path / "log")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    try:
        mlflow.start()
        yield store
    finally:
        mlflow.stop()


def test_a_server_that_cannot_write_to_its_artifact_store_is_reported(server: Path) -> None:
    found = _checked(doctor._mlflow)
    assert (found.state, found.remedy) == ("ok", "")
    assert [path for path in server.rglob("*") if path.is_file()] == [], "nothing is left behind"
    shutil.rmtree(server)
    server.write_text("not a folder")
    found = _checked(doctor._mlflow)
    assert (found.what, found.state) == ("MLflow", "broken")
    assert "answers, but files cannot be written" in found.found
    assert "infra/iam/control.json" in found.remedy
