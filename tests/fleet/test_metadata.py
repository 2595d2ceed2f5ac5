"""A machine asks EC2 about itself: a server on loopback answers as IMDSv2 does, and refuses who has no token."""

from __future__ import annotations

import pytest
from played import Metadata

from satx.fleet.metadata import Identity, identity, is_being_taken_back


def test_a_machine_knows_itself(metadata: Metadata) -> None:
    assert identity() == Identity("i-0abc", "g6.xlarge", "eu-west-1", spot=True)


def test_a_notice_is_seen_when_it_is_there(metadata: Metadata) -> None:
    assert not is_being_taken_back()
    metadata.taken_back = True
    assert is_being_taken_back()


def test_where_there_is_no_ec2_nobody_is_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    assert identity() is None
    assert not is_being_taken_back()
