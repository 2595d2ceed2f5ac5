"""Tests of `satx doctor --fleet` with a simulated AWS; nothing is launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from projects import furnished_region

from satx.commands import doctor as satx_doctor
from satx.commands import doctor_fleet as doctor
from satx.commands.finding import Finding, checked
from satx.errors import ConfigError
from satx.fleet import plan, settings
from satx.fleet.plan import Amazon
from satx.fleet.settings import FleetConfig


@pytest.fixture
def account(clients: Any) -> Amazon:
    return Amazon(clients("ec2"), clients("ssm"), clients("s3"), clients("pricing"))


@pytest.fixture
def region(clients: Any, account: Amazon, monkeypatch: pytest.MonkeyPatch) -> FleetConfig:
    """Return the fleet settings of a laptop that reaches the databases through tunnels."""
    config = furnished_region(clients)
    clients("iam").create_instance_profile(InstanceProfileName="satx-worker")
    monkeypatch.setenv("SATX_STUDY_URL", "postgresql+psycopg://satx@127.0.0.1/satx")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    use(config, account, monkeypatch)
    return config


def use(config: FleetConfig, account: Amazon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "load_fleet", lambda: config)
    monkeypatch.setattr(plan, "clients_of", lambda _: account)


def test_a_complete_setup_passes_all_checks_and_nothing_is_created(region: FleetConfig, account: Amazon) -> None:
    for name in ("pgpass", "mlflow"):
        account.ssm.put_parameter(Name=f"/satx/{name}", Value="hunter2", Type="SecureString")
    found = [checked(check) for check in (*doctor.FLEET_FIRST, *doctor.FLEET)]
    assert [finding.state for finding in found] == ["ok"] * 6
    assert not any("hunter2" in finding.found for finding in found)
    assert account.ec2.describe_instances()["Reservations"] == []
    assert account.ec2.describe_launch_templates()["LaunchTemplates"] == []
    assert "Contents" not in account.s3.list_objects_v2(Bucket="satx-test")


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    found = doctor.FLEET_FIRST[-1]()
    assert (found.what, found.state) == ("AWS credentials", "broken")
    assert "nobody" in found.found and "AWS_PROFILE" in found.remedy


def test_missing_credentials_are_named_and_then_nothing_more_is_asked_of_amazon(
    region: FleetConfig, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # refused at once
    for name in ("_python", "_home", "_data", "_weights", "_study_database", "_mlflow"):  # tested elsewhere
        monkeypatch.setattr(satx_doctor, name, lambda: Finding("other", "ok", ""))
    with pytest.raises(ConfigError, match="AWS credentials"):
        satx_doctor.doctor_command(fleet=True, as_json=True)
    found = {item["what"]: item for item in json.loads(capsys.readouterr().out)}
    assert set(found) == {"other", "fleet settings", "AWS credentials", "device"}
    assert "aws sso login" in found["AWS credentials"]["remedy"]


def test_a_missing_password_is_named(region: FleetConfig, account: Amazon) -> None:
    account.ssm.put_parameter(Name="/satx/pgpass", Value="hunter2", Type="SecureString")
    found = checked(doctor._passwords)
    assert (found.state, found.found) == ("broken", "no SSM parameter /satx/mlflow")


def test_databases_that_machines_cannot_reach_are_refused(
    region: FleetConfig, account: Amazon, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(region.model_copy(update={"study_url": None}), account, monkeypatch)
    found = checked(doctor._fleet_settings)
    assert found.state == "broken"
    assert "infra/fleet.yaml" in found.remedy and "Set study_url to" in found.remedy


@pytest.mark.parametrize(
    ("operation", "what"),
    [("RunInstances", "launch machines with their role"), ("CreateLaunchTemplate", "create launch templates")],
)
def test_a_missing_permission_is_named(region: FleetConfig, account: Amazon, operation: str, what: str) -> None:
    asked: list[dict[str, Any]] = []

    def refused(params: dict[str, Any], **_: Any) -> None:
        asked.append(params["body"])
        raise ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, operation)

    account.ec2.meta.events.register(f"before-call.ec2.{operation}", refused)
    found = checked(doctor._aws_rights)
    assert (found.state, found.found) == ("broken", f"cannot {what} (UnauthorizedOperation)")
    (body,) = asked
    assert body["DryRun"] == "true"
    assert body["TagSpecification.1.Tag.1.Key"] == "satx:study"
    if operation == "RunInstances":
        assert body["IamInstanceProfile.Name"] == "satx-worker"
        assert body["SecurityGroupId.1"] == region.security_groups[0]
