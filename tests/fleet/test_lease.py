"""A machine's lease is renewed while its worker makes progress; the worker stops when EC2 interrupts the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from played import Metadata

from satx.fleet.launching import Launch, image_of, launch, places_for
from satx.fleet.lease import living
from satx.fleet.machines import machines_of
from satx.fleet.metadata import Identity
from satx.fleet.settings import FleetConfig

STUDY = "session2-quick-1a2b3c4d"


@pytest.fixture
def me(clients: Any, fleet: FleetConfig) -> Identity:
    """Launch a spot machine whose lease is in the past; return its identity."""
    import datetime

    ec2 = clients("ec2")
    wanted = Launch(STUDY, image_of(ec2, clients("ssm"), fleet), places_for(ec2, fleet), "#!/bin/sh\n", spot=True)
    (made,) = launch(ec2, fleet, wanted, 1, now=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    return Identity(made, "g6.xlarge", fleet.region, spot=True)


def within(seconds: float, condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.02)
    return condition()


def expiry(ec2: Any) -> Any:
    (machine,) = machines_of(ec2, STUDY)
    return machine.expires_at


def test_a_lease_is_renewed_while_the_worker_makes_progress_and_not_when_it_hangs(
    me: Identity, metadata: Metadata, clients: Any, tmp_path: Path
) -> None:
    ec2, alive = clients("ec2"), tmp_path / "alive"
    with living(me, ec2, alive, lease_minutes=1 / 60, stopped=lambda: False) as stop:  # renewed every quarter second
        assert within(10, alive.exists)
        assert within(10, lambda: expiry(ec2).year > 2026 or expiry(ec2).month > 1)
        for _ in range(3):
            before = alive.stat().st_mtime_ns
            assert within(10, lambda before=before: stop() or alive.stat().st_mtime_ns > before)
            assert not stop()
        time.sleep(1.0)  # a renewal may be in progress
        seen = alive.stat().st_mtime_ns
        time.sleep(1.5)
        assert alive.stat().st_mtime_ns == seen, "a worker that hangs does not call stop"


def test_a_worker_stops_when_ec2_interrupts_its_machine(
    me: Identity, metadata: Metadata, clients: Any, tmp_path: Path
) -> None:
    with living(me, clients("ec2"), tmp_path / "alive", lease_minutes=1 / 60, stopped=lambda: False) as stop:
        assert not stop()
        metadata.is_interrupted = True
        assert within(10, stop)


def test_the_watchdogs_file_is_touched_even_if_aws_does_not_answer(
    me: Identity, metadata: Metadata, clients: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ec2, alive = clients("ec2"), tmp_path / "alive"

    def gone(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://nowhere")

    ec2.meta.events.register("before-send.ec2.CreateTags", gone)
    with living(me, ec2, alive, lease_minutes=1 / 60, stopped=lambda: False):
        assert within(10, alive.exists)
        assert within(10, lambda: me.instance_id in caplog.text and "https://nowhere" in caplog.text)


def test_a_lease_is_renewed_repeatedly_in_the_tags_of_the_machine(
    me: Identity, metadata: Metadata, clients: Any, tmp_path: Path
) -> None:
    ec2 = clients("ec2")
    with living(me, ec2, tmp_path / "alive", lease_minutes=1 / 60, stopped=lambda: False) as stop:
        for _ in range(3):
            before = expiry(ec2)
            assert within(20, lambda before=before: stop() or expiry(ec2) > before)
