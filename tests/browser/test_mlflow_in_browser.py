"""What a user sees in MLflow's UI after a sweep of both backbones and a promotion."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from projects import command, environment, make_project, run_satx

from satx.catalogue import BACKBONES
from satx.reports.mlflow_links import best_runs
from satx.testing.changed_environment import changed_environment
from satx.tracking.client import open_tracker
from satx.tracking.runs import find_runs, runs_query

SIZE_PX = max(BACKBONES[name].min_size_px for name in ("mobilenetv2", "xception"))
BOTH_BACKBONES = {
    "name": "both",
    "trials": 2,
    "keep_models_per_backbone": 1,
    "pruner": {"name": "none"},
    "set": {"model.unfreeze": "none", "train.head_epochs": 3, "augmentation.num_flips": 1},
    "start": [{"model.backbone": "mobilenetv2"}, {"model.backbone": "xception"}],
    "space": {
        "model.backbone": {"choices": ["mobilenetv2", "xception"]},
        "train.head_learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
    },
}
TIMEOUT_MS = 180_000  # MLflow's UI is an application of megabytes, and the machine may be busy
# whether the first chart whose title ends in `val_accuracy` shows a line of two epochs or more for each run, in two colors
CURVES_DRAWN = """() => {
  const cards = [...document.querySelectorAll('[data-testid="experiment-view-compare-runs-card"]')];
  const card = cards.find((one) => /(^|\\/)val_accuracy$/m.test(one.innerText));
  const lines = [...(card?.querySelectorAll(".scatterlayer path.js-line") ?? [])].filter((line) => line.getTotalLength() > 10);
  return new Set(lines.map((line) => getComputedStyle(line).stroke)).size === 2;
}"""


@pytest.fixture
def promoted(tmp_path: Path, tiny_tiles: Path, chromium: Any) -> tuple[Path, Path]:
    """Run a small sweep of both backbones, and promote its best run; return the project and its home."""
    home, project = tmp_path / "swept", make_project(tmp_path / "project", both=BOTH_BACKBONES)
    arguments = ["sweep", "--data", str(tiny_tiles), "--size", str(SIZE_PX), "--weights", "none", "--sweep", "both"]
    swept = run_satx(*arguments, cwd=project, home=home, timeout_s=900)
    assert swept.returncode == 0, swept.stderr
    with changed_environment(SATX_HOME=str(home)):
        client = open_tracker()
        (experiment,) = client.search_experiments(filter_string="name = 'session2-sample'")
        (study,) = {
            run.data.tags["study"]
            for run in find_runs(client, experiment.experiment_id, runs_query(having=("configuration",)))
        }
        best = {name: run.info.run_id for name, run in best_runs(client, experiment.experiment_id, study).items()}
    assert set(best) == {"mobilenetv2", "xception"}
    process = run_satx("promote", "--run-id", next(iter(best.values())), cwd=project, home=home, timeout_s=900)
    assert process.returncode == 0, process.stderr
    return project, home


@pytest.fixture
def links(promoted: tuple[Path, Path]) -> Iterator[list[str]]:
    """Run `satx ui` in the project; yield the links that it prints: the server's, all runs, the best of each backbone."""
    project, home = promoted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        command("ui", "--port", str(port)),
        cwd=project,
        env=environment(home, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed: list[str] = []
        while len(found := re.findall(r"http://127\.0\.0\.1:\S+", "".join(printed))) < 3:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "".join(printed)
            printed.append(line)
        yield found
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mlflow_shows_both_backbones_their_curves_and_the_champion(
    opened: Callable[..., Any], links: list[str]
) -> None:
    page = opened(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(TIMEOUT_MS)
    server, every_run, best_runs = links
    for link in (every_run, best_runs):
        page.goto(link)
        for backbone in ("mobilenetv2", "xception"):
            page.get_by_role("link", name=re.compile(f"^{backbone}")).first.wait_for()
        page.wait_for_function(CURVES_DRAWN)
    page.goto(f"{server}/#/models/school-sample")
    page.get_by_text("Version 1", exact=True).first.wait_for()
    page.get_by_text("champion", exact=True).first.wait_for()
    elsewhere = [url for url in page.requests if not url.startswith((server, "data:", "blob:"))]
    assert elsewhere == [], "everything comes from this machine"
