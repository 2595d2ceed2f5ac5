"""A folder of small blocks, an endpoint and a Ray cluster, for the tests of the Ray engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_runs import BLOCK_FILES, NUM_FILES, running_cluster, write_images
from unreliable_endpoint import Unreliable, do_nothing, unreliable_endpoint

from satx.bulk import plan as planning
from satx.bulk.plan import Plan, plan_files
from satx.imagery.folder import list_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("files"), [f"{row:03d}.png" for row in range(NUM_FILES)])


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Run a cluster for all tests of a file: it takes seconds to start."""
    with running_cluster():
        yield


@pytest.fixture
def server() -> Iterator[Unreliable]:
    with unreliable_endpoint() as server:
        yield server
        server.on_request = do_nothing


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_BLOCK_FILES", BLOCK_FILES)


@pytest.fixture
def plan(folder: Path, small_blocks: None) -> Plan:
    return plan_files(list_files(folder))
