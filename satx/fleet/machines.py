"""A study's machines in EC2: list them by tag, renew their leases, terminate them.

No state is kept between calls: a study's machines are those that EC2 lists with the study's tag, so a second call, or a
call after a crash, starts from what is really there.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from satx.errors import FleetError
from satx.fleet.aws_errors import explaining_aws_errors
from satx.fleet.settings import FleetConfig

logger = logging.getLogger(__name__)

Client = Any  # a boto3 client; boto3 creates their classes at run time
STUDY_TAG = "satx:study"
EXPIRES_TAG = "satx:expires"  # UTC, ISO 8601: end of the lease; the machine must renew it before
LIVING = ("pending", "running", "stopping", "stopped")
END_SECONDS = 300.0
LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Machine:
    """One EC2 instance of a study.

    Attributes:
        instance_id: EC2's id.
        study: The study whose trials it trains.
        instance_type: For example g6.xlarge.
        state: EC2's instance state.
        spot: Whether it is a spot instance, which AWS may interrupt.
        zone: Its availability zone.
        launched_at: Launch time, UTC.
        expires_at: End of its lease unless it is renewed, UTC; None if its tag is missing or is no time.
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
        """Return the hours since launch."""
        return (now - self.launched_at).total_seconds() / 3600


def machines_of(ec2: Client, study: str | None = None) -> list[Machine]:
    """Return the machines that have not terminated, of one study or of all studies, oldest first.

    Raises:
        FleetError: EC2 cannot be reached.
    """
    return [machine for machine in all_machines_of(ec2, study) if machine.state in LIVING]


def all_machines_of(ec2: Client, study: str | None = None) -> list[Machine]:
    """Return all machines of one study or of all studies, oldest first, including terminated ones.

    EC2 stops listing a terminated machine within the hour.

    Raises:
        FleetError: EC2 cannot be reached.
    """
    by_tag = {"Name": f"tag:{STUDY_TAG}", "Values": [study]} if study else {"Name": "tag-key", "Values": [STUDY_TAG]}
    with explaining_aws_errors("Listing machines"):
        pages = ec2.get_paginator("describe_instances").paginate(Filters=[by_tag])
        found = [item for page in pages for group in page["Reservations"] for item in group["Instances"]]
    return sorted((_machine(item) for item in found), key=lambda machine: (machine.launched_at, machine.instance_id))


def _machine(item: Any) -> Machine:
    tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}
    return Machine(
        instance_id=item["InstanceId"],
        study=tags[STUDY_TAG],
        instance_type=item["InstanceType"],
        state=item["State"]["Name"],
        spot=item.get("InstanceLifecycle") == "spot",
        zone=item["Placement"]["AvailabilityZone"],
        launched_at=item["LaunchTime"],
        expires_at=_time(tags.get(EXPIRES_TAG, ""), item["InstanceId"]),
    )


def _time(text: str, instance_id: str) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is not None and found.tzinfo is not None:
        return found
    if text:  # anyone who may tag machines can change it; then the maximum lifetime alone counts
        logger.warning("%s: expected the tag %s to be a time with its zone, got %.100r", instance_id, EXPIRES_TAG, text)
    return None


def end(
    ec2: Client,
    machines: list[Machine],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Terminate machines, and wait until they have terminated.

    Raises:
        FleetError: EC2 rejected the request, or some machines have not terminated after five minutes.
    """
    ids = [machine.instance_id for machine in machines]
    left = set(ids)
    if ids:
        with explaining_aws_errors(f"Terminating {len(ids)} machines"):
            ec2.terminate_instances(InstanceIds=ids)
    for _ in range(int(END_SECONDS / LOOK_AGAIN_SECONDS)):
        left &= {machine.instance_id for machine in machines_of(ec2)}
        on_progress(len(ids) - len(left), len(ids))
        if not left:
            return
        sleep(LOOK_AGAIN_SECONDS)
    raise FleetError(
        f"Expected {len(ids)} machines to terminate within {END_SECONDS:.0f} seconds, but {', '.join(sorted(left))} have not. "
        f"Repeat the command."
    )


def is_overdue(machine: Machine, config: FleetConfig, *, now: datetime.datetime) -> bool:
    """Return whether a machine's own watchdog should have shut it down: the watchdog never started, or it hangs.

    Args:
        machine: The machine.
        config: Settings with the maximum lifetime and the length of a lease.
        now: The current time, UTC.
    """
    margin = datetime.timedelta(minutes=config.lease_minutes)
    ends = machine.launched_at + datetime.timedelta(hours=config.max_hours)
    return (machine.expires_at or ends) + margin < now or ends + margin < now


def end_overdue(ec2: Client, machines: list[Machine], config: FleetConfig, *, now: datetime.datetime) -> None:
    """Terminate machines that should have shut down by themselves; do not wait until they have terminated.

    Raises:
        FleetError: EC2 rejected the request.
    """
    overdue = [machine for machine in machines if machine.state in LIVING and is_overdue(machine, config, now=now)]
    if overdue:
        ids = [machine.instance_id for machine in overdue]
        logger.warning("Terminating %s, which should have shut down by themselves", ", ".join(ids))
        with explaining_aws_errors(f"Terminating {len(ids)} machines"):
            ec2.terminate_instances(InstanceIds=ids)


def remove_templates(ec2: Client, study: str) -> int:
    """Delete a study's launch templates; return how many there were.

    Raises:
        FleetError: EC2 rejected the request.
    """
    filters = [{"Name": f"tag:{STUDY_TAG}", "Values": [study]}]
    with explaining_aws_errors("Deleting launch templates"):
        found = ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"]
        for template in found:
            ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
    return len(found)


def renew(ec2: Client, instance_id: str, expires_at: datetime.datetime) -> None:
    """Extend a machine's lease; called by the machine itself.

    Raises:
        FleetError: EC2 rejected the request.
    """
    with explaining_aws_errors(f"Renewing the lease of {instance_id}"):
        ec2.create_tags(
            Resources=[instance_id], Tags=[{"Key": EXPIRES_TAG, "Value": expires_at.isoformat(timespec="seconds")}]
        )
