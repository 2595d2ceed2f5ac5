"""What EC2 tells a machine about itself (IMDSv2): who it is, and that it is about to be taken back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

ADDRESS = "http://169.254.169.254"
TOKEN_SECONDS = 21600
ANSWER_SECONDS = 2.0


@dataclass(frozen=True)
class Identity:
    """This machine, as EC2 knows it.

    Attributes:
        instance_id: As i-0abc.
        instance_type: As g6.xlarge.
        region: As us-east-1.
        spot: Whether it may be taken back.
    """

    instance_id: str
    instance_type: str
    region: str
    spot: bool


def identity() -> Identity | None:
    """Who this machine is; None where there is no EC2 about it."""
    try:
        with _session() as http:
            found = http.get("/latest/dynamic/instance-identity/document").raise_for_status().json()
            spot = http.get("/latest/meta-data/instance-life-cycle").raise_for_status().text == "spot"
    except (httpx.HTTPError, ValueError):
        return None
    return Identity(found["instanceId"], found["instanceType"], found["region"], spot)


def is_being_taken_back() -> bool:
    """Whether AWS has said that it takes this spot machine back, two minutes ahead; False where nobody answers.

    AWS advises to ask every five seconds.
    """
    try:
        with _session() as http:
            return http.get("/latest/meta-data/spot/instance-action").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@contextmanager
def _session() -> Iterator[httpx.Client]:
    """A client with a token of its own; the variable is the one that Amazon's own libraries read."""
    address = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", ADDRESS)
    with httpx.Client(base_url=address, timeout=ANSWER_SECONDS, trust_env=False) as http:  # never through a proxy
        token = http.put("/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)})
        http.headers["X-aws-ec2-metadata-token"] = token.raise_for_status().text
        yield http
