"""Tests of the original command line: `sat_xception train -model=mobilenetv2 -train=train -valid=valid`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from projects import ROOT, environment, furnish, run_satx, with_databases

import satx
from satx.catalogue import ALL, BACKBONES, NONE
from satx.cli_checks import check_original
from satx.commands.sat_xception import _class_of_interest, search_of_one, task_of, train_original
from satx.errors import ConfigError, DataError
from satx.tiles.layout import read_split_folders
from satx.tracking.client import open_tracker

SMALL = ("-size", "32", "-weights", "none")


def runs_of(experiment: str) -> list[Any]:
    client = open_tracker()
    found = client.get_experiment_by_name(experiment)
    assert found is not None, experiment
    return list(client.search_runs([found.experiment_id]))


def printed(command: str, said: str) -> str:
    """Return the only line that a program printed for this command, without the comment behind it."""
    (line,) = [line for line in said.splitlines() if command in line and line.startswith("  ")]
    return line.split("   #")[0].strip()


def in_shell(line: str, *, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line as a user would who copies it."""
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_the_original_command_trains_the_whole_network_and_scores_the_test_folder(home: Path, tiny_tiles: Path) -> None:
    furnish(home, tiny_tiles)
    process = run_satx(
        "train", "-model=mobilenetv2", "-train=train", "-valid=valid", "-test=test", *SMALL,
        cwd=tiny_tiles, home=home, program="sat_xception",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "Best epoch" in process.stdout and str(home) in process.stdout
    (run,) = runs_of("sat-xception-sample")  # rendered tiles are a sample for every command
    assert run.info.status == "FINISHED"
    assert run.data.params["model.backbone"] == "mobilenetv2"
    assert run.data.params["model.unfreeze"] == ALL
    assert run.data.tags["task"] == "school-sample"
    line = printed("promote", process.stdout)
    assert "--force" not in line
    promoted = in_shell(line, cwd=tiny_tiles, **environment(home))
    assert promoted.returncode == 0, promoted.stderr
    assert "test AUC" in promoted.stdout


@pytest.mark.slow
def test_what_is_printed_works_without_a_test_folder_here_and_elsewhere_whatever_the_paths(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, tiny_tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "it's $HOME; `odd`", tmp_path / "a b"
    with_databases(home, tmp_path_factory.getbasetemp())
    monkeypatch.setenv("SATX_HOME", str(home))
    here.symlink_to(tiny_tiles)
    process = run_satx(
        "train", "-model=mobilenetv2", "-train=train", "-valid=valid", "-unfreeze=block16", *SMALL,
        cwd=here, home=home, program="sat_xception",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "-test=DIR" in process.stdout
    (run,) = runs_of("sat-xception-sample")
    assert run.data.params["model.unfreeze"] == "block16"
    line = printed("promote", process.stdout)
    promoted = in_shell(line, cwd=here, **environment(home))
    assert promoted.returncode == 0, promoted.stderr
    program, moved = line.split(" promote ")[0], printed("export SATX_HOME", process.stdout)
    elsewhere = {name: value for name, value in environment(home).items() if name != "SATX_HOME"}
    shown = in_shell(f"{moved}\n{program} show --json", cwd=tmp_path, **elsewhere)
    assert [task["name"] for task in json.loads(shown.stdout)] == ["school-sample"], shown.stderr

    assert len(list((home / "cache").glob("tiles-*px"))) == 1
    (trunk,) = (home / "cache" / "trunk").iterdir()
    passes = {cut: _passes(trunk / cut) for cut in (NONE, "block16")}
    assert passes[NONE] and passes[NONE] == passes["block16"], "one pass computes what head and tail read"


def _passes(folder: Path) -> set[str]:
    return {json.loads(path.read_text())["pass"] for path in folder.glob("*.json")}


@pytest.mark.slow
def test_with_trials_the_original_command_searches_exactly_as_many_configurations(home: Path, tiny_tiles: Path) -> None:
    furnish(home, tiny_tiles)
    process = run_satx(
        "train", "-model", "mobilenetv2", "-train", "train", "-valid", "valid", "-trials=4", "-unfreeze=none", *SMALL,
        cwd=tiny_tiles, home=home, program="sat_xception", timeout_s=580,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "no test split" in process.stdout
    trained = [run for run in runs_of("sat-xception-sample") if "train.seed" in run.data.params]
    assert len(trained) == 4
    assert {run.data.tags["backbone"] for run in trained} == {"mobilenetv2"}
    assert len({run.data.tags["configuration"] for run in trained}) == 4
    compared = in_shell(printed("compare", process.stdout), cwd=tiny_tiles, **environment(home))
    assert compared.returncode == 0, compared.stderr
    assert printed("export SATX_HOME", process.stdout)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_the_search_is_that_of_the_original_for_any_backbone(backbone: str) -> None:
    for unfreeze in (ALL, NONE, next(iter(BACKBONES[backbone].cuts))):
        sweep = search_of_one(backbone, unfreeze, 3)
        assert sweep.backbones == (backbone,)
        assert sweep.trials == 3
        assert sweep.set["model.unfreeze"] == unfreeze and "model.unfreeze" not in sweep.space
        assert all(start["model.backbone"] == backbone for start in sweep.start)
        assert sweep.confirm.num_configurations == 0


def test_what_the_search_tries_first_of_a_part_is_kept() -> None:
    (first,) = search_of_one("xception", ALL, 3).start
    assert first["train.finetune_learning_rate"] == 0.000025
    assert len(search_of_one("xception", NONE, 3).start) == 2


def call(train: Path, valid: Path, *, model: str = "mobilenetv2", **options: Any) -> None:
    """Check and train, as the command does."""
    size, test = options.get("size", 32), options.get("test")
    folders = [folder for folder in (train, valid, test) if folder is not None]
    trials, unfreeze = options.get("trials", 1), options.get("unfreeze", ALL)
    settings = check_original(model, unfreeze, trials=trials, size=size, folders=folders)
    train_original(
        settings, train_dir=train, valid_dir=valid, test_dir=test, trials=trials, weights="none", image_size_px=size
    )


def test_wrong_arguments_are_refused_before_any_tile_is_decoded(home: Path, tiny_tiles: Path, tmp_path: Path) -> None:
    train, valid = tiny_tiles / "train", tiny_tiles / "valid"
    wrong_settings: dict[str, dict[str, Any]] = {
        "'mobilenetv2'": {"model": "mobilenet-v2"},
        "image_size_px.*got 8": {"size": 8},
        "71 px.*xception": {"model": "xception"},
        "trials.*got 0": {"trials": 0},
        "unfreeze.*'block16'": {"unfreeze": "block61"},
    }
    for value, setting in wrong_settings.items():
        with pytest.raises(ConfigError, match=value):
            call(train, valid, **setting)
    for other, test in ((tmp_path / "nowhere", None), (train, None), (valid, valid), (valid, tmp_path / "nowhere")):
        with pytest.raises(DataError) as caught:
            call(train, other, test=test)
        assert str(test or other) in str(caught.value)
    assert not (home / "cache").exists()


def test_folders_of_any_class_names_make_a_valid_task(home: Path, tiny_tiles: Path, tmp_path: Path) -> None:
    import shutil

    for split in ("train", "valid"):
        for label, name in (("school", "Solar_Farms 2"), ("not-school", "Anything & else")):
            source = next(iter(tiny_tiles.glob(f"**/{split}/{label}")), tiny_tiles / split / label)
            shutil.copytree(source, tmp_path / split / name)
    folder = read_split_folders(tmp_path / "train", tmp_path / "valid")
    assert task_of(_class_of_interest(folder)) == "solar-farms-2"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "-train", "x"], "-model/--model_id"),
        (["train", "-model=xceptoin", "-train=train", "-valid=valid"], "'xception'"),
        (["train", "--model=xception", "--train=train", "--valid=nowhere"], "nowhere"),
        (["train", "-model=xception", "-train=train", "-valid=valid", "--log=6"], "--log"),
        (["train", "-model=xception", "-train=train", "-valid=valid", "-epochs=3"], "-epochs=3"),
        (["predict", "--log", "1"], "satx promote"),
        ([], "command"),
    ],
)
def test_wrong_arguments_are_named_before_anything_slow_is_imported(
    arguments: list[str], named: str, home: Path, tiny_tiles: Path
) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('keras', 'tensorflow', 'mlflow', 'optuna')))\n"
        f"sys.argv = ['sat_xception', *{arguments!r}]\n"
        "from satx.sat_xception import main\n"
        "main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tiny_tiles,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 2, process.stderr
    assert named in process.stderr and "Traceback" not in process.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["train", "--version"], ["predict", "--version"]])
def test_the_version_is_satxs(arguments: list[str], home: Path, tmp_path: Path) -> None:
    process = run_satx(*arguments, cwd=tmp_path, home=home, program="sat_xception")
    assert (process.returncode, process.stdout) == (0, f"satx {satx.__version__}\n")


@pytest.mark.parametrize(("number", "shown"), [(0, "abcde"), (1, "abcde"), (2, "bcde"), (3, "cde"), (5, "e")])
def test_log_sets_the_least_level_of_messages(number: int, shown: str) -> None:
    script = (
        "import logging\n"
        "from satx.commands.console import quiet_libraries\n"
        "from satx.sat_xception import show_messages_from\n"
        f"quiet_libraries()\nshow_messages_from({number})\n"
        "for place, letter in enumerate('abcde', 1):\n    logging.getLogger('satx.x').log(10 * place, letter)\n"
    )
    process = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=environment(ROOT),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "".join(line[-1] for line in process.stderr.splitlines()) == shown
