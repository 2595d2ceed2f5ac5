from __future__ import annotations

from pathlib import Path

from logged_runs import curves_of
from optuna.trial import FixedTrial
from projects import make_project, run_satx, with_databases

from satx.search.hypermodel import load_hypermodel
from satx.search.keras_tuner_space import TrialHyperParameters
from satx.study.database import open_storage, open_study
from satx.tracking.client import open_tracker

ROOT = Path(__file__).resolve().parents[2]


def test_a_hypermodel_is_swept_and_the_same_command_continues(tiny_tiles: Path, tmp_path: Path, home: Path) -> None:
    project = make_project(tmp_path / "project")
    with_databases(home, tmp_path.parent)
    arguments = ["tune", str(ROOT / "sweeps" / "hypermodel.py"), "--data", str(tiny_tiles), "--size", "32"]
    first = run_satx(*arguments, "--trials", "1", "--epochs", "2", cwd=project, home=home)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Best of 1: validation AUC" in first.stdout
    second = run_satx(*arguments, "--trials", "2", "--epochs", "2", cwd=project, home=home)
    assert second.returncode == 0, second.stdout + second.stderr
    name = next(word for word in second.stdout.split() if word.startswith("session2-sample-hypermodel-")).rstrip(".")
    trials = open_study(open_storage(), name).get_trials()
    assert len(trials) == 2
    assert trials[0].params != trials[1].params, "the second call does not draw what the first did"
    client = open_tracker()
    (experiment,) = client.search_experiments(filter_string="name = 'session2-sample'")
    query = f"tags.study = '{name}' and tags.configuration LIKE '%'"
    runs = client.search_runs([experiment.experiment_id], filter_string=query)
    assert {run.info.status for run in runs} == {"FINISHED"} and len(runs) == 2
    (parent,) = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.study = '{name}' and tags.kind = 'sweep'"
    )
    assert [item.path for item in client.list_artifacts(parent.info.run_id)] == ["curves.png"]
    assert parent.data.metrics["num_finished"] == 2 and "2 of 2" in parent.data.tags["mlflow.note.content"]
    build = load_hypermodel(ROOT / "sweeps" / "hypermodel.py")
    for run in runs:
        curves = curves_of(client, run.info.run_id)
        assert list(curves["step"]) == [1, 2] and curves.notna().all(axis=None)
        trial = trials[int(run.data.tags["trial_numbers"])]
        assert run.data.metrics["best_val_auc"] == trial.value
        assert run.data.params["num_blocks"] == str(trial.params["num_blocks"])
        built = build(image_size_px=32, num_classes=2).build(TrialHyperParameters(FixedTrial(trial.params)))
        assert run.data.params["trainable_parameters"] == str(built.count_params())
        assert run.data.params["total_parameters"] == str(built.count_params())
    refused = run_satx("promote", "--run-id", runs[0].info.run_id, cwd=project, home=home)
    assert refused.returncode == 2 and "runs of `satx tune` keep no model" in refused.stderr
