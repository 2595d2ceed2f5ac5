"""The policies in `infra/iam/` are valid, and grant the permissions that the code's AWS requests need."""

from __future__ import annotations

import datetime
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from satx.bucket import get_folder, put_folder, remove_folder
from satx.fleet.launching import Launch, launch
from satx.fleet.machines import end, machines_of, remove_templates, renew
from satx.fleet.plan import Amazon, plan_fleet
from satx.fleet.settings import FleetConfig
from satx.storage import project_root

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
STUDY = "session2-quick-1a2b3c4d"
ROOT = project_root() or Path()
POLICIES = sorted((ROOT / "infra" / "iam").glob("*.json"))
WHERE_BUCKET_IS_USED = (
    "satx/execution/sharing.py",
    "satx/execution/shared_features.py",
    "satx/fleet/wheel.py",
    "infra/user-data.sh",
)
OTHER = {"s3:HeadObject": "s3:GetObject", "s3:ListObjectsV2": "s3:ListBucket", "s3:DeleteObjects": "s3:DeleteObject"}
BESIDES = {  # permissions that AWS also checks for an operation
    "ec2:CreateFleet": {"ec2:RunInstances", "ec2:CreateTags", "iam:PassRole", "iam:CreateServiceLinkedRole"},
    "ec2:CreateLaunchTemplate": {"ec2:CreateTags"},
}


def statements(name: str) -> Any:
    return json.loads((ROOT / "infra" / "iam" / f"{name}.json").read_text())["Statement"]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def rights(name: str) -> set[str]:
    return {action for statement in statements(name) for action in listed(statement["Action"])}


def may(name: str, action: str, key: str) -> bool:
    """Return whether a policy allows this action on an object of the bucket."""
    return any(
        action in listed(statement["Action"]) and fnmatch.fnmatchcase(f"arn:aws:s3:::BUCKET/{key}", resource)
        for statement in statements(name)
        for resource in listed(statement["Resource"])
    )


def noting(*clients: Any) -> set[str]:
    """Return a set that collects the permissions which these clients' calls need.

    AWS names some permissions differently from the operation.
    """
    needed: set[str] = set()

    def note(model: Any, **_: Any) -> None:
        operation = f"{model.service_model.service_name}:{model.name}"
        needed.update({OTHER.get(operation, operation)}, BESIDES.get(operation, set()))

    for client in clients:
        client.meta.events.register("before-call", note)
    return needed


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_is_valid_and_has_unique_statement_names(path: Path) -> None:
    policy = json.loads(path.read_text())
    assert policy["Version"] == "2012-10-17"
    names = [statement["Sid"] for statement in policy["Statement"] if "Sid" in statement]
    assert len(set(names)) == len(names)
    assert all(map(str.isalnum, names)), "AWS accepts only letters and digits"
    assert not [action for action in rights(path.stem) if "*" in action]


def test_the_policies_let_a_launcher_run_a_fleet_and_a_machine_renew_its_lease(
    clients: Any, fleet: FleetConfig
) -> None:
    amazon = Amazon(clients("ec2"), clients("ssm"), clients("s3"), clients("pricing"))

    def gone(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://nowhere")

    amazon.pricing.meta.events.register("before-send.pricing.GetProducts", gone)  # the simulation lacks it
    needed = noting(amazon.ec2, amazon.ssm, amazon.pricing)
    plan = plan_fleet(amazon, fleet, STUDY, 1, spot=True, now=NOW)
    wanted = Launch(STUDY, plan.image_id, plan.places, "#!/bin/sh\n", spot=True)
    (made,) = launch(amazon.ec2, fleet, wanted, 1, now=NOW)
    of_machine = clients("ec2")
    needed_there = noting(of_machine)
    renew(of_machine, made, NOW)
    end(amazon.ec2, machines_of(amazon.ec2, STUDY), sleep=lambda _: None)
    remove_templates(amazon.ec2, STUDY)
    assert {"ec2:CreateFleet", "ec2:TerminateInstances", "pricing:GetProducts", "ssm:GetParameter"} <= needed
    assert needed - rights("launcher") == set()
    assert needed_there == {"ec2:CreateTags"} <= rights("worker")


def test_the_policies_let_a_worker_read_its_inputs_and_write_what_others_need(clients: Any, tmp_path: Path) -> None:
    text = "".join((ROOT / name).read_text() for name in WHERE_BUCKET_IS_USED)
    folders = set(re.findall(r"bucket ?\}+/(\w+)/", text))
    assert folders == {"tiles", "weights", "wheels", "checkpoints", "features", "logs"}
    s3 = clients("s3")
    s3.create_bucket(Bucket="tiles")
    needed = noting(s3)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").write_text("a")
    digest = put_folder(s3, "s3://tiles/satx/checkpoints/a", tmp_path / "state")
    get_folder(s3, "s3://tiles/satx/checkpoints/a", tmp_path / "there", digest)
    remove_folder(s3, "s3://tiles/satx/checkpoints/a")
    on_objects = needed - {"s3:ListBucket"}
    assert needed - rights("worker") == set()
    assert all(may("worker", action, f"satx/{name}/a") for action in on_objects for name in ("checkpoints", "features"))
    assert all(may("worker", "s3:GetObject", f"satx/{name}/a") for name in ("tiles", "weights", "wheels"))
    assert all(may("launcher", action, f"satx/{name}/a") for action in on_objects for name in folders)
    assert may("worker", "s3:PutObject", "satx/logs/a")
    assert not any(may("worker", action, "satx/mlflow/a") for action in on_objects), "only the MLflow server may"
    assert all(may("control", action, "satx/mlflow/a") for action in on_objects)
