"""Machines are found by their tags, launched until there are enough, never twice, and all terminated."""

from __future__ import annotations

import base64
import datetime
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from botocore.awsrequest import AWSResponse
from botocore.httpsession import URLLib3Session

from satx.errors import ConfigError, FleetError
from satx.fleet import launching
from satx.fleet.aws_errors import refusal
from satx.fleet.launching import TURN_SECONDS, Launch, image_of, launch, places_for
from satx.fleet.machines import EXPIRES_TAG, end, end_overdue, machines_of, remove_templates, renew
from satx.fleet.settings import FleetConfig

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
STUDY = "session2-quick-1a2b3c4d"


@pytest.fixture
def wanted(clients: Any, fleet: FleetConfig) -> Launch:
    ec2 = clients("ec2")
    return Launch(STUDY, image_of(ec2, clients("ssm"), fleet), places_for(ec2, fleet), "#!/bin/sh\ntrue\n", spot=False)


def once(action: str, answer: Callable[[], AWSResponse | None], ec2: Any) -> list[str]:
    """Answer the first request of this kind in place of AWS; return the list to which all such requests are added."""
    asked: list[str] = []

    def answered(request: Any, **_: Any) -> AWSResponse | None:
        asked.append(request.body.decode() if isinstance(request.body, bytes) else str(request.body))
        return answer() if len(asked) == 1 else None

    ec2.meta.events.register(f"before-send.ec2.{action}", answered)
    return asked


class Raw(io.BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()


def refuses(code: str, status: int = 400) -> AWSResponse:
    body = f"<Response><Errors><Error><Code>{code}</Code><Message>no.</Message></Error></Errors></Response>"
    return AWSResponse("", status, {"content-type": "text/xml"}, Raw(body.encode()))


def fleet_without(code: str) -> AWSResponse:
    """Return the answer of CreateFleet when it launches nothing: no exception, but a list of errors."""
    body = (
        '<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><fleetId>fleet-1</fleetId><errorSet><item>'
        f"<errorCode>{code}</errorCode><errorMessage>none left.</errorMessage></item></errorSet></CreateFleetResponse>"
    )
    return AWSResponse("", 200, {"content-type": "text/xml"}, Raw(body.encode()))


def test_the_wanted_number_is_launched_and_a_second_call_launches_none(
    clients: Any, fleet: FleetConfig, wanted: Launch
) -> None:
    ec2 = clients("ec2")
    first = launch(ec2, fleet, wanted, 3, now=NOW)
    assert len(first) == 3
    assert launch(ec2, fleet, wanted, 3, now=NOW) == []
    found = machines_of(ec2, STUDY)
    assert sorted(machine.instance_id for machine in found) == sorted(first)
    assert {machine.instance_type for machine in found} == {"g6.xlarge"}
    assert {str(machine.expires_at) for machine in found} == {"2026-01-01 00:25:00+00:00"}
    assert len(launch(ec2, fleet, wanted, 4, now=NOW)) == 1
    assert machines_of(ec2, "another") == []
    assert len(machines_of(ec2)) == 4


def test_a_machine_is_launched_with_the_configured_options(clients: Any, fleet: FleetConfig, wanted: Launch) -> None:
    ec2 = clients("ec2")
    (made,) = launch(ec2, fleet, wanted, 1, now=NOW)
    (template,) = ec2.describe_launch_templates()["LaunchTemplates"]
    (version,) = ec2.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])[
        "LaunchTemplateVersions"
    ]
    data = version["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    (image,) = ec2.describe_images(ImageIds=[wanted.image_id])["Images"]
    (disk,) = data["BlockDeviceMappings"]
    assert disk["DeviceName"] == image["RootDeviceName"]
    assert disk["Ebs"]["Encrypted"] is True
    assert base64.b64decode(data["UserData"]).decode() == wanted.user_data
    (item,) = ec2.describe_instances(InstanceIds=[made])["Reservations"][0]["Instances"]
    assert data["IamInstanceProfile"] == {"Name": "satx-worker"}  # the simulation does not pass it on to the instance
    assert item["SubnetId"] in fleet.subnets
    assert data["SecurityGroupIds"] == list(fleet.security_groups)  # the simulation does not pass these on either


def test_a_surplus_of_machines_is_refused_with_the_command_that_removes_it(
    clients: Any, fleet: FleetConfig, wanted: Launch
) -> None:
    ec2 = clients("ec2")
    launch(ec2, fleet, wanted, 2, now=NOW)
    with pytest.raises(ConfigError) as error:
        launch(ec2, fleet, wanted, 1, now=NOW)
    assert STUDY in str(error.value) and "`satx fleet down --keep 1`" in str(error.value)
    assert len(machines_of(ec2, STUDY)) == 2


def remembering(ec2: Any, *, first: AWSResponse | None = None) -> None:
    """Repeat the earlier answer to a client token that is known, which EC2 does and the simulation does not.

    Args:
        ec2: The client whose CreateFleet requests are answered in this way.
        first: The answer to the first of them.
    """
    known: dict[str, tuple[dict[str, list[str]], int, bytes]] = {}
    session = URLLib3Session()

    def answered(request: Any, **_: Any) -> AWSResponse:
        body = request.body.decode() if isinstance(request.body, bytes) else str(request.body)
        fields = parse_qs(body)
        (token,) = fields.pop("ClientToken")
        if token not in known:
            answer = first if first is not None and not known else session.send(request)
            known[token] = (fields, answer.status_code, answer.content)
        before, status, content = known[token]
        if before != fields:
            return refuses("IdempotentParameterMismatch")
        return AWSResponse("", status, {"content-type": "text/xml"}, Raw(content))

    ec2.meta.events.register("before-send.ec2.CreateFleet", answered)


def test_a_launch_whose_answer_was_lost_is_repeated_as_the_same_launch(
    clients: Any, fleet: FleetConfig, wanted: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2 = clients("ec2")
    remembering(ec2)
    with monkeypatch.context() as not_listed_yet:
        for name in ("machines_of", "all_machines_of"):
            not_listed_yet.setattr(launching, name, lambda *_: [])
        not_listed_yet.setattr(launching, "LISTED_SECONDS", 0.0)
        first = launch(ec2, fleet, wanted, 2, now=NOW)
        assert launch(ec2, fleet, wanted, 2, now=NOW + datetime.timedelta(seconds=TURN_SECONDS - 1)) == first
        assert len(launch(ec2, fleet, wanted, 3, now=NOW)) == 3, "another count is another launch"
    assert len(machines_of(ec2, STUDY)) == 5


def test_a_launch_waits_until_ec2_lists_its_machines(
    clients: Any, fleet: FleetConfig, wanted: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2, slept = clients("ec2"), list[float]()
    look = launching.all_machines_of
    monkeypatch.setattr(launching, "all_machines_of", lambda *asked: look(*asked)[: len(slept)])
    monkeypatch.setattr(launching.time, "sleep", slept.append)
    assert len(launch(ec2, fleet, wanted, 2, now=NOW)) == 2
    assert len(slept) == 2, "none was listed, then one, then both"


def test_terminated_machines_and_refused_launches_are_requested_again_with_new_tokens(
    clients: Any, fleet: FleetConfig, wanted: Launch
) -> None:
    ec2 = clients("ec2")
    remembering(ec2, first=fleet_without("InsufficientInstanceCapacity"))
    for seconds in (0, 1):  # the same token gets the same answer
        with pytest.raises(FleetError, match="InsufficientInstanceCapacity"):
            launch(ec2, fleet, wanted, 1, now=NOW + datetime.timedelta(seconds=seconds))
    later = NOW + datetime.timedelta(seconds=TURN_SECONDS)
    (first,) = launch(ec2, fleet, wanted, 1, now=later)
    end(ec2, machines_of(ec2, STUDY))
    remove_templates(ec2, STUDY)
    (second,) = launch(ec2, fleet, wanted, 1, now=later)
    assert second != first
    assert [machine.instance_id for machine in machines_of(ec2, STUDY)] == [second]


def test_without_spot_capacity_the_rest_is_launched_on_demand(clients: Any, fleet: FleetConfig, wanted: Launch) -> None:
    ec2 = clients("ec2")
    asked = once("CreateFleet", lambda: fleet_without("InsufficientInstanceCapacity"), ec2)
    assert len(launch(ec2, fleet, replace(wanted, spot=True), 2, now=NOW)) == 2
    assert ["DefaultTargetCapacityType=spot" in request for request in asked] == [True, False]
    assert not any(machine.spot for machine in machines_of(ec2, STUDY))


def test_spot_machines_are_listed_as_spot(clients: Any, fleet: FleetConfig, wanted: Launch) -> None:
    ec2 = clients("ec2")
    launch(ec2, fleet, replace(wanted, spot=True), 1, now=NOW)
    assert [machine.spot for machine in machines_of(ec2, STUDY)] == [True]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("InsufficientInstanceCapacity", "`subnets`"),
        ("VcpuLimitExceeded", "Service Quotas"),
        ("MaxSpotInstanceCountExceeded", "Service Quotas"),
        ("UnauthorizedOperation", "infra/iam/launcher.json"),
        ("InvalidAMIID.NotFound", "`image`"),
        ("RequestExpired", "`aws sso login`"),
        ("ExpiredToken", "`aws sso login`"),
        ("SpotMaxPriceTooLow", "--spot"),
        ("SomethingNew", "`satx fleet status`"),
    ],
)
@pytest.mark.parametrize("how", ["as an error", "in the answer"])
def test_every_refusal_says_what_to_do(
    clients: Any, fleet: FleetConfig, wanted: Launch, code: str, remedy: str, how: str
) -> None:
    ec2 = clients("ec2")
    once("CreateFleet", (lambda: refuses(code)) if how == "as an error" else (lambda: fleet_without(code)), ec2)
    with pytest.raises(FleetError) as error:
        launch(ec2, fleet, wanted, 2, now=NOW)
    assert code in str(error.value) and remedy in str(error.value)


def test_a_missing_instance_profile_has_a_remedy_of_its_own() -> None:
    wrong = "Value (satx-worker) for parameter iamInstanceProfile.name is invalid"
    assert "infra/iam/worker.json" in str(refusal("InvalidParameterValue", wrong, "Launching"))
    other = "Value (-1) for parameter size"
    assert "infra/iam/worker.json" not in str(refusal("InvalidParameterValue", other, "Launching"))


def test_an_unknown_image_is_refused_before_anything_is_launched(clients: Any, fleet: FleetConfig) -> None:
    ec2, ssm = clients("ec2"), clients("ssm")
    for image in ("ami-0123456789abcdef0", "/satx/nothing"):
        with pytest.raises(FleetError) as error:
            image_of(ec2, ssm, fleet.model_copy(update={"image": image}))
        assert image in str(error.value) and "`image`" in str(error.value)


def test_instance_types_not_offered_are_left_out_and_having_none_left_is_refused(
    clients: Any, fleet: FleetConfig
) -> None:
    ec2 = clients("ec2")
    both = fleet.model_copy(update={"instance_types": ("p3.2xlarge", "g5.xlarge")})
    assert {kind for kind, _ in places_for(ec2, both)} == {"g5.xlarge"}
    with pytest.raises(ConfigError, match=r"us-east-1a, us-east-1b.* p3\.2xlarge"):
        places_for(ec2, fleet.model_copy(update={"instance_types": ("p3.2xlarge",)}))
    with pytest.raises(FleetError, match="`subnets`"):
        places_for(ec2, fleet.model_copy(update={"subnets": ("subnet-0123456789abcdef0",)}))


def test_all_machines_are_terminated_and_a_second_call_finds_none(
    clients: Any, fleet: FleetConfig, wanted: Launch
) -> None:
    ec2 = clients("ec2")
    launch(ec2, fleet, wanted, 3, now=NOW)
    calls: list[tuple[int, int]] = []
    end(ec2, machines_of(ec2, STUDY), on_progress=lambda *call: calls.append(call), sleep=lambda _: None)
    assert calls[-1] == (3, 3)
    assert machines_of(ec2) == []
    end(ec2, machines_of(ec2, STUDY))
    assert remove_templates(ec2, STUDY) == 1
    assert remove_templates(ec2, STUDY) == 0


KILLED = """
import datetime, json, os, signal, sys
import boto3
from satx.fleet import launching
from satx.fleet.settings import FleetConfig
fleet, wanted, now = FleetConfig.model_validate_json(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
wanted = launching.Launch(**(wanted | {"places": tuple(tuple(place) for place in wanted["places"])}))
ec2, real = boto3.Session(region_name=fleet.region).client("ec2"), launching._wait_until_listed
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
launching._wait_until_listed = kill
launching.launch(ec2, fleet, wanted, 2, now=datetime.datetime.fromisoformat(now))
"""


def test_machines_of_a_launch_that_was_killed_are_found_and_terminated(
    clients: Any, fleet: FleetConfig, wanted: Launch
) -> None:
    ec2 = clients("ec2")
    arguments = [fleet.model_dump_json(), json.dumps(asdict(wanted)), NOW.isoformat()]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert launch(ec2, fleet, wanted, 2, now=NOW) == []
    assert len(machines_of(ec2, STUDY)) == 2
    end(ec2, machines_of(ec2, STUDY), sleep=lambda _: None)
    assert machines_of(ec2) == []


def test_overdue_machines_are_terminated_and_no_others(clients: Any, fleet: FleetConfig, wanted: Launch) -> None:
    ec2 = clients("ec2")
    launch(ec2, fleet, wanted, 3, now=NOW)
    silent, old, at_work = machines_of(ec2, STUDY)
    now = at_work.launched_at + datetime.timedelta(hours=1)
    lease = datetime.timedelta(minutes=fleet.lease_minutes)
    moments = {silent: now - 1.1 * lease, old: now + lease, at_work: now - 0.9 * lease}
    for machine, expires_at in moments.items():
        renew(ec2, machine.instance_id, expires_at)
    seen = [
        replace(m, launched_at=now - datetime.timedelta(hours=25)) if m == old else m for m in (silent, old, at_work)
    ]
    seen = [replace(machine, expires_at=moments[was]) for machine, was in zip(seen, moments, strict=True)]
    end_overdue(ec2, seen, fleet, now=now)
    assert [machine.instance_id for machine in machines_of(ec2, STUDY)] == [at_work.instance_id]


def test_a_renewed_lease_is_written_to_the_tag_of_the_machine(clients: Any, fleet: FleetConfig, wanted: Launch) -> None:
    ec2 = clients("ec2")
    (made,) = launch(ec2, fleet, wanted, 1, now=NOW)
    renew(ec2, made, NOW.replace(hour=5))
    (machine,) = machines_of(ec2, STUDY)
    assert machine.expires_at == NOW.replace(hour=5)
    tags = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [made]}])["Tags"]
    assert [tag["Key"] for tag in tags].count(EXPIRES_TAG) == 1


@pytest.mark.parametrize("text", ["tomorrow", "2026-01-01T00:00:00", "9" * 250])
def test_a_lease_that_cannot_be_read_does_not_hide_the_machine_or_the_others(
    clients: Any, fleet: FleetConfig, wanted: Launch, text: str
) -> None:
    ec2 = clients("ec2")
    bad, good = launch(ec2, fleet, wanted, 2, now=NOW)
    ec2.create_tags(Resources=[bad], Tags=[{"Key": EXPIRES_TAG, "Value": text}])
    found = {machine.instance_id: machine for machine in machines_of(ec2, STUDY)}
    assert found[bad].expires_at is None and found[good].expires_at is not None
    end_overdue(
        ec2, list(found.values()), fleet, now=found[bad].launched_at + datetime.timedelta(hours=fleet.max_hours + 9)
    )
    assert machines_of(ec2, STUDY) == []
