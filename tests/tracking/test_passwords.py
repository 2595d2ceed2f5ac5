"""Tests with an MLflow server that requires a password, as `infra/control/` starts it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from guarded import guarded_mlflow, make_worker
from mlflow import MlflowClient
from projects import databases

from satx.errors import ConfigError
from satx.tracking.client import experiment_id, open_tracker, tracker_that_may_be_away
from satx.tracking.runs import delete_folder

PASSWORD, OF_WORKERS = "a-password-of-this-test", "another-of-the-workers"
WORKER = "satx-worker"
CHAMPION = {"name": "guarded", "alias": "champion", "version": "1"}
ANY, ONE = {"resource_type": "workspace", "resource_pattern": "*"}, {"resource_type": "experiment", "resource_id": "1"}
EVENT = {"entity": "REGISTERED_MODEL", "action": "CREATED"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run MLflow with basic authentication; yield its URL."""
    folder = tmp_path_factory.mktemp("passwords")
    shutil.copy(databases(tmp_path_factory.getbasetemp()) / "mlflow.db", folder)
    with guarded_mlflow(folder, PASSWORD, lambda name: f"sqlite:///{folder / name}.db") as uri:
        make_worker(uri, PASSWORD, "an-earlier-one")
        make_worker(uri, PASSWORD, OF_WORKERS)  # another `up`, with another password
        yield uri


@pytest.fixture
def login(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], MlflowClient]:
    """Return a function that logs this process in and returns its client."""

    def logged_in(name: str, password: str) -> MlflowClient:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        return open_tracker()

    return logged_in


@pytest.mark.parametrize(("name", "password"), [("", ""), ("satx", ""), ("satx", "wrong"), (WORKER, "an-earlier-one")])
def test_a_missing_or_wrong_password_is_refused_at_once(
    server: str, monkeypatch: pytest.MonkeyPatch, name: str, password: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        tracker_that_may_be_away()  # a wrong password is an error at once, and is not retried
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(("name", "password"), [("satx", PASSWORD), (WORKER, OF_WORKERS)])
def test_with_the_password_a_run_and_its_files_are_written_read_and_removed(
    login: Callable[[str, str], MlflowClient], tmp_path: Path, name: str, password: str
) -> None:
    experiment = experiment_id(login("satx", PASSWORD), "guarded")  # a sweep's driver makes it
    client = login(name, password)
    run = client.create_run(experiment, tags={"study": "one"})
    (tmp_path / "a.txt").write_text("a")
    for folder in (None, "trained"):
        client.log_artifact(run.info.run_id, str(tmp_path / "a.txt"), folder)
    client.log_metric(run.info.run_id, "val_auc", 0.9)
    client.set_tag(run.info.run_id, "reason", "none")
    client.delete_tag(run.info.run_id, "reason")
    delete_folder(client, run, "trained")
    client.set_terminated(run.info.run_id)
    (found,) = client.search_runs([experiment], f"run_id = '{run.info.run_id}'")
    assert (found.data.metrics, found.info.status) == ({"val_auc": 0.9}, "FINISHED")
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["a.txt"]


@pytest.fixture(scope="module")
def champion(server: str) -> str:
    """Register a model with a champion; return the id of the workers' role."""
    with httpx.Client(base_url=server, auth=("satx", PASSWORD), timeout=60) as administrator:
        for path, content in (
            ("registered-models/create", {"name": "guarded"}),
            ("model-versions/create", {"name": "guarded", "source": "s3://somewhere/model"}),
            ("registered-models/alias", CHAMPION),
            ("experiments/create", {"name": "another"}),
        ):
            administrator.post(f"/api/2.0/mlflow/{path}", json=content).raise_for_status()
        roles = administrator.get("/api/3.0/mlflow/roles/list", params={"workspace": "default"}).json()["roles"]
    return next(str(role["id"]) for role in roles if role["name"] == WORKER)


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("POST", "2.0/mlflow/users/create", {"username": "x", "password": "a-password-of-x"}),
        ("PATCH", "2.0/mlflow/users/update-admin", {"username": WORKER, "is_admin": True}),
        ("PATCH", "2.0/mlflow/users/update-password", {"username": "satx", "password": "a-password-of-x"}),
        ("DELETE", "2.0/mlflow/users/delete", {"username": "satx"}),
        ("POST", "3.0/mlflow/roles/create", {"workspace": "default", "name": "x"}),
        ("POST", "3.0/mlflow/roles/permissions/add", {"role_id": "ROLE", **ANY, "permission": "MANAGE"}),
        ("POST", "3.0/mlflow/roles/assign", {"role_id": "ROLE", "username": "satx"}),
        ("POST", "3.0/mlflow/users/permissions/grant", {"username": WORKER, **ONE, "permission": "MANAGE"}),
        ("POST", "2.0/mlflow/experiments/permissions/create", {"experiment_id": "1", "username": WORKER, "permission": "MANAGE"}),
        ("POST", "2.0/mlflow/experiments/delete", {"experiment_id": "1"}),
        ("DELETE", "2.0/mlflow-artifacts/artifacts/1", None),
        ("POST", "2.0/mlflow/registered-models/create", {"name": "x"}),
        ("POST", "2.0/mlflow/registered-models/alias", CHAMPION),
        ("DELETE", "2.0/mlflow/registered-models/alias", {"name": "guarded", "alias": "champion"}),
        ("DELETE", "2.0/mlflow/registered-models/delete", {"name": "guarded"}),
        ("POST", "2.0/mlflow/model-versions/create", {"name": "guarded", "source": "s3://elsewhere/model"}),
        ("DELETE", "2.0/mlflow/model-versions/delete", {"name": "guarded", "version": "1"}),
        ("POST", "2.0/mlflow/webhooks", {"name": "x", "url": "https://127.0.0.1:9", "events": [EVENT]}),
        ("POST", "3.0/mlflow/gateway/secrets/create", {"secret_name": "x", "secret_value": {"a": "b"}}),
    ],
)  # fmt: skip
def test_a_worker_is_refused_what_an_administrator_may(
    server: str, champion: str, method: str, path: str, content: dict[str, Any] | None
) -> None:
    content = content and {name: champion if value == "ROLE" else value for name, value in content.items()}
    with httpx.Client(base_url=server, auth=(WORKER, OF_WORKERS), timeout=60) as worker:
        assert worker.request(method, f"/api/{path}", json=content).status_code == httpx.codes.FORBIDDEN
    with httpx.Client(base_url=server, auth=("satx", PASSWORD), timeout=60) as administrator:
        known = administrator.get("/api/2.0/mlflow/registered-models/get", params={"name": "guarded"}).json()
        assert known["registered_model"]["aliases"] == [{"alias": "champion", "version": "1"}]
