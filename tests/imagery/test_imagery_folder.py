"""Tests of folders of tiles: which files are listed, and what is said of those that cannot be read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from imagery_sources import COLUMNS, ROWS, ZOOM, files_of_tiles, folder_of, png, shown, tile_at

from satx.errors import ConfigError, DataError
from satx.imagery.contract import BROKEN, FAILED, MISSING, UNKNOWN, Fetched, Tile, Unscored
from satx.imagery.folder import list_files, open_folder, open_folder_template

PICTURE = png(np.zeros((4, 4, 3), np.uint8))


def written(folder: Path, *names: str, data: bytes = PICTURE) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def fetched(folder: Path, *names: str) -> list[Fetched]:
    imagery = open_folder(folder)
    found = list(imagery.fetch(Tile(name, UNKNOWN, UNKNOWN, UNKNOWN) for name in names))
    imagery.close()
    return found


def test_files_are_listed_by_name_in_plain_order_without_hidden_ones(tmp_path: Path) -> None:
    names = ["a/10.jpg", "a/9.jpg", "a.jpg", "a-b/1.PNG", "Z/ä.webp", "a/deep/er/x.tif"]
    written(tmp_path / "tiles", *names, ".hidden.jpg", ".git/a.jpg", "__MACOSX/a.jpg")
    assert list_files(tmp_path / "tiles") == sorted(names)
    assert list_files(tmp_path / "tiles" / "..") == sorted(f"tiles/{name}" for name in names)


def test_links_are_followed_once_and_back_to_the_folder_itself_never(tmp_path: Path) -> None:
    folder = written(tmp_path / "tiles", "a/1.jpg")
    written(tmp_path / "elsewhere", "2.jpg")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder)
    (folder / "a" / "3.jpg").symlink_to(tmp_path / "elsewhere" / "2.jpg")
    assert list_files(folder) == ["a/1.jpg", "a/3.jpg", "linked/2.jpg"]


def test_files_without_the_ending_of_an_image_are_tiles_if_some_of_them_are(tmp_path: Path) -> None:
    folder = written(tmp_path, "a/1", "a/2", "b/1.jpg", "c/1.tile")
    written(folder, "a/3", "tiles.csv", "notes.txt", "LICENSE.md", "c/2.tile", data=b"no picture")
    assert list_files(folder) == ["a/1", "a/2", "a/3", "b/1.jpg", "c/1.tile", "c/2.tile"]


def test_few_files_are_opened_of_an_ending_that_is_none_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, *(f"{number:03}.txt" for number in range(100)), data=b"no picture")
    written(tmp_path, *(f"{number:03}.jpg" for number in range(100)))
    opened, real = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, *rest: opened.append(path.name) or real(path, *rest))
    assert len(list_files(tmp_path)) == 100
    assert opened == [f"{number:03}.txt" for number in range(16)]


def test_a_folder_without_tiles_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    written(tmp_path, "a.csv", "b.csv", "README", data=b"no picture")
    with pytest.raises(DataError, match=r"expected images of tiles, got 2 \.csv, 1 without ending"):
        list_files(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="got no files"):
        list_files(tmp_path / "empty")
    with pytest.raises(DataError, match="expected a folder of tiles, got a file"):
        list_files(tmp_path / "a.csv")
    with pytest.raises(DataError, match="got nothing"):
        list_files(tmp_path / "none")


def test_a_name_that_is_not_utf_8_is_an_error_that_shows_it(tmp_path: Path) -> None:
    written(tmp_path, "a.jpg")
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(PICTURE)
    with pytest.raises(DataError, match=r"names of files in UTF-8, got caf\\xe9\.jpg"):
        list_files(tmp_path)


def test_what_a_file_gives_depends_on_why_it_cannot_be_read(tmp_path: Path) -> None:
    folder = written(tmp_path, "a.jpg", "gone.jpg", "b/c.jpg")
    names = list_files(folder)
    (folder / "gone.jpg").unlink()
    shutil.rmtree(folder / "b")
    written(folder, "b", data=b"a file in place of the folder")
    (folder / "loop.jpg").symlink_to("loop.jpg")  # reading it is an error of the system, as on a broken disk
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    found = fetched(folder, *names, "loop.jpg", "folder.jpg", "pipe.jpg")
    assert found == [
        PICTURE,
        Unscored(MISSING, "no such file"),
        Unscored(MISSING, "no such file"),
        Unscored(FAILED, "cannot be read (Too many levels of symbolic links)"),
        Unscored(BROKEN, "not a regular file"),
        Unscored(BROKEN, "not a regular file"),
    ]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_vanishes_is_an_error_and_not_millions_of_missing_tiles(tmp_path: Path, replaced: bool) -> None:
    folder = folder_of(files_of_tiles(), tmp_path / "tiles")
    tiles = [tile_at(x, y) for x in COLUMNS for y in ROWS]
    for imagery in (open_folder(folder), open_folder_template(f"{folder}/{{z}}/{{x}}/{{y}}.png")):
        folder.rename(tmp_path / "away")
        if replaced:
            folder.mkdir()
        with pytest.raises(DataError, match="vanished, or its disk was removed"):
            list(imagery.fetch(tiles))
        imagery.close()
        shutil.rmtree(folder, ignore_errors=True)
        (tmp_path / "away").rename(folder)


def test_a_folder_that_is_not_there_is_an_error_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="whether its disk is mounted"):
        open_folder(tmp_path / "none")
    with pytest.raises(DataError, match="none: expected a folder of tiles"):
        open_folder_template(f"{tmp_path}/none/{{z}}/{{x}}/{{y}}.png")


def test_a_template_finds_files_by_place_with_rows_from_the_north_or_the_south(tmp_path: Path) -> None:
    files = files_of_tiles()
    folder = folder_of(files, tmp_path / "xyz")
    upside_down = {(x, 2**ZOOM - 1 - y): data for (x, y), data in files.items()}
    folder_of(upside_down, tmp_path / "tms")
    for template in (f"{folder}/{{z}}/{{x}}/{{y}}.png", f"{tmp_path}/tms/{{z}}/{{x}}/{{-y}}.png"):
        imagery = open_folder_template(template)
        assert [shown(one) for one in imagery.fetch(tile_at(*place) for place in files)] == list(
            map(shown, files.values())
        )
        assert str(tmp_path) not in str(imagery.identity)
        imagery.close()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("/tmp/{x}/{y}.jpg", r"\{z\} is missing"),
        ("/tmp/{z}/{y}.jpg", r"\{x\} is missing"),
        ("/tmp/{z}/{x}.jpg", r"\{y\} is missing"),
        ("/tmp/{z}.jpg", r"\{x\} and \{y\} are missing"),
        ("/tmp/{z}/{x}/{Y}.jpg", r"unknown placeholder \{Y\}"),
    ],
)
def test_a_template_without_a_placeholder_is_refused_by_its_name(template: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        open_folder_template(template)
