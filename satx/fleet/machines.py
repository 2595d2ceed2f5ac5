"""A study's machines in EC2: found by their tags, launched until there are as many as wanted, and ended.

Nothing is remembered between calls: what is there is what EC2 says carries the study's tag, so a second call, or one after
a crash, goes on from the truth. A launch has a client token that follows from the machines that are there; the same launch
asked for twice is one launch.
"""

from __future__ import annotations

import base64
import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from satx.errors import ConfigError, FleetError
from satx.fleet.refusals import CAPACITY, explained, refusal
from satx.fleet.settings import FleetConfig
from satx.storage import digest_of

logger = logging.getLogger(__name__)

Client = Any  # of boto3, which makes its clients at run time
STUDY_TAG = "satx:study"
EXPIRES_TAG = "satx:expires"  # UTC, ISO 8601: a machine that has not renewed it by then is to end
LIVING = ("pending", "running", "stopping", "stopped")
ROOT_DEVICE = "/dev/sda1"
END_SECONDS = 300.0
LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Machine:
    """One instance.

    Attributes:
        instance_id: EC2's.
        study: What it works at.
        instance_type: As g6.xlarge.
        state: EC2's word.
        spot: Whether AWS may take it back.
        zone: Where it runs.
        launched_at: UTC.
        expires_at: UTC; when its lease ends unless it renews it.
    """

    instance_id: str
    study: str
    instance_type: str
    state: str
    spot: bool
    zone: str
    launched_at: datetime.datetime
    expires_at: datetime.datetime | None

    def hours(self, now: datetime.datetime) -> float:
        """Since it was launched."""
        return (now - self.launched_at).total_seconds() / 3600


@dataclass(frozen=True)
class Launch:
    """What is asked of EC2.

    Attributes:
        study: The study that the machines work at.
        image_id: The AMI.
        places: Pairs of an instance type and a subnet where it is offered, in order of preference.
        user_data: The script that a machine runs at its first start.
        spot: Whether to ask for spot machines first.
    """

    study: str
    image_id: str
    places: tuple[tuple[str, str], ...]
    user_data: str
    spot: bool


def machines_of(ec2: Client, study: str | None = None) -> list[Machine]:
    """Machines that are not ended, of a study or of all studies, oldest first.

    Raises:
        FleetError: EC2 cannot be asked.
    """
    by_tag = {"Name": f"tag:{STUDY_TAG}", "Values": [study]} if study else {"Name": "tag-key", "Values": [STUDY_TAG]}
    filters = [by_tag, {"Name": "instance-state-name", "Values": list(LIVING)}]
    with explained("Looking for machines"):
        pages = ec2.get_paginator("describe_instances").paginate(Filters=filters)
        found = [item for page in pages for group in page["Reservations"] for item in group["Instances"]]
    return sorted((_machine(item) for item in found), key=lambda machine: (machine.launched_at, machine.instance_id))


def _machine(item: Any) -> Machine:
    tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}
    expires = tags.get(EXPIRES_TAG)
    return Machine(
        instance_id=item["InstanceId"],
        study=tags[STUDY_TAG],
        instance_type=item["InstanceType"],
        state=item["State"]["Name"],
        spot=item.get("InstanceLifecycle") == "spot",
        zone=item["Placement"]["AvailabilityZone"],
        launched_at=item["LaunchTime"],
        expires_at=datetime.datetime.fromisoformat(expires) if expires else None,
    )


def image_of(ec2: Client, ssm: Client, config: FleetConfig) -> str:
    """The AMI's id, looked up in SSM where `image` names a parameter, and known to exist in this region.

    Raises:
        FleetError: There is no such image.
    """
    image_id = config.image
    with explained(f"Looking for the image {config.image}"):
        if config.image.startswith("/"):
            image_id = ssm.get_parameter(Name=config.image)["Parameter"]["Value"]
        if not ec2.describe_images(ImageIds=[image_id])["Images"]:
            raise refusal("InvalidAMIID.NotFound", f"no image {image_id}", "Looking for the image")
    return image_id


def places_for(ec2: Client, config: FleetConfig) -> tuple[tuple[str, str], ...]:
    """Where the wanted instance types are offered among the wanted subnets, the preferred type first.

    Raises:
        ConfigError: None of them is offered in any of the subnets' zones.
        FleetError: EC2 cannot be asked, or does not know a subnet.
    """
    with explained("Looking where instance types are offered"):
        subnets = ec2.describe_subnets(SubnetIds=list(config.subnets))["Subnets"]
        filters = [{"Name": "instance-type", "Values": list(config.instance_types)}]
        pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone", Filters=filters
        )
        offered = {(item["InstanceType"], item["Location"]) for page in pages for item in page["InstanceTypeOfferings"]}
    zones = {subnet["SubnetId"]: subnet["AvailabilityZone"] for subnet in subnets}
    places = [(kind, subnet) for kind in config.instance_types for subnet in zones if (kind, zones[subnet]) in offered]
    if not places:
        raise ConfigError(
            f"infra/fleet.yaml: expected an instance type that AWS offers in {', '.join(sorted(set(zones.values())))}, got "
            f"{', '.join(config.instance_types)}. Name others, or subnets in other zones."
        )
    return tuple(places)


def launch(ec2: Client, config: FleetConfig, wanted: Launch, num_machines: int, *, now: datetime.datetime) -> list[str]:
    """Launch machines until a study has so many.

    Args:
        ec2: The client.
        config: What machines are made of.
        wanted: What to ask for.
        num_machines: How many there are to be in all.
        now: UTC.

    Returns:
        Ids of the new machines; none if there were enough.

    Raises:
        ConfigError: There are more than that.
        FleetError: EC2 refused. Machines that it did give are kept: they work, and the same command adds the rest.
    """
    there = machines_of(ec2, wanted.study)
    missing = num_machines - len(there)
    if missing < 0:
        raise ConfigError(
            f"Study {wanted.study}: expected at most {num_machines} machines, found {len(there)}. `satx fleet down --keep "
            f"{num_machines}` ends the newest of them."
        )
    if not missing:
        return []
    template = _template(ec2, config, wanted)
    new, errors = _fleet(ec2, config, wanted, template, missing, there, spot=wanted.spot, now=now)
    if wanted.spot and len(new) < missing and all(error["ErrorCode"] in CAPACITY for error in errors):
        logger.warning("%d of %d spot machines were to be had; the rest is launched on demand", len(new), missing)
        there = machines_of(ec2, wanted.study)
        more, errors = _fleet(ec2, config, wanted, template, missing - len(new), there, spot=False, now=now)
        new += more
    if len(new) < missing:
        code, message = (errors[0]["ErrorCode"], errors[0]["ErrorMessage"]) if errors else (CAPACITY[0], "fewer given")
        raise refusal(code, message, f"Launching {missing} machines, of which {len(new)} started")
    return new


def _template(ec2: Client, config: FleetConfig, wanted: Launch) -> str:
    """The name of the launch template, which follows from what is in it; made if it is not there."""
    tags = [{"Key": STUDY_TAG, "Value": wanted.study}, {"Key": "Name", "Value": f"satx {wanted.study}"}]
    data = {
        "ImageId": wanted.image_id,
        "UserData": base64.b64encode(wanted.user_data.encode()).decode(),
        "IamInstanceProfile": {"Name": config.instance_profile},
        "SecurityGroupIds": list(config.security_groups),
        "InstanceInitiatedShutdownBehavior": "terminate",  # a machine that shuts itself down costs nothing more
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [
            {
                "DeviceName": ROOT_DEVICE,
                "Ebs": {
                    "Encrypted": True,
                    "VolumeType": "gp3",
                    "VolumeSize": config.volume_gb,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": [{"ResourceType": "volume", "Tags": tags}],
    }
    name = f"satx-{wanted.study}-{digest_of(data)[:12]}"
    with explained("Making a launch template"):
        try:
            ec2.create_launch_template(
                LaunchTemplateName=name,
                ClientToken=name[-64:],
                LaunchTemplateData=data,
                TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}],
            )
        except ec2.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "InvalidLaunchTemplateName.AlreadyExistsException":
                raise
    return name


def _fleet(
    ec2: Client,
    config: FleetConfig,
    wanted: Launch,
    template: str,
    count: int,
    there: list[Machine],
    *,
    spot: bool,
    now: datetime.datetime,
) -> tuple[list[str], list[Any]]:
    """One request for machines: ids of those given, and EC2's errors for the others."""
    kinds = list(dict.fromkeys(kind for kind, _ in wanted.places))
    overrides = [
        {"InstanceType": kind, "SubnetId": subnet, "Priority": float(kinds.index(kind))}
        for kind, subnet in wanted.places
    ]
    expires = (now + datetime.timedelta(minutes=config.lease_minutes)).isoformat(timespec="seconds")
    tags = [
        {"Key": STUDY_TAG, "Value": wanted.study},
        {"Key": EXPIRES_TAG, "Value": expires},
        {"Key": "Name", "Value": f"satx {wanted.study}"},
    ]
    asked = {
        "Type": "instant",
        "ClientToken": digest_of([template, count, spot, sorted(machine.instance_id for machine in there)]),
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": template, "Version": "$Latest"},
                "Overrides": overrides,
            }
        ],
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": count,
            "DefaultTargetCapacityType": "spot" if spot else "on-demand",
        },
        "SpotOptions": {"AllocationStrategy": "capacity-optimized-prioritized"},
        "OnDemandOptions": {"AllocationStrategy": "prioritized"},
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "fleet")],
    }
    with explained(f"Launching {count} machines"):
        answer = ec2.create_fleet(**asked)
    ids = [item for group in answer.get("Instances", []) for item in group["InstanceIds"]]
    return ids, list(answer.get("Errors", []))


def end(
    ec2: Client,
    machines: list[Machine],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Terminate machines, and wait until they are gone.

    Raises:
        FleetError: EC2 refused, or some are not gone after five minutes.
    """
    ids = [machine.instance_id for machine in machines]
    left = set(ids)
    if ids:
        with explained(f"Ending {len(ids)} machines"):
            ec2.terminate_instances(InstanceIds=ids)
    for _ in range(int(END_SECONDS / LOOK_AGAIN_SECONDS)):
        left &= {machine.instance_id for machine in machines_of(ec2)}
        on_progress(len(ids) - len(left), len(ids))
        if not left:
            return
        sleep(LOOK_AGAIN_SECONDS)
    raise FleetError(f"Expected {len(ids)} machines to end, {', '.join(sorted(left))} still run. Repeat the command.")


def remove_templates(ec2: Client, study: str) -> int:
    """Delete a study's launch templates; how many there were.

    Raises:
        FleetError: EC2 refused.
    """
    filters = [{"Name": f"tag:{STUDY_TAG}", "Values": [study]}]
    with explained("Removing launch templates"):
        found = ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"]
        for template in found:
            ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
    return len(found)


def renew(ec2: Client, instance_id: str, expires_at: datetime.datetime) -> None:
    """Move the end of a machine's lease; called by the machine itself.

    Raises:
        FleetError: EC2 refused.
    """
    with explained(f"Renewing the lease of {instance_id}"):
        ec2.create_tags(
            Resources=[instance_id], Tags=[{"Key": EXPIRES_TAG, "Value": expires_at.isoformat(timespec="seconds")}]
        )
