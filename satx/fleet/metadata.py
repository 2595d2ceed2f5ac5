"""EC2 instance metadata (IMDSv2): the machine's identity, and the notice of a spot interruption."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from satx.deadline import within
from satx.environment import environment

TOKEN_SECONDS = 21600
ANSWER_SECONDS = 2.0  # for each wait for bytes
LIMIT_SECONDS = 5.0  # for all requests of a call; the service is on the same host


@dataclass(frozen=True)
class Identity:
    """Identity of this machine in EC2.

    Attributes:
        instance_id: For example i-0abc.
        instance_type: For example g6.xlarge.
        region: For example us-east-1.
        spot: Whether it is a spot instance, which AWS may interrupt.
    """

    instance_id: str
    instance_type: str
    region: str
    spot: bool


def identity() -> Identity | None:
    """Return this machine's identity; None outside EC2."""
    try:
        return within(LIMIT_SECONDS, _identity)
    except (httpx.HTTPError, ValueError, LookupError, TypeError, TimeoutError):  # another service may answer there
        return None


def has_interruption_notice() -> bool:
    """Return whether AWS has announced that it interrupts this spot machine; False if the service does not answer.

    The notice comes two minutes ahead. AWS recommends polling every five seconds.
    """
    try:
        return within(LIMIT_SECONDS, _has_notice)
    except (httpx.HTTPError, TimeoutError):
        return False


def _identity() -> Identity:
    with _session() as http:
        found = http.get("/latest/dynamic/instance-identity/document").raise_for_status().json()
        spot = http.get("/latest/meta-data/instance-life-cycle").raise_for_status().text == "spot"
    return Identity(found["instanceId"], found["instanceType"], found["region"], spot)


def _has_notice() -> bool:
    with _session() as http:
        return http.get("/latest/meta-data/spot/instance-action").status_code == httpx.codes.OK


@contextmanager
def _session() -> Iterator[httpx.Client]:
    """Yield an HTTP client with a new IMDSv2 token.

    `AWS_EC2_METADATA_SERVICE_ENDPOINT` is the variable that Amazon's own libraries read.
    """
    address = environment().metadata_endpoint
    with httpx.Client(base_url=address, timeout=ANSWER_SECONDS, trust_env=False) as http:  # never through a proxy
        token = http.put("/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)})
        http.headers["X-aws-ec2-metadata-token"] = token.raise_for_status().text
        yield http
