"""Tests of the Ray engine with a cluster on this machine: its files are those of the local engine, whatever is killed."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from projects import ROOT, environment
from unreliable_endpoint import SIZE_PX, Answer, Unreliable, unreliable_endpoint

from satx.bulk import plan as planning
from satx.bulk import ray_engine
from satx.bulk.block_file import ModelIdentity
from satx.bulk.endpoint import open_endpoint
from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import Plan, plan_files, plan_grid
from satx.bulk.ray_engine import predict_with_ray
from satx.errors import ConfigError, DataError
from satx.grid.tiles import keys_of
from satx.imagery.folder import list_files
from satx.imagery.open_imagery import open_imagery

NUM_FILES, BLOCK_FILES = 96, 8
# Ray's own code, in this process
pytestmark = [
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\."),
]


def write_images(folder: Path, names: list[str]) -> Path:
    for row, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(row).integers(0, 255, (SIZE_PX, SIZE_PX, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        path.write_bytes(stream.getvalue() if row % 17 else b"<html>no such tile</html>")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("files"), [f"{row:03d}.png" for row in range(NUM_FILES)])


@pytest.fixture(scope="module")
def server() -> Iterator[Unreliable]:
    with unreliable_endpoint() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Run a cluster of two processors for all tests of this file: it takes seconds to start."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_BLOCK_FILES", BLOCK_FILES)


@pytest.fixture
def plan(folder: Path, small_blocks: None) -> Plan:
    return plan_files(list_files(folder))


def spec_of(imagery: Path | str, server: Unreliable, out: Path) -> dict[str, Any]:
    scorer = {"endpoint": server.url, "name": None, "version": None}
    return {"imagery": str(imagery), "scorer": scorer, "out": str(out), "placeholders": []}


def model_of(server: Unreliable) -> ModelIdentity:
    scorer = open_endpoint(server.url)
    scorer.close()
    return scorer.model


def with_ray(plan: Plan, spec: dict[str, Any], server: Unreliable, **more: Any) -> float:
    ledger = open_ledger(spec["out"])
    left = [block for block in plan.blocks if block.name not in ledger.finished()]
    return predict_with_ray(plan, left, spec, model_of(server), ledger, cpus_per_worker=1, **more)


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "blocks").iterdir()) if path.is_file()}


def without_ray(plan: Plan, imagery: Path | str, server: Unreliable, out: Path) -> dict[str, bytes]:
    """Return the files that the local engine writes."""
    scorer, source = open_endpoint(server.url), open_imagery(str(imagery))
    predict_blocks(plan, plan.blocks, source, scorer, open_ledger(str(out)))
    scorer.close()
    source.close()
    return files_of(out)


def client_of(port: int) -> psutil.Process:
    """Return the process of this test's cluster that has a connection from this port."""
    for process in psutil.Process().children(recursive=True):
        try:
            if any(connection.laddr.port == port for connection in process.net_connections("tcp4")):
                return process
        except psutil.Error:  # it has just ended
            continue
    raise AssertionError(f"No process of the cluster has the port {port}.")


def test_files_are_those_of_the_local_engine_and_progress_counts_every_tile(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    expected = without_ray(plan, folder, server, tmp_path / "local")
    counted = list[int]()
    seconds = with_ray(plan, spec_of(folder, server, tmp_path / "ray"), server, on_tiles=counted.append)
    assert files_of(tmp_path / "ray") == expected and len(expected) == NUM_FILES // BLOCK_FILES
    assert counted == [BLOCK_FILES] * len(expected)
    assert seconds > 0


@pytest.mark.slow
def test_a_grid_gives_the_same_files_too(cluster: None, server: Unreliable, tmp_path: Path) -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(40, 52), np.arange(60, 66)))
    keys = np.sort(keys_of(np.full(x.shape, 8), x, y))
    write_images(tmp_path / "tiles", [f"8/{column}/{row}.png" for column, row in zip(x[6:], y[6:], strict=True)])
    template, plan = f"{tmp_path}/tiles/{{z}}/{{x}}/{{y}}.png", plan_grid(keys)
    expected = without_ray(plan, template, server, tmp_path / "local")
    with_ray(plan, spec_of(template, server, tmp_path / "ray"), server)
    assert files_of(tmp_path / "ray") == expected


@pytest.mark.slow
def test_only_unfinished_blocks_are_predicted(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    expected = without_ray(plan, folder, server, tmp_path / "out")
    lost = (*expected,)[3]
    (tmp_path / "out" / "blocks" / lost).unlink()
    server.requests.clear()
    with_ray(plan, spec_of(folder, server, tmp_path / "out"), server)
    assert files_of(tmp_path / "out") == expected
    assert sum(len(files) for _, files in server.requests) <= BLOCK_FILES


def test_nothing_is_lost_when_workers_are_killed(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    expected = without_ray(plan, folder, server, tmp_path / "local")
    killed, num_requests = list[int](), itertools.count(1)

    def kill_the_client_of_some_requests(port: int) -> None:
        if next(num_requests) in (2, 3, 7):
            worker = client_of(port)
            worker.send_signal(signal.SIGKILL)
            killed.append(worker.pid)

    server.on_request = kill_the_client_of_some_requests
    try:
        with_ray(plan, spec_of(folder, server, tmp_path / "ray"), server)
    finally:
        server.on_request = lambda port: None
    assert files_of(tmp_path / "ray") == expected
    assert len({*killed}) == 3 and os.getpid() not in killed


def test_an_error_of_the_source_stops_the_run_with_its_message_and_a_new_run_continues(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    expected, spec = without_ray(plan, folder, server, tmp_path / "local"), spec_of(folder, server, tmp_path / "ray")
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
        predict_with_ray(plan, plan.blocks, spec, other, ledger, cpus_per_worker=1)
    with pytest.raises(ConfigError, match="expected imagery, got nothing"):
        with_ray(plan, spec | {"imagery": str(tmp_path / "nowhere")}, server)
    assert not ledger.finished()


@pytest.mark.slow
def test_blocks_that_cannot_be_written_are_tried_twice_and_then_named(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "blocks").write_text("in the way of the folder")
    with pytest.raises(
        DataError, match=r"after 2 rounds, but 12 have none, such as files-000000: .*same command again"
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


DRIVER = """
import json, sys
from satx.bulk import plan as planning
from satx.bulk.endpoint import open_endpoint
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import plan_files
from satx.bulk.ray_engine import predict_with_ray
from satx.imagery.folder import list_files
from pathlib import Path
spec = json.loads(sys.argv[1])
planning.MAX_BLOCK_FILES = int(sys.argv[2])
plan, ledger = plan_files(list_files(Path(spec["imagery"]))), open_ledger(spec["out"])
left = [block for block in plan.blocks if block.name not in ledger.finished()]
model = open_endpoint(spec["scorer"]["endpoint"]).model
predict_with_ray(plan, left, spec, model, ledger, cpus_per_worker=1)
"""


@pytest.mark.slow
def test_nothing_is_lost_when_the_driver_is_killed_with_its_own_cluster(
    plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    expected, spec = without_ray(plan, folder, server, tmp_path / "local"), spec_of(folder, server, tmp_path / "ray")
    arguments = [sys.executable, "-P", "-c", DRIVER, json.dumps(spec), str(BLOCK_FILES)]
    surroundings = environment(tmp_path / "home", PYTHONPATH=str(ROOT))
    driver = subprocess.Popen(arguments, env=surroundings)
    blocks = tmp_path / "ray" / "blocks"
    ends_at = time.monotonic() + 300
    while not (blocks.is_dir() and any(blocks.glob("*.parquet"))):
        assert driver.poll() is None and time.monotonic() < ends_at
        time.sleep(0.01)
    of_the_cluster = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait(60)
    assert len(files_of(tmp_path / "ray")) < len(expected)
    subprocess.run(arguments, env=surroundings, check=True, timeout=500)
    assert files_of(tmp_path / "ray") == expected
    assert of_the_cluster
    _, alive = psutil.wait_procs(of_the_cluster, timeout=120)
    assert not alive
