"""A server that asks for a password, as `infra/control/` starts it, is written to with one, and refuses without."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from satx.errors import ConfigError
from satx.storage import shipped_file
from satx.tracking.server import server_environment
from satx.tracking.tracker import experiment_id, open_tracker, tracker_that_may_be_away

PASSWORD = "a-password-of-this-test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow with basic authentication, by the project's own settings but for where its users lie."""
    folder = tmp_path_factory.mktemp("passwords")
    settings = configparser.ConfigParser()
    settings.read(shipped_file("infra/control/auth.ini"))
    settings["mlflow"]["database_uri"] = f"sqlite:///{folder / 'users.db'}"
    with (folder / "auth.ini").open("w") as stream:
        settings.write(stream)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = server_environment() | {
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of this test",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
    }
    command = [
        sys.executable, "-m", "mlflow", "server", "--app-name=basic-auth", "--host=127.0.0.1", f"--port={port}",
        "--workers=1", f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
        f"--artifacts-destination={folder / 'artifacts'}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            if httpx.get(url, timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.2)
    pytest.fail(log.read_text()[-2000:])


@pytest.mark.parametrize(
    ("name", "password", "got"), [("", "", "not both"), ("satx", "", "not both"), ("satx", "wrong", "others")]
)
def test_without_the_password_it_refuses_at_once_and_says_what_is_missing(
    server: str, monkeypatch: pytest.MonkeyPatch, name: str, password: str, got: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(ConfigError, match=f"MLFLOW_TRACKING_PASSWORD, got {got}") as caught:
        tracker_that_may_be_away()  # a wrong password is not waited out
    assert "wrong" not in str(caught.value)


def test_with_it_a_run_and_its_file_are_written_and_read(
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
