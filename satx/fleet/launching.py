"""Launch EC2 machines until a study has the wanted number; a repeated request launches no machine twice."""

from __future__ import annotations

import base64
import datetime
import logging
import time
from dataclasses import dataclass
from typing import Any

from satx.errors import ConfigError
from satx.fleet.aws_errors import CAPACITY, explaining_aws_errors, refusal
from satx.fleet.machines import EXPIRES_TAG, LOOK_AGAIN_SECONDS, STUDY_TAG, Client, all_machines_of, machines_of
from satx.fleet.settings import FleetConfig
from satx.storage import digest_of

logger = logging.getLogger(__name__)

TURN_SECONDS = 300
LISTED_SECONDS = 60.0


@dataclass(frozen=True)
class Launch:
    """A launch request to EC2.

    Attributes:
        study: The study whose trials the machines train.
        image_id: The AMI.
        places: Pairs of an instance type and a subnet where it is offered, in order of preference.
        user_data: The script that a machine runs at its first boot.
        spot: Whether to request spot machines first.
    """

    study: str
    image_id: str
    places: tuple[tuple[str, str], ...]
    user_data: str
    spot: bool


def image_of(ec2: Client, ssm: Client, config: FleetConfig) -> str:
    """Return the AMI's id, looked up in SSM if `image` names a parameter; check that it exists in this region.

    Raises:
        FleetError: There is no such image.
    """
    image_id = config.image
    if config.image.startswith("/"):
        with explaining_aws_errors(f"Looking up the image {config.image}"):
            image_id = ssm.get_parameter(Name=config.image)["Parameter"]["Value"]
    _root_device(ec2, image_id)
    return image_id


def _root_device(ec2: Client, image_id: str) -> str:
    """Return the name of an image's root device.

    A volume under another name would be a second disk, beside a root volume with the image's defaults.
    """
    what = f"Looking up the image {image_id}"
    with explaining_aws_errors(what):
        found = ec2.describe_images(ImageIds=[image_id])["Images"]
    if not found:
        raise refusal("InvalidAMIID.NotFound", f"no image {image_id}", what)
    return str(found[0]["RootDeviceName"])


def places_for(ec2: Client, config: FleetConfig) -> tuple[tuple[str, str], ...]:
    """Return pairs of a wanted instance type and a subnet whose zone offers it, the preferred type first.

    Raises:
        ConfigError: None of the types is offered in any of the subnets' zones.
        FleetError: EC2 cannot be reached, or does not know a subnet.
    """
    with explaining_aws_errors("Looking up the zones that offer the instance types"):
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
            f"{', '.join(config.instance_types)}. Set other `instance_types`, or `subnets` in other zones."
        )
    return tuple(places)


def launch(ec2: Client, config: FleetConfig, wanted: Launch, num_machines: int, *, now: datetime.datetime) -> list[str]:
    """Launch machines until a study has `num_machines` of them.

    Args:
        ec2: The EC2 client.
        config: Settings of the machines.
        wanted: The launch request.
        num_machines: The wanted number of machines in all.
        now: The current time, UTC.

    Returns:
        Ids of the new machines; empty if there were enough.

    Raises:
        ConfigError: The study has more machines than that.
        FleetError: EC2 rejected the request. Machines that it did launch keep running; the same command adds the rest.
    """
    there = machines_of(ec2, wanted.study)
    missing = num_machines - len(there)
    if missing < 0:
        raise ConfigError(
            f"Study {wanted.study}: expected at most {num_machines} machines, found {len(there)}. `satx fleet down --keep "
            f"{num_machines}` terminates the newest ones."
        )
    if not missing:
        return []
    template = _template(ec2, config, wanted)
    new, errors = _fleet(ec2, config, wanted, template, missing, spot=wanted.spot, now=now)
    if wanted.spot and len(new) < missing and all(error["ErrorCode"] in CAPACITY for error in errors):
        logger.warning("%d of %d spot machines were available; launching the rest on demand", len(new), missing)
        more, errors = _fleet(ec2, config, wanted, template, missing - len(new), spot=False, now=now)
        new += more
    if len(new) < missing:
        code, message = CAPACITY[0], "EC2 launched fewer machines than requested"
        if errors:
            code, message = errors[0]["ErrorCode"], errors[0]["ErrorMessage"]
        raise refusal(code, message, f"Launching {missing} machines, of which {len(new)} were launched")
    return new


def _template(ec2: Client, config: FleetConfig, wanted: Launch) -> str:
    """Return the name of the launch template, which contains a digest of its content; create it if it is missing."""
    tags = [{"Key": STUDY_TAG, "Value": wanted.study}, {"Key": "Name", "Value": f"satx {wanted.study}"}]
    data = {
        "ImageId": wanted.image_id,
        "UserData": base64.b64encode(wanted.user_data.encode()).decode(),
        "IamInstanceProfile": {"Name": config.instance_profile},
        "SecurityGroupIds": list(config.security_groups),
        "InstanceInitiatedShutdownBehavior": "terminate",  # a machine that shuts itself down stops costing money
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [
            {
                "DeviceName": _root_device(ec2, wanted.image_id),
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
    with explaining_aws_errors("Creating a launch template"):
        try:
            ec2.create_launch_template(
                LaunchTemplateName=name,
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
    *,
    spot: bool,
    now: datetime.datetime,
) -> tuple[list[str], list[Any]]:
    """Send one fleet request; return the ids of the new machines, and EC2's errors for the others.

    EC2 repeats its earlier answer for a client token that it has seen, and rejects the token with other parameters. So
    the token is a digest of the whole request and of the study's machines, terminated ones included. The request
    contains the end of the lease, which is rounded to five-minute intervals. A call that is repeated because its answer
    was lost has the same token. A call that was rejected, or whose machines have terminated, gets a new one.
    """
    turn = int(now.timestamp() // TURN_SECONDS)
    seen = sorted(machine.instance_id for machine in all_machines_of(ec2, wanted.study))
    kinds = list(dict.fromkeys(kind for kind, _ in wanted.places))
    overrides = [
        {"InstanceType": kind, "SubnetId": subnet, "Priority": float(kinds.index(kind))}
        for kind, subnet in wanted.places
    ]
    turn_ends = datetime.datetime.fromtimestamp((turn + 1) * TURN_SECONDS, datetime.UTC)
    expires = (turn_ends + datetime.timedelta(minutes=config.lease_minutes)).isoformat(timespec="seconds")
    tags = [
        {"Key": STUDY_TAG, "Value": wanted.study},
        {"Key": EXPIRES_TAG, "Value": expires},
        {"Key": "Name", "Value": f"satx {wanted.study}"},
    ]
    asked = {
        "Type": "instant",
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
    with explaining_aws_errors(f"Launching {count} machines"):
        answer = ec2.create_fleet(ClientToken=digest_of([asked, seen]), **asked)
    ids = [item for group in answer.get("Instances", []) for item in group["InstanceIds"]]
    _wait_until_listed(ec2, wanted.study, ids)
    return ids, list(answer.get("Errors", []))


def _wait_until_listed(ec2: Client, study: str, ids: list[str]) -> None:
    """Wait until EC2 lists new machines.

    EC2 returns ids before it lists the machines; a command that lists them in between would launch them again, or leave
    them running.
    """
    for _ in range(int(LISTED_SECONDS / LOOK_AGAIN_SECONDS)):
        if set(ids) <= {machine.instance_id for machine in all_machines_of(ec2, study)}:
            return
        time.sleep(LOOK_AGAIN_SECONDS)
    logger.warning("EC2 launched %s but does not list them yet; `satx fleet status` shows them later", ", ".join(ids))
