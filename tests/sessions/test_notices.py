"""Tests of what a user is told before and after the tiles are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from projects import TINY_SWEEP, make_project

from satx.commands.console import out
from satx.commands.sweep_plan import print_plan
from satx.errors import DataError
from satx.planning.plan import plan_sweep
from satx.search.space import SweepConfig
from satx.session_config import load_session
from satx.sessions.prepare import SessionRequest, notices_ahead, prepare, prepare_folder
from satx.tiles.layout import read_split_folders


def test_a_sample_is_announced_before_it_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_project(tmp_path / "project"))
    (notice,) = notices_ahead(SessionRequest("2"))
    assert "SAMPLE session" in notice and "DATA=DIR" in notice
    assert notices_ahead(SessionRequest("2", data=tmp_path)) == ()
    (tmp_path / "project/data/session2").mkdir(parents=True)
    assert notices_ahead(SessionRequest("2")) == ()


def test_a_named_session_without_a_folder_cannot_be_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(tmp_path / "project")
    text = (project / "experiments/session2.yaml").read_text()
    (project / "experiments/sessioncoast.yaml").write_text(text.replace('session: "2"', "session: coast"))
    monkeypatch.chdir(project)
    with pytest.raises(DataError, match="found no folder"):
        notices_ahead(SessionRequest("coast"))


def test_tiles_that_are_not_used_are_told_with_their_reasons(
    tiny_tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_HOME", str(tmp_path / "home"))
    folder = Path(shutil.copytree(tiny_tiles, tmp_path / "tiles"))
    request = SessionRequest("2", folder, "none", 32)
    assert not any("not used" in notice for notice in prepare(request, ()).notices)
    (folder / "README").write_text("no tile")
    shutil.copy(sorted((folder / "test").rglob("*.jpg"))[0], folder / "loose.jpg")
    (told,) = (notice for notice in prepare(request, ()).notices if "not used" in notice)
    assert "1 not listed in tiles.csv (loose.jpg)" in told and f"`satx data check {folder}` says why" in told


def test_split_folders_of_other_names_are_told_about_without_a_command_that_cannot_read_them(
    tiny_tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SATX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(out, "_file", None)
    train, valid = (Path(shutil.copytree(tiny_tiles / name, tmp_path / f"my {name}")) for name in ("train", "valid"))
    sorted((train / "school").iterdir())[0].write_bytes(b"not an image")
    request = SessionRequest("2", None, "none", 32)
    prepared = prepare_folder(read_split_folders(train, valid), load_session("2"), request, ("mobilenetv2",))
    (told,) = (notice for notice in prepared.notices if "not used" in notice)
    config = SweepConfig.model_validate(TINY_SWEEP)
    print_plan("study", prepared, config, plan_sweep(prepared, config, 2), 0, None)
    plan = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "1 broken (train/school/" in told and "tile problems 1; train/school/" in plan
    assert "satx data check" not in told + plan
