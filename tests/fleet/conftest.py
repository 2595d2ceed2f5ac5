"""Fixtures of the fleet tests: what a fleet needs in a region of the simulated AWS, and a metadata server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from played import Answers, Metadata

from satx.fleet.settings import FleetConfig

REGION = "us-east-1"
IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"


@pytest.fixture
def fleet(clients: Any) -> FleetConfig:
    """Create subnets in two zones, a group without inbound rules and an instance profile; return the settings."""
    ec2, iam = clients("ec2"), clients("iam")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
            "SubnetId"
        ]
        for number, zone in enumerate("ab")
    ]
    group = ec2.create_security_group(GroupName="satx", Description="none in", VpcId=vpc)["GroupId"]
    iam.create_instance_profile(InstanceProfileName="satx-worker")
    return FleetConfig(
        region=REGION,
        bucket="s3://satx-test/fleet",
        image=IMAGE_PARAMETER,
        subnets=tuple(subnets),
        security_groups=(group,),
    )


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    """Run the metadata server of a spot machine."""
    with Metadata(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
