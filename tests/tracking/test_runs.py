"""Tests of runs: curves sent in few batches and never twice, data sets, files, and finding a run again."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from logged_runs import curves_of
from projects import databases

from satx.errors import ConfigError
from satx.session_config import SessionConfig
from satx.testing.changed_environment import changed_environment
from satx.tracking import results
from satx.tracking.client import MlflowClient, experiment_id, open_tracker
from satx.tracking.curves import MAX_EPOCHS_A_REQUEST, CurveLogger, direct_curves
from satx.tracking.machine_load import PREFIX, machine_load
from satx.tracking.runs import (
    CURVES,
    WAITING,
    Opening,
    curve_of,
    dataset_fields,
    delete_folder,
    fetch_file,
    find_run,
    find_runs,
    get_run,
    history_frame,
    log_files,
    log_numbers,
    open_run,
    runs_query,
    start_run,
)
from satx.tracking.writer import DirectWriter
from satx.training.checkpoint import Epoch


def epoch(step: int) -> Epoch:
    phase = "head" if step < 3 else "tail"
    return Epoch(step, phase, 0.5 + step / 1000, 1.0 / step, 0.6, 0.7, 0.8, 1e-3, 0.25)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> tuple[MlflowClient, str]:
    folder = tmp_path_factory.mktemp("tracker") / "home"
    shutil.copytree(databases(tmp_path_factory.getbasetemp()), folder)
    with changed_environment(SATX_HOME=str(folder)):
        client = open_tracker()
        return client, experiment_id(client, "runs")


@pytest.fixture
def run(tracker: tuple[MlflowClient, str], request: pytest.FixtureRequest) -> tuple[MlflowClient, str]:
    client, experiment = tracker
    tags = {"study": "s", "configuration": request.node.name}
    made = start_run(client, experiment, name="r", tags=tags, params={"train.batch_size": 16}, parent="p")
    return client, str(made.info.run_id)


def steps(client: MlflowClient, run_id: str, name: str = "loss") -> list[int]:
    return [metric.step for metric in curve_of(client, run_id, name)]


def test_a_run_is_found_again_by_its_tags(run: Any, tracker: Any, request: pytest.FixtureRequest) -> None:
    client, run_id = run
    _, experiment = tracker
    found = find_run(client, experiment, {"study": "s", "configuration": request.node.name})
    assert found is not None
    assert found.info.run_id == run_id
    assert found.info.status == "RUNNING"
    assert found.data.params == {"train.batch_size": "16"}
    assert found.data.tags["mlflow.parentRunId"] == "p"
    assert find_run(client, experiment, {"study": "another"}) is None
    with pytest.raises(ConfigError):
        get_run(client, "nothing")


def test_a_query_filters_by_tags_and_status_and_quotes_values(tracker: Any) -> None:
    client, experiment = tracker
    made = {
        name: str(start_run(client, experiment, name="r", tags=tags, params={}, parent=None).info.run_id)
        for name, tags in {
            "kept": {"query": "it's", "model": "kept"},
            "dropped": {"query": "it's", "model": "dropped"},
            "without": {"query": "it's"},
            "other": {"query": "its", "model": "kept"},
        }.items()
    }
    client.set_terminated(made["kept"])

    def found(query: str) -> set[str]:
        ids = {run.info.run_id for run in find_runs(client, experiment, query)}
        return {name for name, run_id in made.items() if run_id in ids}

    assert found(runs_query({"query": "it's"})) == {"kept", "dropped", "without"}
    assert found(runs_query({"query": "it's"}, having=("model",))) == {"kept", "dropped"}
    assert found(runs_query({"query": "it's"}, excluding={"model": "dropped"})) == {"kept"}
    assert found(runs_query(having=("query",), status="FINISHED")) == {"kept"}
    with pytest.raises(ConfigError):
        runs_query({"query": "'\""})


def test_all_runs_are_found_page_by_page(tracker: Any) -> None:
    client, experiment = tracker
    made = {
        start_run(client, experiment, name="r", tags={"page": "1"}, params={}, parent=None).info.run_id for _ in "abcde"
    }
    found = [run.info.run_id for run in find_runs(client, experiment, runs_query({"page": "1"}), page_size=2)]
    assert len(found) == 5
    assert set(found) == made


def opening(name: str, number: int | None = 0, **attempt_tags: str) -> Opening:
    identity = {"study": "s", "configuration": name}
    dataset = {"name": "d", "digest": "0", "source_type": "tiles", "source": "{}"}
    return Opening(identity, "r", {"backbone": "b"}, {"train.batch_size": 16}, "p", dataset, number, attempt_tags)


def test_opening_a_run_twice_resumes_it_and_updates_the_tags_of_the_attempt(tracker: Any) -> None:
    client, experiment = tracker
    made, found = open_run(client, experiment, opening("twice", 3, device="cpu", machine="a"))
    assert not found
    client.set_tag(made.info.run_id, "reason", "its process died too often")
    client.update_run(made.info.run_id, status=WAITING)
    again, found = open_run(client, experiment, opening("twice", 7, device="cpu", machine="b"))
    assert (found, again.info.run_id) == (True, made.info.run_id)
    open_run(client, experiment, opening("twice", 7, device="cpu", machine="b"))
    run = client.get_run(made.info.run_id)
    assert run.info.status == "RUNNING"
    tags = {name: run.data.tags.get(name) for name in ("backbone", "device", "machine", "trial_numbers", "reason")}
    assert tags == {"backbone": "b", "device": "cpu", "machine": "b", "trial_numbers": "3,7", "reason": None}
    assert run.data.params == {"train.batch_size": "16"}
    assert len(run.inputs.dataset_inputs) == 1


@pytest.mark.parametrize(
    ("status", "resumed"), [("RUNNING", True), (WAITING, True), ("FINISHED", False), ("FAILED", False)]
)
def test_without_resume_ended_only_a_run_that_has_not_ended_is_resumed(
    tracker: Any, status: str, resumed: bool
) -> None:
    client, experiment = tracker
    first, _ = open_run(client, experiment, opening(f"ended {status}", None))
    client.update_run(first.info.run_id, status=status)
    second, found = open_run(client, experiment, opening(f"ended {status}", None), resume_ended=False)
    assert (found, second.info.run_id == first.info.run_id) == (resumed, resumed)
    assert "trial_numbers" not in client.get_run(second.info.run_id).data.tags


def test_a_run_that_is_known_to_be_new_is_not_searched_for(tracker: Any) -> None:
    client, experiment = tracker
    first, _ = open_run(client, experiment, opening("new"))
    second, found = open_run(client, experiment, opening("new"), is_new=True)
    assert not found
    assert second.info.run_id != first.info.run_id


def test_curves_are_sent_every_few_seconds_and_at_the_end(run: Any) -> None:
    client, run_id = run
    now = [0.0]
    curves = CurveLogger(DirectWriter(client, get_run(client, run_id)), clock=lambda: now[0])
    curves.add(epoch(1))
    curves.add(epoch(2))
    assert steps(client, run_id) == []
    now[0] = 6.0
    curves.add(epoch(3))
    assert steps(client, run_id) == [1, 2, 3]
    curves.add(epoch(4))
    assert steps(client, run_id) == [1, 2, 3]
    curves.flush()
    curves.flush()
    for name in CURVES:
        assert steps(client, run_id, name) == [1, 2, 3, 4]


def test_a_retry_sends_only_what_is_missing(run: Any) -> None:
    client, run_id = run
    first = direct_curves(client, get_run(client, run_id))
    for step in (1, 2):
        first.add(epoch(step))
    first.flush()
    first.add(epoch(3))  # then its process dies without flushing
    second = direct_curves(client, get_run(client, run_id))
    for step in (1, 2, 3, 4):
        second.add(epoch(step))
    second.flush()
    assert steps(client, run_id) == [1, 2, 3, 4]
    frame = curves_of(client, run_id)
    assert list(frame.columns) == ["step", "run_id", *CURVES]
    assert list(frame["loss"]) == pytest.approx([1.0, 0.5, 1 / 3, 0.25])


def test_charts_start_with_the_validation_accuracy(run: Any) -> None:
    client, run_id = run
    curves = direct_curves(client, get_run(client, run_id), load=machine_load)
    curves.add(epoch(1))
    curves.flush({"best_val_auc": 0.8, "compute_seconds": 1.0})
    names = client.get_run(run_id).data.metrics

    def section_first(name: str) -> tuple[bool, bool, str]:
        """Sort key of MLflow's charts: sections in alphabetical order, then model metrics, then system metrics."""
        return name.startswith(PREFIX), "/" not in name, name

    shown = [name.rpartition("/")[2] for name in sorted(names, key=section_first)]
    assert shown[:3] == ["val_accuracy", "val_auc", "val_loss"]
    assert set(shown[3:7]) == {"accuracy", "loss", "learning_rate", "epoch_seconds"}


def test_the_curves_of_an_older_run_are_read_under_their_old_names(run: Any) -> None:
    client, run_id = run
    for step in (1, 2):
        client.log_metric(run_id, "val_auc", 0.5 + step / 8, step=step)
    assert [(metric.step, metric.value) for metric in curve_of(client, run_id, "val_auc")] == [(1, 0.625), (2, 0.75)]
    assert curve_of(client, run_id, "val_loss") == []
    client.log_metric(run_id, "curves/val_auc", 0.875, step=3)  # continued by this version
    assert [metric.step for metric in curve_of(client, run_id, "val_auc")] == [1, 2, 3]


def test_more_epochs_than_fit_into_one_request_are_sent_in_several(run: Any) -> None:
    client, run_id = run
    curves = CurveLogger(DirectWriter(client, get_run(client, run_id)), clock=lambda: 0.0)
    count = 2 * MAX_EPOCHS_A_REQUEST + 1
    for step in range(1, count + 1):
        curves.add(epoch(step))
    curves.flush()
    assert steps(client, run_id) == list(range(1, count + 1))


def test_numbers_and_tags_go_in_one_request(run: Any) -> None:
    client, run_id = run
    log_numbers(client, run_id, {"best_val_auc": 0.9}, tags={"model": "kept"})
    data = client.get_run(run_id).data
    assert (data.metrics["best_val_auc"], data.tags["model"]) == (0.9, "kept")


def test_the_data_set_is_logged_as_an_input_without_local_paths(tracker: Any, tiny_store: Any) -> None:
    client, experiment = tracker
    dataset = dataset_fields(tiny_store, "session2-sample")
    made, _ = open_run(client, experiment, Opening({"configuration": "data set"}, "r", {}, {}, None, dataset))
    (entry,) = client.get_run(made.info.run_id).inputs.dataset_inputs
    assert entry.dataset.name == "session2-sample"
    assert tiny_store.digest.startswith(entry.dataset.digest)
    assert sum(json.loads(entry.dataset.profile).values()) == len(tiny_store.index)
    assert json.loads(entry.dataset.schema) == {"image_size_px": 32, "classes": ["not-school", "school"]}
    assert str(tiny_store.folder) not in entry.dataset.source


def test_files_are_logged_fetched_and_removed(run: Any, tmp_path: Path) -> None:
    client, run_id = run
    frame = history_frame([epoch(1), epoch(3)])

    def model(path: Path) -> None:
        path.mkdir()
        (path / "part").write_text("x")

    files: dict[str, Any] = {
        "history.csv": lambda path: frame.to_csv(path, index=False),
        "plots/roc.png": lambda path: path.write_bytes(b"png"),
        "model": model,
    }
    log_files(client, get_run(client, run_id), files)
    history = fetch_file(client, run_id, "history.csv", tmp_path)
    assert history is not None
    assert list(pd.read_csv(history)["phase"]) == ["head", "tail"]
    assert fetch_file(client, run_id, "plots/roc.png", tmp_path) is not None
    folder = fetch_file(client, run_id, "model", tmp_path)
    assert folder is not None and (folder / "part").read_text() == "x"
    assert fetch_file(client, run_id, "nothing.csv", tmp_path) is None
    delete_folder(client, get_run(client, run_id), "model")
    assert {item.path for item in client.list_artifacts(run_id)} == {"history.csv", "plots"}


def test_a_run_without_epochs_has_empty_curves(run: Any) -> None:
    client, run_id = run
    assert curves_of(client, run_id).empty


def test_scores_are_logged_only_after_their_files(run: Any, tiny_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, run_id = run
    session = SessionConfig(session="t", task="school", positive_class="school", data_dir="t", sweep="quick")
    probabilities = np.tile([0.4, 0.6], (len(tiny_store.rows("test")), 1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(results, "log_files", full)
        results.log_split_scores(
            client, get_run(client, run_id), "test", probabilities, store=tiny_store, session=session
        )
    assert "test_auc" not in client.get_run(run_id).data.metrics
    results.log_split_scores(client, get_run(client, run_id), "test", probabilities, store=tiny_store, session=session)
    assert client.get_run(run_id).data.metrics["test_auc"] == 0.5
    assert "predictions" in {item.path for item in client.list_artifacts(run_id)}
