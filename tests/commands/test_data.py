"""Tests of `satx data check` and `satx data sample`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from satx.commands.console import err, out
from satx.commands.data import check_command, sample_command
from satx.errors import DataError
from satx.tiles.layout import read_layout
from satx.tiles.store import build_store


@pytest.fixture(autouse=True)
def talk_as_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "_file", None)
    monkeypatch.setattr(err, "_file", None)


def test_good_tiles_are_counted_in_a_table(tiny_tiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_command(tiny_tiles, image_size_px=None, as_json=False)
    printed = capsys.readouterr().out
    assert "not-school" in printed
    assert "train" in printed and "valid" in printed and "test" in printed
    assert f"satx sweep --session 2 --data {tiny_tiles}" in printed


def test_the_next_command_is_right_for_a_folder_of_any_name(tiny_tiles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine & 'yours' $HOME"
    shutil.copytree(tiny_tiles, folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        check_command(folder, image_size_px=None, as_json=False)
    (line,) = [line for line in printed.getvalue().splitlines() if " sweep --session 2" in line]
    assert shlex.split(line, comments=True)[1:] == ["sweep", "--session", "2", "--data", str(folder)]


def test_a_broken_tile_is_named_in_table_and_json(
    tiny_tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiles"
    shutil.copytree(tiny_tiles, folder)
    victim = sorted((folder / "train").rglob("*.*g"))[0]
    victim.write_bytes(victim.read_bytes()[:100])
    check_command(folder, image_size_px=None, as_json=False)
    assert victim.name in capsys.readouterr().out
    check_command(folder, image_size_px=None, as_json=True)
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["num_tiles"] == 120
    assert any(problem["relative"].endswith(victim.name) for problem in answer["problems"])
    assert sum(answer["counts"].values()) == 119
    assert (answer["sizes_px"], answer["formats"]) == ({"256x256": 119}, {"JPEG": 119})
    assert answer["unused"] == {"broken": [victim.relative_to(folder).as_posix()]}


def test_files_that_are_not_used_are_listed_with_the_reason_and_an_example(
    tiny_tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiles"
    shutil.copytree(tiny_tiles, folder)
    shutil.copy(sorted((folder / "test").rglob("*.jpg"))[0], folder / "train" / "[bold]left over.jpg")
    check_command(folder, image_size_px=600, as_json=False)
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Files that are not used" in printed and "[bold]left over.jpg" in printed
    assert "not listed in tiles.csv" in printed
    assert "smaller than half of the 600 px" in printed


def test_tiles_saved_under_a_name_that_is_not_utf_8_are_checked_and_stored(
    tiny_tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiles"
    shutil.copytree(tiny_tiles, folder, ignore=shutil.ignore_patterns("tiles.csv", "SATX*"))
    path = sorted((folder / "train/school").iterdir())[0]
    path.rename(path.with_name(os.fsdecode(b"caf\xe9.jpg")))
    hidden = folder / os.fsdecode(b".\xff")
    hidden.write_bytes(b"x")
    check_command(folder, image_size_px=None, as_json=False)
    assert ".\\xff" in capsys.readouterr().out
    check_command(folder, image_size_px=None, as_json=True)
    assert json.loads(capsys.readouterr().out)["unused"] == {"hidden": [".\\xff"]}
    store = build_store(read_layout(folder), image_size_px=32, cache_dir=tmp_path / "cache")
    assert "train/school/caf\\xe9.jpg" in set(store.index["relative"])


def test_a_folder_that_a_sweep_would_refuse_is_reported_then_refused(
    tiny_tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiles"
    shutil.copytree(tiny_tiles, folder)
    for victim in sorted((folder / "train").rglob("*.*g"))[:12]:
        victim.write_bytes(b"no image " + victim.name.encode())
    with pytest.raises(DataError):
        check_command(folder, image_size_px=None, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["problems"]) >= 12


def test_a_missing_an_empty_and_a_text_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no tile")
    for name in ("missing", "empty", "texts"):
        with pytest.raises(DataError, match=name):
            check_command(tmp_path / name, image_size_px=None, as_json=False)


def test_a_sample_is_rendered_and_marked_as_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample_command(tmp_path / "sample", session=1, num_tiles=40)
    printed = capsys.readouterr().out
    assert f"satx data check {tmp_path / 'sample'}" in printed.replace("\n", "")
    folder = read_layout(tmp_path / "sample")
    assert folder.sample
    assert abs(len(folder.files) - 40) <= 2  # the numbers of tiles per class and split are rounded
