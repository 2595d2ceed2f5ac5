"""Tests of `satx train`: settings, continuing an interrupted training in its run, and repeating a run exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from logged_runs import curves_of
from projects import SIZE_PX, furnish, make_project, run_satx

from satx.commands.train import train_command
from satx.config import parse_assignments
from satx.errors import ConfigError, DataError, Interrupted
from satx.sessions.prepare import SessionRequest
from satx.tracking.client import open_tracker
from satx.tracking.runs import CURVES, curve_of

SHORT = {
    "model.backbone": "mobilenetv2",
    "model.unfreeze": "none",
    "train.head_epochs": 4,
    "augmentation.num_flips": 2,
    "train.finetune_epochs": 1,
}
Train = Callable[..., str]


@pytest.fixture
def train(home: Path, tiny_tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Return a function that runs `satx train` in this process, from a project folder."""
    furnish(home, tiny_tiles)
    monkeypatch.chdir(make_project(tmp_path / "project"))

    def called(data: Path | None = None, from_run: str | None = None, size: int | None = None, **values: Any) -> str:
        settings = {name.replace("__", "."): value for name, value in values.items()}
        request = (
            SessionRequest("2", data, None, size)
            if from_run
            else SessionRequest("2", data or tiny_tiles, "none", SIZE_PX)
        )
        return train_command(request, values=settings if from_run else SHORT | settings, from_run=from_run)

    return called


def test_from_run_repeats_a_training_exactly_and_only_on_its_own_tiles(
    train: Train, tiny_tiles: Path, tmp_path: Path, capsys: Any
) -> None:
    first = train(train__head_epochs=5)
    assert f"satx train --from-run {first}" in capsys.readouterr().out
    second = train(from_run=first)
    assert second != first
    client = open_tracker()
    runs = [client.get_run(run_id) for run_id in (first, second)]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert runs[0].data.params == runs[1].data.params
    assert runs[0].data.params["train.head_epochs"] == "5"
    assert runs[1].data.tags["repeats"] == first
    curves = [curves_of(client, run_id).drop(columns=["run_id", "epoch_seconds"]) for run_id in (first, second)]
    assert list(curves[0]["step"]) == [1, 2, 3, 4, 5]
    assert curves[0].equals(curves[1]), "the curves are equal bit for bit"
    names = {item.path for item in client.list_artifacts(first)}
    assert {"config.json", "history.csv", "model", "plots", "predictions", "slices"} <= names

    other = tmp_path / "other"
    shutil.copytree(tiny_tiles, other)
    (other / "tiles.csv").unlink(missing_ok=True)
    min((other / "train").rglob("*.*g")).unlink()
    wrong: dict[str, dict[str, Any]] = {
        "--data": {"data": other},
        "0" * 32: {"from_run": "0" * 32},
        "mobilenetv2.*xception": {"model__backbone": "xception", "model__unfreeze": "none"},
        f"{SIZE_PX} px.*{SIZE_PX * 2}": {"size": SIZE_PX * 2},
    }
    for value, options in wrong.items():
        with pytest.raises(ConfigError, match=value):
            train(**{"from_run": first} | options)
    assert len(client.search_runs([runs[0].info.experiment_id])) == 2


def test_an_interrupted_training_continues_in_its_run(
    train: Train, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from satx.commands import train as module

    class StopAfterTwo:
        """Stop signal that simulates Ctrl-C after the second epoch."""

        def __enter__(self) -> Callable[[], bool]:
            return lambda: bool(list((home / "cache" / "checkpoints").rglob("current-2.npz")))

        def __exit__(self, *_: object) -> None:
            """Restore nothing: no signal handler was set."""

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(module, "stop_signal", StopAfterTwo)
        train()
    client = open_tracker()
    experiment = client.get_experiment_by_name("session2-sample")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "SCHEDULED"
    assert [metric.step for metric in curve_of(client, run.info.run_id, "loss")] == [1, 2]
    assert train() == run.info.run_id
    for name in CURVES:
        steps = [metric.step for metric in curve_of(client, run.info.run_id, name)]
        assert steps == [1, 2, 3, 4], name
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    assert not list((Path(experiment.artifact_location.removeprefix("file://")).parents[1]).rglob("state.json"))


@pytest.mark.slow
def test_the_setting_image_size_px_selects_the_tile_store(train: Train) -> None:
    run = open_tracker().get_run(train(image_size_px=40, train__head_epochs=1))
    assert run.data.params["image_size_px"] == "40"
    assert json.loads(run.data.tags["inputs"])["store"].endswith("-40px")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train.batchsize=16", "'train.batch_size'"),
        ("model.backbone=xceptoin", "'xception'"),
        ("model.unfreeze=block99", "'block99'"),
        ("train.batch_size=0", "train.batch_size.* got 0"),
        ("train.batch_size=many", "train.batch_size.* got 'many'"),
        ("train.batch_size", "name=value"),
    ],
)
def test_a_wrong_setting_is_refused_before_an_experiment_is_created(
    assignment: str, words: str, home: Path, tiny_tiles: Path
) -> None:
    furnish(home, tiny_tiles)
    with pytest.raises(ConfigError, match=words):
        train_command(
            SessionRequest("2", tiny_tiles, "none", 32), values=parse_assignments([assignment]), from_run=None
        )
    assert [item.name for item in open_tracker().search_experiments()] == ["Default"]


def test_a_folder_without_tiles_is_refused(train: Train, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(data=tmp_path / "nowhere")


@pytest.mark.slow
def test_the_command_line_trains_and_refuses_an_unknown_setting(home: Path, tiny_tiles: Path, tmp_path: Path) -> None:
    furnish(home, tiny_tiles)
    project = make_project(tmp_path / "project")
    settings = [part for name, value in SHORT.items() for part in ("--set", f"{name}={value}")]
    given = ["--data", str(tiny_tiles), "--size", "32", "--weights", "none"]
    good = run_satx("train", *given, *settings, cwd=project, home=home)
    assert good.returncode == 0, good.stderr
    assert good.stderr == ""
    assert "Best epoch" in good.stdout
    bad = run_satx("train", *given, "--set", "train.batchsize=1", cwd=project, home=home)
    assert bad.returncode == 2
    assert bad.stderr.startswith("Error: --set: expected the dotted name of a setting, got 'train.batchsize'")
