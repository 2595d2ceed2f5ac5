"""Runs of the Ray engine in which workers and the driver are killed, and workers that score with Keras."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import keras
import psutil
import pytest
from inference.tiny import fitted_classifier, open_tiles, render_tiles
from projects import ROOT, environment
from ray_runs import client_of, files_of, spec_of, with_ray, without_ray
from unreliable_endpoint import Unreliable

from satx.bulk import plan as planning
from satx.bulk.ledger import open_ledger
from satx.bulk.plan import Plan, plan_files
from satx.bulk.ray_engine import MAX_ATTEMPTS, predict_with_ray
from satx.bulk.scorer import open_scorer
from satx.errors import DataError
from satx.imagery.folder import list_files
from satx.models.classifier import save_classifier

# Ray's own code, in this process
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")]
NUM_KILLS, NUM_KILLS_OF_THE_DRIVER = 10, 3
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
predict_with_ray(plan, left, spec, model, ledger)
"""


def test_ten_kills_of_workers_and_drivers_lose_nothing_and_change_no_byte(
    folder: Path, server: Unreliable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "MAX_BLOCK_FILES", 3)
    plan = plan_files(list_files(folder))
    spec = spec_of(folder, server, tmp_path / "ray")
    expected = without_ray(plan, spec, tmp_path / "local")
    fatal = random.Random(21).sample(range(1, len(plan.blocks) + 1), NUM_KILLS)  # each block is requested at least once
    victims = dict(zip(fatal, ["driver"] * NUM_KILLS_OF_THE_DRIVER + ["worker"] * NUM_KILLS, strict=False))
    drivers, killed, of_clusters = list[subprocess.Popen[bytes]](), Counter[str](), list[psutil.Process]()
    num_requests = itertools.count(1)

    def kill_at_some_requests(port: int, files: list[bytes]) -> None:
        victim = victims.get(next(num_requests))
        if victim is not None:
            driver = psutil.Process(drivers[-1].pid)
            of_clusters.extend(driver.children(recursive=True))
            (client_of(port) if victim == "worker" else driver).send_signal(signal.SIGKILL)
            killed[victim] += 1

    server.on_request = kill_at_some_requests
    arguments = [sys.executable, "-P", "-c", DRIVER, json.dumps(spec), str(planning.MAX_BLOCK_FILES)]
    while not drivers or drivers[-1].wait(300) == -signal.SIGKILL:
        drivers.append(subprocess.Popen(arguments, env=environment(tmp_path / "home", PYTHONPATH=str(ROOT))))
    assert drivers[-1].returncode == 0
    assert killed == {"driver": NUM_KILLS_OF_THE_DRIVER, "worker": NUM_KILLS - NUM_KILLS_OF_THE_DRIVER}
    assert len(drivers) == NUM_KILLS_OF_THE_DRIVER + 1
    assert files_of(tmp_path / "ray") == expected
    _, alive = psutil.wait_procs(of_clusters, timeout=120)
    assert not alive


def test_a_block_that_always_kills_its_worker_ends_the_run_and_is_named_when_all_others_are_done(
    cluster: None, plan: Plan, folder: Path, server: Unreliable, tmp_path: Path
) -> None:
    spec = spec_of(folder, server, tmp_path / "ray")
    expected = without_ray(plan, spec, tmp_path / "local")
    deadly = plan.blocks[4]
    poison = (folder / plan.tiles(deadly)[3].tile_id).read_bytes()
    deaths = list[int]()

    def kill_who_asks_for_it(port: int, files: list[bytes]) -> None:
        if poison in files:
            worker = client_of(port)
            worker.send_signal(signal.SIGKILL)
            deaths.append(worker.pid)

    server.on_request = kill_who_asks_for_it
    with pytest.raises(
        DataError, match=rf"but 1 have none \({deadly.name}\): its worker was killed {MAX_ATTEMPTS} times"
    ):
        with_ray(plan, spec, server)
    assert files_of(tmp_path / "ray") == {
        name: data for name, data in expected.items() if name != f"{deadly.name}.parquet"
    }
    assert len(deaths) == MAX_ATTEMPTS


def test_workers_score_on_the_keras_backend_of_the_driver_whatever_their_machines_say(
    cluster: None, small_blocks: None, tmp_path: Path
) -> None:
    """The machines of the cluster have another backend in their environment, which would give other bits."""
    tiles = render_tiles(tmp_path / "sample")
    classifier = replace(fitted_classifier(open_tiles(tiles, tmp_path / "cache")), temperature=2.5)
    save_classifier(classifier, tmp_path / "model")
    scorer = {"folder": str(tmp_path / "model"), "name": "school", "version": 3, "weights_sha256": None}
    scorer |= {"precision": "float32", "backend": keras.backend.backend()}
    spec = {"imagery": str(tiles / "train"), "scorer": scorer, "out": str(tmp_path / "ray"), "placeholders": []}
    plan = plan_files(list_files(tiles / "train"))
    expected = without_ray(plan, spec, tmp_path / "local")
    predict_with_ray(plan, plan.blocks, spec, open_scorer(scorer).model, open_ledger(str(tmp_path / "ray")))
    assert files_of(tmp_path / "ray") == expected and len(expected) > 3
