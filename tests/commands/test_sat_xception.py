"""Tests of the original command line: `sat_xception train -model=mobilenetv2 -train=train -valid=valid`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from projects import furnish, run_satx

from satx.catalogue import BACKBONES
from satx.commands.sat_xception import search_of_one, train_original
from satx.errors import ConfigError, DataError
from satx.tracking.client import open_tracker

SMALL = ("-size", "32", "-weights", "none")


@pytest.mark.slow
def test_the_original_command_trains_on_folders_relative_to_the_working_directory(home: Path, tiny_tiles: Path) -> None:
    furnish(home, tiny_tiles)
    process = run_satx(
        "train", "-model=mobilenetv2", "-train=train", "-valid=valid", *SMALL,
        cwd=tiny_tiles, home=home, program="sat_xception",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "Best epoch" in process.stdout
    client = open_tracker()
    experiment = client.get_experiment_by_name("sat-xception-sample")
    assert experiment is not None, "rendered tiles are a sample for every command"
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.backbone"] == "mobilenetv2"
    assert run.data.params["model.unfreeze"] == "block16"
    assert run.data.tags["task"] == "school-sample"


@pytest.mark.slow
def test_with_trials_the_original_command_searches_one_backbone(home: Path, tiny_tiles: Path) -> None:
    furnish(home, tiny_tiles)
    process = run_satx(
        "train", "-model", "mobilenetv2", "-train", "train", "-valid", "valid", "-trials=2", *SMALL,
        cwd=tiny_tiles, home=home, program="sat_xception", timeout_s=580,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "no test split" in process.stdout
    client = open_tracker()
    experiment = client.get_experiment_by_name("sat-xception-sample")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], filter_string="tags.configuration LIKE '%'")
    assert len(runs) == 2
    assert {run.data.tags["backbone"] for run in runs} == {"mobilenetv2"}
    assert "compare --session sat-xception --sample" in process.stdout
    compared = run_satx("compare", "--session", "sat-xception", "--sample", cwd=tiny_tiles, home=home)
    assert compared.returncode == 0, compared.stderr


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_the_search_can_be_restricted_to_any_backbone(backbone: str) -> None:
    sweep = search_of_one(backbone, 3)
    assert sweep.backbones == (backbone,)
    assert sweep.trials == 3
    assert all(start["model.backbone"] == backbone for start in sweep.start)


def call(
    tmp_path: Path, train: Path, valid: Path, *, backbone: str = "mobilenetv2", trials: int = 1, size_px: int = 32
) -> None:
    train_original(
        backbone=backbone, train_dir=train, valid_dir=valid, trials=trials, weights="none", image_size_px=size_px
    )


def test_wrong_arguments_are_refused_before_any_tile_is_decoded(home: Path, tiny_tiles: Path, tmp_path: Path) -> None:
    train, valid = tiny_tiles / "train", tiny_tiles / "valid"
    wrong_settings: dict[str, dict[str, Any]] = {
        "'mobilenetv2'": {"backbone": "mobilenet-v2"},
        "image_size_px.*got 8": {"size_px": 8},
        "71 px.*xception": {"backbone": "xception"},
        "trials.*got 0": {"trials": 0},
    }
    for value, setting in wrong_settings.items():
        with pytest.raises(ConfigError, match=value):
            call(tmp_path, train, valid, **setting)
    for folder in (tmp_path / "nowhere", train):
        with pytest.raises(DataError) as caught:
            call(tmp_path, train, folder)
        assert str(folder) in str(caught.value)
    assert not (home / "cache").exists()


def test_folders_of_any_class_names_make_a_valid_task(home: Path, tiny_tiles: Path, tmp_path: Path) -> None:
    import shutil

    for split in ("train", "valid"):
        for label, name in (("school", "Solar_Farms 2"), ("not-school", "Anything & else")):
            source = next(iter(tiny_tiles.glob(f"**/{split}/{label}")), tiny_tiles / split / label)
            shutil.copytree(source, tmp_path / split / name)
    with pytest.raises(ConfigError, match="71 px"):
        call(tmp_path, tmp_path / "train", tmp_path / "valid", backbone="xception")


def test_usage_errors_exit_with_2(home: Path, tmp_path: Path) -> None:
    process = run_satx("train", "-train", "x", cwd=tmp_path, home=home, program="sat_xception")
    assert process.returncode == 2
    assert "required: -model/--model_id" in process.stderr


@pytest.mark.slow
def test_an_unknown_model_exits_with_2(home: Path, tiny_tiles: Path) -> None:
    process = run_satx(
        "train", "-model=xceptoin", "-train=train", "-valid=valid", cwd=tiny_tiles, home=home, program="sat_xception"
    )
    assert process.returncode == 2
    assert process.stderr.startswith("Error: -model: ")
    assert "'xceptoin'" in process.stderr and "'xception'" in process.stderr
