"""Tests of the Ray engine with a cluster on this machine: its files are those of the local engine."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ray_runs import (
    BLOCK_FILES,
    NUM_FILES,
    client_of,
    files_of,
    model_of,
    spec_of,
    with_ray,
    without_ray,
    write_images,
)
from unreliable_endpoint import Answer, Unreliable

from satx.bulk import ray_engine
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import Plan, plan_grid
from satx.bulk.ray_engine import predict_with_ray
from satx.errors import ConfigError, DataError
from satx.grid.tiles import keys_of

# Ray's own code, in this process
pytestmark = [pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")]


def test_files_are_those_of_the_local_engine_and_progress_counts_every_tile(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    spec = spec_of(folder, server, tmp_path / "ray")
    expected, counted = without_ray(plan, spec, tmp_path / "local"), list[int]()
    seconds = with_ray(plan, spec, server, on_tiles=counted.append)
    assert files_of(tmp_path / "ray") == expected and len(expected) == NUM_FILES // BLOCK_FILES
    assert counted == [BLOCK_FILES] * len(expected)
    assert seconds > 0


@pytest.mark.slow
def test_a_grid_gives_the_same_files_too(cluster: None, server: Unreliable, tmp_path: Path) -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(40, 52), np.arange(60, 66)))
    keys = np.sort(keys_of(np.full(x.shape, 8), x, y))
    write_images(tmp_path / "tiles", [f"8/{column}/{row}.png" for column, row in zip(x[6:], y[6:], strict=True)])
    plan, spec = plan_grid(keys), spec_of(f"{tmp_path}/tiles/{{z}}/{{x}}/{{y}}.png", server, tmp_path / "ray")
    expected = without_ray(plan, spec, tmp_path / "local")
    with_ray(plan, spec, server)
    assert files_of(tmp_path / "ray") == expected


@pytest.mark.slow
def test_only_unfinished_blocks_are_predicted(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    spec = spec_of(folder, server, tmp_path / "out")
    expected = without_ray(plan, spec, tmp_path / "out")
    lost = (*expected,)[3]
    (tmp_path / "out" / "blocks" / lost).unlink()
    server.requests.clear()
    with_ray(plan, spec, server)
    assert files_of(tmp_path / "out") == expected
    assert sum(len(files) for _, files in server.requests) <= BLOCK_FILES


def test_nothing_is_lost_when_workers_are_killed(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    spec = spec_of(folder, server, tmp_path / "ray")
    expected = without_ray(plan, spec, tmp_path / "local")
    killed, num_requests = list[int](), itertools.count(1)

    def kill_the_client_of_some_requests(port: int, files: list[bytes]) -> None:
        if next(num_requests) in (2, 3, 7):
            worker = client_of(port)
            worker.send_signal(signal.SIGKILL)
            killed.append(worker.pid)

    server.on_request = kill_the_client_of_some_requests
    with_ray(plan, spec, server)
    assert files_of(tmp_path / "ray") == expected
    assert len({*killed}) == 3 and os.getpid() not in killed


def test_an_error_of_the_source_stops_the_run_with_its_message_and_a_new_run_continues(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    spec = spec_of(folder, server, tmp_path / "ray")
    expected = without_ray(plan, spec, tmp_path / "local")
    server.faults.extend([Answer(404, b'{"error": "Servable not found"}')] * 2)
    with pytest.raises(DataError, match="expected version 3 of school, with which this run began, got status 404"):
        with_ray(plan, spec, server)
    server.faults.clear()
    assert len(files_of(tmp_path / "ray") if (tmp_path / "ray" / "blocks").exists() else {}) < len(expected)
    with_ray(plan, spec, server)
    assert files_of(tmp_path / "ray") == expected


@pytest.mark.slow
def test_a_worker_that_finds_another_model_or_no_imagery_ends_the_run(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    spec, ledger = spec_of(folder, server, tmp_path / "out"), open_ledger(str(tmp_path / "out"))
    other = replace(model_of(server), threshold=0.75)
    with pytest.raises(ConfigError, match=r"Expected the model .*0\.75.* in every worker"):
        predict_with_ray(plan, plan.blocks, spec, other, ledger)
    with pytest.raises(ConfigError, match="expected imagery, got nothing"):
        with_ray(plan, spec | {"imagery": str(tmp_path / "nowhere")}, server)
    assert not ledger.finished()


@pytest.mark.slow
def test_blocks_that_cannot_be_written_are_tried_twice_and_named_with_the_reason(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "blocks").write_text("in the way of the folder")
    with pytest.raises(
        DataError,
        match=r"after 2 rounds, but 12 have none \(files-000000, files-000001, files-000002 and others\): "
        r"FileExistsError: .*same command again",
    ):
        with_ray(plan, spec_of(folder, server, tmp_path / "out"), server)


def test_without_ray_the_error_says_what_to_install(
    plan: Plan, folder: Path, server: Unreliable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ConfigError, match=r"pip install 'satx\[ray\]'"):
        with_ray(plan, spec_of(folder, server, tmp_path), server)


def test_rows_of_a_block_make_the_same_plan_of_it(plan: Plan) -> None:
    grid = plan_grid(np.sort(keys_of(np.array([18, 18, 18]), np.array([5, 9, 2**18 - 1]), np.array([7, 7, 0]))))
    for whole in (plan, grid):
        for block in whole.blocks:
            again = ray_engine._plan_of(whole.kind, block.name, ray_engine._rows_of(whole, block))
            assert again.tiles(again.blocks[0]) == whole.tiles(block)
