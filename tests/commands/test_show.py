"""Tests of `satx show`: it needs no library that trains, and so is fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from projects import environment, with_databases

from satx.inference.manifest import write_manifest
from satx.inference.serving_files import ServedVersions, write_models_config
from satx.registry.versions import CHAMPION, HISTORY_TAG, TASK_TAG, export_folder
from satx.tracking.client import experiment_id, open_tracker


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_show_imports_nothing_that_trains(
    arguments: list[str], home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with_databases(home, tmp_path_factory.getbasetemp())
    folder = export_folder("school", 1)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    client = open_tracker()
    run_id = client.create_run(experiment_id(client, "session2")).info.run_id
    write_manifest(folder, {"model_name": "school", "version": 1, "run_id": run_id})
    client.create_registered_model("school", tags={TASK_TAG: "school"})
    client.create_model_version(
        "school", f"runs:/{run_id}/model", run_id, tags={"backbone": "xception"}, await_creation_for=0
    )
    client.set_registered_model_alias("school", CHAMPION, "1")
    verdict = {"rule": "export_size", "asked": "an export of at most 1 GB", "seen": "0.014 GB", "passed": True}
    client.set_model_version_tag("school", "1", "verdicts", json.dumps([verdict]))
    event = {"kind": "promotion", "champion": 1, "before": None, "by": "ann@host", "at": "2026-01-31T12:00:00+00:00"}
    client.set_registered_model_tag("school", HISTORY_TAG, json.dumps([event | {"reason": "first"}]))
    served = ServedVersions(folder.parent, (1,), {CHAMPION: 1})
    write_models_config(folder.parents[1] / "models.config", {"school": served})

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
    assert "0.014 GB" in process.stdout and "ann@host" in process.stdout
    if arguments:
        (task,) = json.loads(process.stdout)
        assert (task["champion"]["version"], task["champion"]["export_state"]) == (1, "intact")
        assert (task["champion"]["verdicts"], task["served"], task["pending"]) == ([verdict], 1, None)
