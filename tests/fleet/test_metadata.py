"""EC2 instance metadata, from a server on loopback that behaves like IMDSv2 and refuses requests without a token."""

from __future__ import annotations

import pytest
from played import Metadata
from slow_servers import KINDS, slow_server

from satx.fleet import metadata as metadata_module
from satx.fleet.metadata import Identity, has_interruption_notice, identity


def test_a_machine_finds_its_identity(metadata: Metadata) -> None:
    assert identity() == Identity("i-0abc", "g6.xlarge", "eu-west-1", spot=True)


def test_a_spot_interruption_notice_is_detected(metadata: Metadata) -> None:
    assert not has_interruption_notice()
    metadata.is_interrupted = True
    assert has_interruption_notice()


def test_outside_ec2_there_is_no_identity_and_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    assert identity() is None
    assert not has_interruption_notice()


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_that_never_finishes_an_answer_is_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_module, "LIMIT_SECONDS", 0.5)
    with slow_server(kind) as uri:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", uri)
        assert identity() is None
        assert not has_interruption_notice()
