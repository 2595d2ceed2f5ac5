"""A configuration has the same curve whatever its worker trained before, and `--from-run` repeats it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from projects import command, make_project, run_satx

from satx.commands.train import train_command
from satx.environment import num_threads
from satx.execution.driver import Sweep
from satx.execution.engine import keras_engine
from satx.execution.worker import run_worker
from satx.execution.worker_pool import run_workers, worker_environment
from satx.sessions.prepare import SessionRequest
from satx.tracking.client import MlflowClient, open_tracker, tracking_uri
from satx.tracking.runs import fetch_file
from satx.training.compiled import workbench

Open = Callable[..., Sweep]
CUTS = ("block16", "block14", "all")


def opened(open_tiny: Open, cuts: tuple[str, ...]) -> Sweep:
    """Open a study that trains only these cuts, in this order."""
    return open_tiny(
        trials=len(cuts),
        name="-".join(cuts),
        start=[{"model.unfreeze": cut} for cut in cuts],
        space={"model.unfreeze": {"choices": list(CUTS)}},
    )


def worked_here(sweep: Sweep) -> None:
    """Train in this process after clearing its compiled steps, so that they are compiled as in a new process."""
    workbench.cache_clear()
    run_worker(sweep.job.study_name, keras_engine(), stop=lambda: False)


def worked_in_a_process(sweep: Sweep) -> None:
    """Train in one worker process."""
    run_workers(sweep, num_workers=1, ends_at=float("inf"), on_tick=lambda _: None)


def run_ids(sweep: Sweep) -> dict[str, str]:
    """Return the run id of each cut."""
    query = f"tags.study = '{sweep.job.study_name}' and tags.configuration LIKE '%'"
    runs = sweep.client.search_runs([sweep.job.experiment_id], filter_string=query)
    assert {run.info.status for run in runs} == {"FINISHED"}
    return {run.data.params["model.unfreeze"]: run.info.run_id for run in runs}


def curve(client: MlflowClient, run_id: str, folder: Path) -> pd.DataFrame:
    """Return a run's `history.csv` as text, without the column `epoch_seconds`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = fetch_file(client, run_id, "history.csv", folder)
    assert path is not None
    return pd.read_csv(path, dtype=str).drop(columns="epoch_seconds")


def assert_alike(open_tiny: Open, orders: list[tuple[str, ...]], work: Callable[[Sweep], None], folder: Path) -> None:
    """Run a sweep in each of these orders, and check that the curve of a cut is the same in all of them."""
    found: dict[str, list[pd.DataFrame]] = {}
    for order in orders:
        sweep = opened(open_tiny, order)
        work(sweep)
        runs = run_ids(sweep)
        assert set(runs) == set(order)
        for cut, run_id in runs.items():
            found.setdefault(cut, []).append(curve(sweep.client, run_id, folder / run_id))
    for cut, (first, *others) in found.items():
        assert len(others) >= 1 and "tail" in set(first["phase"])
        for other in others:
            pd.testing.assert_frame_equal(first, other, obj=cut)


def test_two_cuts_in_either_order_have_the_same_curves(open_tiny: Open, tmp_path: Path) -> None:
    assert_alike(open_tiny, [("block16", "block14"), ("block14", "block16")], worked_here, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("shallow", ["block16", "block14"])
def test_a_cut_and_the_whole_backbone_in_either_order_and_alone_have_the_same_curves(
    open_tiny: Open, tmp_path: Path, shallow: str
) -> None:
    orders = [(shallow, "all"), ("all", shallow), (shallow,), ("all",)]
    assert_alike(open_tiny, orders, worked_in_a_process, tmp_path)


@pytest.mark.slow
def test_the_run_of_a_worker_with_fewer_threads_is_repeated_exactly(
    open_tiny: Open, home: Path, tmp_path: Path
) -> None:
    sweep = opened(open_tiny, ("block14",))
    worker = command("worker", "--study", sweep.job.study_name, "--parent", str(os.getpid()))
    environment = worker_environment(num_threads(), tracking_uri())
    assert environment["TF_NUM_INTRAOP_THREADS"] == "1"
    subprocess.run(worker, env=environment, check=True, timeout=300)
    assert sweep.client.get_run(run_ids(sweep)["block14"]).data.tags["threads"] == "1"
    run_id = run_ids(sweep)["block14"]
    project = make_project(tmp_path / "project")
    repeated = run_satx("train", "--from-run", run_id, cwd=project, home=home)
    assert repeated.returncode == 0, repeated.stderr
    (again,) = sweep.client.search_runs([sweep.job.experiment_id], filter_string=f"tags.repeats = '{run_id}'")
    assert again.data.tags["threads"] == "1"
    expected, found = (curve(sweep.client, each, tmp_path / each) for each in (run_id, again.info.run_id))
    pd.testing.assert_frame_equal(expected, found)


@pytest.mark.slow
def test_a_sweeps_run_is_repeated_exactly_whatever_its_worker_trained_before(
    open_tiny: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = opened(open_tiny, ("block16", "block14"))
    worked_here(sweep)
    run_id = run_ids(sweep)["block14"]
    monkeypatch.chdir(make_project(tmp_path / "project"))
    workbench.cache_clear()
    again = train_command(SessionRequest("2"), values={}, from_run=run_id)
    client: Any = open_tracker()
    assert client.get_run(again).data.tags["repeats"] == run_id
    expected, found = (curve(client, each, tmp_path / each) for each in (run_id, again))
    assert list(expected["phase"]) == ["head", "head", "tail"]
    pd.testing.assert_frame_equal(expected, found)
