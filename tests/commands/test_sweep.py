"""Tests of `satx sweep` as a user runs it: in processes, from a project folder, with Ctrl-C and `kill -9`."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pandas as pd
import psutil
import pytest
from projects import SIZE_PX, TINY_SWEEP, command, environment, furnish, make_project, run_satx

from satx.errors import ConfigError
from satx.planning import plan as plans
from satx.planning.plan import plan_sweep
from satx.search.space import SweepConfig
from satx.sessions.prepare import SessionRequest
from satx.study.database import open_storage
from satx.testing.changed_environment import changed_environment
from satx.tracking.client import MlflowClient, open_tracker
from satx.tracking.runs import CURVES, curve_of, fetch_file

EPOCHS = 250  # enough for a test to stop the training before it ends
LONG_SWEEP = TINY_SWEEP | {
    "trials": 1,
    "set": TINY_SWEEP["set"] | {"train.head_epochs": EPOCHS, "train.early_stopping_patience_epochs": EPOCHS},
    "space": TINY_SWEEP["space"] | {"model.unfreeze": {"choices": ["none"]}},
}


@dataclass(frozen=True)
class Desk:
    """A project with a separate home."""

    project: Path
    home: Path
    tiles: Path

    def arguments(self, *more: str) -> list[str]:
        return ["sweep", "--data", str(self.tiles), "--size", str(SIZE_PX), "--weights", "none", *more]

    def sweep(self, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run_satx(*self.arguments(*more), cwd=self.project, home=self.home, **env)

    def start(self, *more: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        env = environment(self.home) | {"TERM": "xterm-256color"}
        if stdout != subprocess.PIPE:
            del env["COLUMNS"]  # a terminal has its own width
        return subprocess.Popen(
            command(*self.arguments(*more)),
            cwd=self.project,
            env=env,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def records(self) -> tuple[MlflowClient, list[Any], list[optuna.trial.FrozenTrial]]:
        with changed_environment(SATX_HOME=str(self.home)):
            client, storage = open_tracker(), open_storage()
        runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
        names = optuna.get_all_study_names(storage=storage)
        study = optuna.load_study(study_name=names[0], storage=storage) if names else None
        trials = study.get_trials() if study else []
        storage.engine.dispose()
        return client, list(runs), trials


def desk(folder: Path, tiles: Path, sweep: dict[str, Any]) -> Desk:
    furnish(folder / "home", tiles)
    return Desk(make_project(folder / "project", **{sweep["name"]: sweep}), folder / "home", tiles)


@contextmanager
def terminal(columns: int) -> Iterator[tuple[int, Callable[[], str]]]:
    """Yield a terminal of this width and 30 lines, and a function that returns what was written to it so far."""
    outer, inner = os.openpty()
    termios.tcsetwinsize(inner, (30, columns))
    written: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # the terminal is closed
            while data := os.read(outer, 65_536):
                written.append(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield inner, lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(written).decode(errors="ignore"))
    finally:
        os.close(inner)
        reader.join()
        os.close(outer)


def workers_of(driver: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(driver).children() if "worker" in child.cmdline()]


def wait_until(condition: Any, timeout_s: float = 180) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come to pass")


def has_checkpoint(home: Path) -> bool:
    return any((home / "cache" / "checkpoints").rglob("state.json"))


def of_kind(runs: list[Any], kind: str) -> list[Any]:
    if kind == "configuration":
        return [run for run in runs if "configuration" in run.data.tags]
    return [run for run in runs if run.data.tags.get("kind") == kind]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_tiles: Path) -> tuple[Desk, subprocess.CompletedProcess[str]]:
    """Run a sweep of two configurations to its end."""
    made = desk(tmp_path_factory.mktemp("swept"), tiny_tiles, TINY_SWEEP)
    return made, made.sweep("--sweep", "tiny")


def test_a_sweep_succeeds_and_prints_the_next_commands(swept: Any) -> None:
    _, process = swept
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "session2-sample-tiny-" in process.stdout
    assert "configurations │ 2 to train" in process.stdout
    assert "RANDOM weights" in process.stdout
    assert process.stdout.count("\n[2/2] trial") == 1
    assert "satx promote --run-id" in process.stdout
    assert "Against the baseline on frozen mobilenetv2 features, on the same" in process.stdout


def test_the_runs_of_a_sweep_have_tags_parameters_metrics_inputs_and_curves(swept: Any, tmp_path: Path) -> None:
    made, _ = swept
    client, runs, trials = made.records()
    (parent,), baselines, children = of_kind(runs, "sweep"), of_kind(runs, "baseline"), of_kind(runs, "configuration")
    assert parent.info.status == "FINISHED"
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {"sweep.yaml", "curves.png"}
    assert "2 of 2" in parent.data.tags["mlflow.note.content"] and parent.data.metrics["num_finished"] == 2
    assert [run.info.status for run in baselines] == ["FINISHED"]
    assert {"best_val_auc", "test_auc", "test_auc_low", "test_accuracy"} <= set(baselines[0].data.metrics)
    assert len(children) == 2
    for run in children:
        assert run.info.status == "FINISHED"
        tags = run.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert (tags["backbone"], tags["session"], tags["weights"]) == ("mobilenetv2", "session2-sample", "random")
        assert {"data_digest", "git_commit", "trial_numbers", "device", "weights_digest"} <= set(tags)
        assert {"model.backbone", "model.unfreeze", "train.head_learning_rate", "train.seed"} <= set(run.data.params)
        (entry,) = run.inputs.dataset_inputs
        assert entry.dataset.name == "session2-sample"
        assert tags["data_digest"].startswith(entry.dataset.digest)
        assert {"compute_seconds", "shared_seconds", "best_val_auc", "best_val_accuracy"} <= set(run.data.metrics)
        path = fetch_file(client, run.info.run_id, "history.csv", tmp_path)
        assert path is not None
        history = pd.read_csv(path)
        for name in CURVES:
            logged = curve_of(client, run.info.run_id, name)
            assert [metric.step for metric in logged] == list(range(1, len(history) + 1)) == list(history["step"])
            assert [metric.value for metric in logged] == pytest.approx(list(history[name]))
    assert sorted(run.data.tags["trial_numbers"] for run in children) == ["0", "1"]
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]


def test_only_the_best_run_keeps_model_and_plots_and_has_test_scores(swept: Any) -> None:
    made, _ = swept
    client, runs, _ = made.records()
    children = sorted(of_kind(runs, "configuration"), key=lambda run: run.data.tags.get("model") != "kept")
    kept = [run for run in children if run.data.tags.get("model") == "kept"]
    assert len(kept) == 1
    assert {"test_auc", "test_auc_low", "test_auc_high", "test_accuracy"} <= set(kept[0].data.metrics)
    names = {item.path for item in client.list_artifacts(kept[0].info.run_id)}
    assert {"config.json", "history.csv", "model", "plots", "predictions", "slices"} <= names
    plots = {Path(item.path).stem for item in client.list_artifacts(kept[0].info.run_id, "plots")}
    assert {"learning_curves", "valid_roc", "valid_precision_recall", "valid_confusion", "valid_scores"} <= plots
    others = [run for run in children if run not in kept]
    for run in others:
        assert not any(name.startswith("test_") for name in run.data.metrics)
        names = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"config.json", "history.csv"} <= names
        assert "model" not in names


def test_repeating_the_command_trains_nothing_and_prints_one_json_document(
    swept: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from satx.commands.sweep import sweep_command

    made, _ = swept
    before = {run.info.run_id: run.info.end_time for run in of_kind(made.records()[1], "configuration")}
    monkeypatch.chdir(made.project)
    monkeypatch.setenv("SATX_HOME", str(made.home))
    request, options = SessionRequest("2", made.tiles, "none", SIZE_PX), {"trials": None, "minutes": None, "workers": 1}
    sweep_command(request, sweep_name="tiny", order=None, dry_run=False, as_json=True, **options)
    answer = json.loads(capfd.readouterr().out)
    assert answer["finished"] is True
    assert [row["backbone"] for row in answer["runs"]] == ["mobilenetv2"]
    _, runs, trials = made.records()
    assert {run.info.run_id: run.info.end_time for run in of_kind(runs, "configuration")} == before
    assert len(trials) == 2
    assert [run.info.status for run in runs] == ["FINISHED"] * len(runs)
    assert not (made.home / "logs").exists() or len(list((made.home / "logs").rglob("worker-*.log"))) == 1


def test_a_dry_run_prints_the_plan_and_trains_nothing(
    tmp_path: Path, tiny_tiles: Path, home: Path, capsys: Any, monkeypatch: Any
) -> None:
    from satx.commands.sweep import run_sweep

    prepared = furnish(home, tiny_tiles)
    run_sweep(prepared, SweepConfig.model_validate(TINY_SWEEP), minutes=None, workers=1, dry_run=True, as_json=True)
    printed = capsys.readouterr().out
    answer = json.loads(printed[printed.index("{") :])
    assert (answer["num_configurations"], answer["done"]) == (2, 0)
    assert answer["hours"] > 0 and answer["num_confirming"] == 0 and answer["machine_factor"] > 0
    head, tail = answer["trainings"]
    assert (head["unfreeze"], head["trainable_parameters"]) == ("none", 0) and head["cached"]
    assert (tail["unfreeze"], tail["trainable_parameters"]) == ("block16", 886_080)
    assert tail["full_seconds"] > head["full_seconds"] > 0
    config = SweepConfig.model_validate(TINY_SWEEP | {"confirm": {"num_configurations": 1, "num_seeds": 3}})
    plan, uncached = plan_sweep(prepared, config, 2), plan_sweep(prepared, _without_cache(config), 2)
    assert plan.num_confirming == 3 and plan.confirming_hours > 0
    assert plan.cache_gb > uncached.cache_gb == 0 and uncached.hours > plan.hours
    # 50 MB more than the reserve
    monkeypatch.setattr(plans.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.05e9))
    small = plan_sweep(prepared, config, 2)
    assert small.cache_gb <= 0.05 and small.model_gb == plan.model_gb
    monkeypatch.setattr(plans.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    with pytest.raises(ConfigError, match="SATX_HOME"):
        run_sweep(prepared, config, minutes=None, workers=1, dry_run=True, as_json=True)
    _, runs, trials = Desk(tmp_path, home, tiny_tiles).records()
    assert (runs, trials) == ([], [])


def _without_cache(config: SweepConfig) -> SweepConfig:
    return SweepConfig.model_validate(config.model_dump() | {"set": config.set | {"cache": "off"}})


@pytest.mark.slow
def test_ctrl_c_queues_the_trial_again_and_the_printed_command_continues_it(tmp_path: Path, tiny_tiles: Path) -> None:
    made = desk(tmp_path, tiny_tiles, LONG_SWEEP)
    with terminal(60) as (screen, seen):
        driver = made.start("--sweep", "tiny", stdout=screen)
        wait_until(lambda: (has_checkpoint(made.home) and "head epoch" in seen()) or driver.poll() is not None)
        driver.send_signal(signal.SIGINT)
        _, err = driver.communicate(timeout=120)
        shown = seen()
    assert driver.returncode == 130, shown + err
    assert "Traceback" not in err
    assert max(map(len, shown.replace("\r", "\n").splitlines())) <= 60
    for words in (
        "starting 1 worker",
        r"trial 0: mobilenetv2 head only, head epoch \d+ of",
        "Stopping …",
        "Stopping: waiting",
    ):
        assert re.search(words, shown), shown
    assert "0 running" not in shown and "mobilenetv2 none" not in shown
    client, runs, trials = made.records()
    (run,) = of_kind(runs, "configuration")
    assert run.info.status == "SCHEDULED"
    assert [trial.state.name for trial in trials] == ["FAIL", "WAITING"]
    assert "RUNNING" not in {item.info.status for item in runs}
    before = curve_of(client, run.info.run_id, "val_auc")
    assert before

    (continues,) = (shlex.split(line) for line in err.splitlines() if " sweep " in line)
    again = subprocess.run(
        continues, cwd=made.project, env=environment(made.home), capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stderr
    client, runs, trials = made.records()
    (run,) = of_kind(runs, "configuration")
    assert run.info.status == "FINISHED"
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]
    after = curve_of(client, run.info.run_id, "val_auc")
    assert [metric.step for metric in after] == list(range(1, EPOCHS + 1))
    assert [metric.value for metric in after[: len(before)]] == [metric.value for metric in before]


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_configuration_keeps_its_run(tmp_path: Path, tiny_tiles: Path) -> None:
    made = desk(tmp_path, tiny_tiles, LONG_SWEEP)
    driver = made.start("--sweep", "tiny")
    wait_until(lambda: has_checkpoint(made.home) or driver.poll() is not None)
    (worker,) = workers_of(driver.pid)
    worker.kill()
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, out + err
    client, runs, trials = made.records()
    (run,) = of_kind(runs, "configuration")
    assert run.info.status == "FINISHED"
    assert run.data.tags["trial_numbers"] == "0,1"
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]
    assert [metric.step for metric in curve_of(client, run.info.run_id, "loss")] == list(range(1, EPOCHS + 1))


@pytest.mark.faults
@pytest.mark.slow
def test_workers_of_a_killed_driver_stop_by_themselves_and_the_next_call_continues(
    tmp_path: Path, tiny_tiles: Path
) -> None:
    made = desk(tmp_path, tiny_tiles, LONG_SWEEP)
    driver = made.start("--sweep", "tiny")
    wait_until(lambda: has_checkpoint(made.home) or driver.poll() is not None)
    (worker,) = workers_of(driver.pid)
    driver.kill()
    driver.communicate()
    at_once = made.sweep("--sweep", "tiny")  # while the old worker may still be finishing its epoch
    assert at_once.returncode == 0, at_once.stderr
    assert "finished after" in at_once.stdout
    wait_until(lambda: not worker.is_running())
    client, runs, trials = made.records()
    (run,) = of_kind(runs, "configuration")
    assert {item.info.status for item in runs} == {"FINISHED"}
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]
    assert [metric.step for metric in curve_of(client, run.info.run_id, "loss")] == list(range(1, EPOCHS + 1))


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once_and_nothing_is_lost(tmp_path: Path, tiny_tiles: Path) -> None:
    made = desk(tmp_path, tiny_tiles, LONG_SWEEP)
    driver = made.start("--sweep", "tiny")
    wait_until(lambda: has_checkpoint(made.home) or driver.poll() is not None)
    (worker,) = workers_of(driver.pid)
    worker.suspend()  # simulates an epoch that takes very long
    driver.send_signal(signal.SIGINT)
    time.sleep(1)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    _, runs, trials = made.records()
    assert [trial.state.name for trial in trials] == ["FAIL", "WAITING"]
    assert trials[0].user_attrs["outcome"] == "interrupted"
    assert "RUNNING" not in {item.info.status for item in runs}


@pytest.mark.slow
def test_the_time_limit_stops_a_sweep_and_leaves_nothing_running(tmp_path: Path, tiny_tiles: Path) -> None:
    long = LONG_SWEEP | {"trials": 40}
    made = desk(tmp_path, tiny_tiles, long)
    process = made.sweep("--sweep", "tiny", "--minutes", "0.6")
    assert process.returncode == 0, process.stderr
    assert "at its time limit, with" in process.stdout
    _, runs, trials = made.records()
    assert "RUNNING" not in {item.info.status for item in runs}
    assert all(trial.state.name != "RUNNING" for trial in trials)
    assert [run.info.status for run in of_kind(runs, "sweep")] == ["KILLED"]


@pytest.mark.slow
def test_two_workers_with_one_server_train_exactly_the_wanted_number_of_configurations(
    tmp_path: Path, tiny_tiles: Path
) -> None:
    made = desk(tmp_path, tiny_tiles, TINY_SWEEP | {"sampler": {"name": "random"}})
    process = made.sweep("--sweep", "tiny", "--trials", "5", "--workers", "2")
    assert process.returncode == 0, process.stderr
    assert "Against the baseline on frozen" in process.stdout
    _, runs, trials = made.records()
    children = of_kind(runs, "configuration")
    assert [run.info.status for run in children] == ["FINISHED"] * 5
    assert len({run.data.tags["configuration"] for run in children}) == 5
    done = [trial for trial in trials if trial.state.name == "COMPLETE" and "duplicate_of" not in trial.user_attrs]
    assert len(done) == 5
    assert len(list((made.home / "logs").rglob("worker-*.log"))) == 2
    for run in children:
        assert str(made.home) in run.info.artifact_uri
    raised = made.sweep("--sweep", "tiny", "--trials", "6")
    assert raised.returncode == 0, raised.stderr
    assert len(of_kind(made.records()[1], "configuration")) == 6


@pytest.mark.slow
def test_an_exhausted_space_is_reported(tmp_path: Path, tiny_tiles: Path) -> None:
    small = TINY_SWEEP | {"trials": 9, "start": [], "space": {"model.unfreeze": {"choices": ["none"]}}}
    made = desk(tmp_path, tiny_tiles, small)
    for _ in range(2):
        process = made.sweep("--sweep", "tiny")
        assert process.returncode == 0, process.stderr
        said = " ".join(process.stdout.split())
        assert re.search(r"finished after .* with 1 of 9 configurations: the search space", said), said
    assert len(of_kind(made.records()[1], "configuration")) == 1


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


def refused(process: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    assert process.stderr.startswith("Error: ")
    for word in words:
        assert word in process.stderr


@pytest.mark.slow
def test_an_unreachable_tracker_is_one_clear_error(tmp_path: Path, tiny_tiles: Path, closed_port: int) -> None:
    made = desk(tmp_path, tiny_tiles, TINY_SWEEP)
    uri = f"http://127.0.0.1:{closed_port}"
    refused(made.sweep("--sweep", "tiny", MLFLOW_TRACKING_URI=uri), 1, uri, "MLFLOW_TRACKING_URI")
    assert made.records()[2] == []


@pytest.mark.slow
def test_bad_input_is_refused_in_one_message(tmp_path: Path, tiny_tiles: Path) -> None:
    made = desk(tmp_path, tiny_tiles, TINY_SWEEP)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no tile")
    blocked = tmp_path / "a-file"
    blocked.write_text("")
    for name in ("empty", "texts", "missing"):
        refused(made.sweep("--sweep", "tiny", "--data", str(tmp_path / name)), 2, name)
    refused(made.sweep("--sweep", "tiny", "--session", "7"), 2, "experiments/session7.yaml", "session1")
    refused(made.sweep("--sweep", "tiny", "--size", "8"), 2, "image_size_px", "got 8")
    refused(made.sweep("--sweep", "tiny", "--weights", str(tmp_path / "empty")), 2, "mobilenetv2_notop.weights.h5")
    refused(made.sweep("--sweep", "tiny", SATX_HOME=str(blocked)), 2, "SATX_HOME", "cannot be written")
    refused(made.sweep("--sweep", "tiny", SATX_STUDY_URL="sqlite:////proc/none/x.db"), 1, "SATX_STUDY_URL")


@pytest.mark.slow
@pytest.mark.parametrize("limit_kib", [100, pytest.param(1500, marks=pytest.mark.faults), 6000])
def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(limit_kib: int, tmp_path: Path, tiny_tiles: Path) -> None:
    made = desk(tmp_path, tiny_tiles, TINY_SWEEP)
    limited = ["bash", "-c", f'ulimit -f {limit_kib}; exec "$@"', "-", *command(*made.arguments("--sweep", "tiny"))]
    process = subprocess.run(
        limited, cwd=made.project, env=environment(made.home), capture_output=True, text=True, timeout=300
    )
    refused(process, 2, "full")
    again = made.sweep("--sweep", "tiny")
    assert again.returncode == 0, again.stderr
    assert "finished after" in again.stdout


@pytest.mark.slow
def test_sigterm_while_the_trunk_cache_is_filled_leaves_nothing_running(tmp_path: Path, tiny_tiles: Path) -> None:
    made = desk(tmp_path, tiny_tiles, TINY_SWEEP | {"set": TINY_SWEEP["set"] | {"augmentation.num_flips": 8}})
    driver = made.start("--sweep", "tiny")
    wait_until(lambda: any((made.home / "cache").glob("trunk/*/*/*.npy*")) or driver.poll() is not None)
    os.kill(driver.pid, signal.SIGTERM)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, out + err
    assert "Traceback" not in err and err.count("--sweep tiny") == 1
    assert out.count("Stopping …") == 1
    _, runs, _ = made.records()
    assert "RUNNING" not in {run.info.status for run in runs}


def test_a_study_is_driven_by_one_driver_at_a_time(home: Path) -> None:
    from satx.errors import ConfigError
    from satx.execution.driver import only_driver

    refused_here = pytest.raises(ConfigError, match=str(os.getpid()))
    with only_driver("a-study"), only_driver("another"), refused_here, only_driver("a-study"):
        pass
    with only_driver("a-study"):
        pass
