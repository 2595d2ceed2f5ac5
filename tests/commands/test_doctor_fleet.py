"""Tests of `satx doctor --fleet` with a simulated AWS; nothing is launched."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from projects import furnished_region

from satx.commands import doctor
from satx.commands.doctor import _checked
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
    checks = (doctor._bucket, doctor._fleet_settings, doctor._passwords, doctor._aws_rights)
    found = [_checked(check) for check in checks]
    assert [finding.state for finding in found] == ["ok"] * 4
    assert not any("hunter2" in finding.found for finding in found)
    assert account.ec2.describe_instances()["Reservations"] == []
    assert account.ec2.describe_launch_templates()["LaunchTemplates"] == []
    assert "Contents" not in account.s3.list_objects_v2(Bucket="satx-test")


def test_a_missing_password_is_named(region: FleetConfig, account: Amazon) -> None:
    account.ssm.put_parameter(Name="/satx/pgpass", Value="hunter2", Type="SecureString")
    found = _checked(doctor._passwords)
    assert (found.state, found.found) == ("broken", "no SSM parameter /satx/mlflow")


def test_databases_that_machines_cannot_reach_are_refused(
    region: FleetConfig, account: Amazon, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(region.model_copy(update={"study_url": None}), account, monkeypatch)
    found = _checked(doctor._fleet_settings)
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
    found = _checked(doctor._aws_rights)
    assert (found.state, found.found) == ("broken", f"cannot {what} (UnauthorizedOperation)")
    (body,) = asked
    assert body["DryRun"] == "true"
    assert body["TagSpecification.1.Tag.1.Key"] == "satx:study"
    if operation == "RunInstances":
        assert body["IamInstanceProfile.Name"] == "satx-worker"
        assert body["SecurityGroupId.1"] == region.security_groups[0]
