"""Tests of `satx doctor`: it lists what it finds, with a remedy for everything broken, and hangs nowhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from projects import ROOT, environment, furnish
from slow_servers import slow_server

from satx.commands import doctor, finding
from satx.commands.doctor import doctor_command
from satx.commands.finding import checked
from satx.errors import ConfigError
from satx.testing import local_mlflow
from satx.testing.local_mlflow import LocalMlflow
from satx.tracking.server import server_command


def findings(said: str) -> dict[str, dict[str, str]]:
    return {item["what"]: item for item in json.loads(said)}


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "KERAS_WEIGHTS", "http://127.0.0.1:9/")


def test_nothing_is_broken_on_a_machine_on_which_a_sweep_works(
    home: Path, tiny_tiles: Path, nowhere: None, capsys: Any
) -> None:
    furnish(home, tiny_tiles)
    doctor_command(fleet=False, as_json=True)
    found = findings(capsys.readouterr().out)
    assert {name: item["state"] for name, item in found.items()} == {
        "Python": "ok",
        "home": "ok",
        "tiles": "note",
        "weights": "note",
        "study database": "ok",
        "MLflow": "ok",
        "device": "ok",
    }
    assert "DATA=DIR" in found["tiles"]["remedy"]
    assert "WEIGHTS=DIR" in found["weights"]["remedy"]


def test_the_backend_is_imported_in_another_process_and_asked_last(home: Path, nowhere: None) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('keras', 'tensorflow', 'jax')))\n"
        "sys.argv = ['satx', 'doctor']\n"
        "from satx.cli import main\n"
        "main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment(home), capture_output=True, text=True, timeout=200
    )
    assert process.returncode == 0, process.stderr
    names = [line.split()[1] for line in process.stdout.splitlines() if line.startswith(("ok", "note"))]
    assert names[0] == "Python" and names[-1] == "device"
    assert not (home / "mlflow.db").exists() and not (home / "studies.db").exists(), "a check creates no database"


def test_everything_that_is_broken_is_named_with_its_remedy(
    home: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("SATX_STUDY_URL", "sqlite:////proc/none/x.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ConfigError, match="weights, study database, MLflow, device"):
        doctor_command(fleet=False, as_json=True)
    found = findings(capsys.readouterr().out)
    assert "xception_notop.weights.h5" in found["weights"]["remedy"]
    assert "SATX_STUDY_URL" in found["study database"]["remedy"]
    assert "MLFLOW_TRACKING_URI" in found["MLflow"]["remedy"]
    assert "KERAS_BACKEND" in found["device"]["remedy"]


def test_a_home_that_cannot_be_written_is_told_once(
    nowhere: None, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_HOME", "/proc/none")
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # refused at once
    with pytest.raises(ConfigError):
        doctor_command(fleet=False, as_json=True)
    found = findings(capsys.readouterr().out)
    assert [name for name, item in found.items() if item["state"] == "broken"] == ["home", "device"]
    assert "/proc/none" in found["home"]["remedy"] and "SATX_HOME" in found["home"]["remedy"]


@pytest.mark.parametrize("kind", ["silent", "dripping headers"])
def test_a_server_that_does_not_answer_is_named_soon(
    kind: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "ANSWER_SECONDS", 0.5)
    with slow_server(kind) as url:
        monkeypatch.setattr(doctor, "KERAS_WEIGHTS", url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        monkeypatch.setenv("SATX_STUDY_URL", url.replace("http://", "postgresql+psycopg://satx@") + "/satx")
        found = {check: checked(check) for check in (doctor._study_database, doctor._mlflow)}
        weights = checked(doctor._weights)
    assert [item.state for item in found.values()] == ["broken", "broken"]
    assert "SATX_STUDY_URL" in found[doctor._study_database].remedy
    assert url in found[doctor._mlflow].remedy and "0.5 seconds" in found[doctor._mlflow].remedy
    assert (weights.state, "WEIGHTS=DIR" in weights.remedy) == ("note", True)


def test_a_missing_driver_of_postgresql_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv("SATX_STUDY_URL", "postgresql+psycopg://satx:hunter2@127.0.0.1:9/satx")
    found = checked(doctor._study_database)
    assert (found.state, found.remedy) == ("broken", "pip install '.[fleet]'")
    assert "psycopg" in found.found and "hunter2" not in str(found)


def test_an_unsupported_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 13, 0))
        found = doctor._python()
    assert (found.state, "make setup" in found.remedy) == ("broken", True)


def test_little_disk_space_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE_GB", 1e9)
    found = doctor._home()
    assert (found.state, "satx gc" in found.remedy, str(home) in found.found) == ("note", True, True)


def test_tiles_of_sessions_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor._data().state == "note"
    for number in (1, 2):
        (tmp_path / f"data/session{number}/train").mkdir(parents=True)
    found = doctor._data()
    assert (found.state, found.remedy) == ("ok", "")
    assert str(tmp_path / "data/session1") in found.found


@pytest.mark.parametrize(
    ("names", "state", "missing"),
    [((), "broken", True), (("mobilenetv2",), "note", True), (("mobilenetv2", "xception"), "ok", False)],
)
def test_missing_weights_of_the_shipped_sweeps_are_named(
    names: tuple[str, ...], state: str, missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        (tmp_path / f"{name}_notop.weights.h5").touch()
    monkeypatch.setenv("SATX_WEIGHTS_DIR", str(tmp_path))
    found = doctor._weights()
    assert (found.state, "xception_notop.weights.h5" in found.remedy) == (state, missing)


def test_a_backend_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libcudart.so: cannot open')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with doctor._backend_process() as process:
        found = doctor._device(process)
    assert (found.state, "make setup" in found.remedy) == ("broken", True)
    assert "libcudart.so" in found.found


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


@pytest.mark.slow
def test_a_server_that_cannot_write_to_its_artifact_store_is_reported(server: Path) -> None:
    found = checked(doctor._mlflow)
    assert (found.state, found.remedy) == ("ok", "")
    assert [path for path in server.rglob("*") if path.is_file()] == [], "nothing is left behind"
    shutil.rmtree(server)
    server.write_text("not a folder")
    found = checked(doctor._mlflow)
    assert (found.what, found.state) == ("MLflow", "broken")
    assert "answers, but files cannot be written" in found.found
    assert "infra/iam/control.json" in found.remedy
