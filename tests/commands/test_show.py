"""Tests of `satx show`: it needs no library that trains, and so is fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from projects import environment, with_databases

from satx.inference.manifest import write_manifest
from satx.registry.versions import CHAMPION, TASK_TAG, export_folder
from satx.tracking.client import experiment_id, open_tracker


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_show_imports_nothing_that_trains(
    arguments: list[str], home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with_databases(home, tmp_path_factory.getbasetemp())
    folder = export_folder("school", 1)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    write_manifest(folder, {})
    client = open_tracker()
    run_id = client.create_run(experiment_id(client, "session2")).info.run_id
    client.create_registered_model("school", tags={TASK_TAG: "school"})
    client.create_model_version(
        "school", f"runs:/{run_id}/model", run_id, tags={"backbone": "xception"}, await_creation_for=0
    )
    client.set_registered_model_alias("school", CHAMPION, "1")

    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('keras', 'tensorflow', 'jax', 'optuna', 'sklearn', 'matplotlib')))\n"
        f"sys.argv = ['satx', 'show', *{arguments!r}]\n"
        "from satx.cli import main\n"
        "main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment(home), capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert run_id in process.stdout
    if arguments:
        (task,) = json.loads(process.stdout)
        assert (task["champion"]["version"], task["champion"]["export_state"]) == (1, "intact")
