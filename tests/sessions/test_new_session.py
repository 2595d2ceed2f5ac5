"""Tests of `satx session new`: the folder, the manifest, what is left out, and what is refused."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest
import yaml
from tiles.folders import image_bytes, noise_image

from satx.errors import ConfigError, DataError
from satx.session_config import load_session
from satx.sessions.lineage import open_manifest
from satx.sessions.linked import CARRIED, placed
from satx.sessions.verified import Tile
from satx.storage import file_digest
from satx.tiles.layout import SAMPLE_MARKER, TileFile, read_layout
from sessions.small_sessions import (
    SESSION_TILES,
    decision,
    first_session,
    imported,
    made,
    manifest,
    picture_at,
    row,
    write_folder,
    write_table,
)

MORE = {"train/school/new.png": 900, "train/not-school/new.png": 901, "valid/school/new.png": 902}


def test_a_session_has_its_parents_tiles_and_more_and_says_why(project: Path) -> None:
    first = first_session(project).manifest
    done = made("3", add=write_folder(project / "more", MORE), reason="found on the map", author="Grace")
    session, manifest = open_manifest("3")
    assert manifest == done.manifest and manifest.parent_digest == first.digest
    assert {one.path for one in manifest.rows} == {*SESSION_TILES, *MORE}
    new, old = picture_at(manifest, "valid/school/new.png"), picture_at(manifest, "train/school/0.png")
    assert (new.reason, new.author, new.source) == ("found on the map", "Grace", "more")
    assert (old.reason, old.author) == ("imported from session1", "Ada")
    folder = read_layout(project / "data/session3")
    assert {(file.relative, file.label, file.split) for file in folder.files} == {
        (one.path, one.label, one.split) for one in manifest.rows
    }
    for one in manifest.rows:
        assert file_digest(folder.root / one.path) == one.file_sha256
    assert (folder.root / "train/school/0.png").samefile(project / "data/session1/train/school/0.png")
    assert session.data_dir == "data/session3" and session.task == load_session("1").task
    assert done.folder == folder.root and done.left_out == {}


def test_settings_of_the_parent_are_kept(project: Path) -> None:
    path = project / "experiments/session1.yaml"
    path.write_text(path.read_text() + "allow_embedding: false\n")
    first_session(project)
    made("3", add=write_folder(project / "more", MORE))
    before, after = (yaml.safe_load((project / f"experiments/session{name}.yaml").read_text()) for name in "13")
    assert {key: value for key, value in after.items() if key not in ("session", "data_dir", "manifest")} == {
        key: value for key, value in before.items() if key not in ("session", "data_dir", "manifest")
    }
    assert (after["allow_embedding"], after["session"]) == (False, "3")


def test_decisions_drop_and_relabel_and_are_kept_beside_the_manifest(project: Path) -> None:
    first = first_session(project).manifest
    dropped, other = picture_at(first, "train/school/0.png"), picture_at(first, "train/not-school/1.png")
    unclear = picture_at(first, "valid/school/1.png")
    lines = [
        decision(dropped.pixel_sha256, "drop", session_digest=first.digest),
        decision(other.pixel_sha256, "relabel", label="school", session_digest=first.digest),
        decision(unclear.pixel_sha256, "unrecognised", reason="clouds", session_digest=first.digest),
    ]
    path = write_table(project, lines, "decisions.csv")
    done = made("3", decisions=path)
    rows = done.manifest.by_picture
    assert dropped.pixel_sha256 not in rows and unclear.pixel_sha256 not in rows
    assert (rows[other.pixel_sha256].label, rows[other.pixel_sha256].reason) == ("school", "blurred")
    assert len(read_layout(done.folder).files) == len(SESSION_TILES) - 2
    copy = project / "experiments/session3-decisions.csv"
    assert "clouds" in copy.read_text()
    config = load_session("3").manifest
    assert config is not None and config.decisions_sha256 == file_digest(copy)
    shutil.copy(write_table(project, lines[::-1], "reversed.csv"), path)
    made("4", decisions=path)
    assert (project / "experiments/session4-decisions.csv").read_bytes() == copy.read_bytes()


def test_tiles_that_the_parent_has_are_skipped_with_their_reason(project: Path) -> None:
    first_session(project)
    again = {"train/school/again.png": SESSION_TILES["train/school/0.png"]}
    leak = {"train/school/leak.png": SESSION_TILES["test/school/0.png"]}
    copies = {"train/school/copy.png": MORE["train/school/new.png"]}
    done = made("3", add=write_folder(project / "more", MORE | again | leak | copies))
    assert done.left_out == {
        "copies of another": 1,
        "in test of session 1 already": 1,
        "in train of session 1 already": 1,
    }
    assert len(done.manifest.rows) == len(SESSION_TILES) + len(MORE)


def test_a_folder_of_one_split_and_one_class_can_be_added(project: Path) -> None:
    first_session(project)
    done = made("3", add=write_folder(project / "more", {"train/school/new.png": 900}))
    assert len(done.manifest.rows) == len(SESSION_TILES) + 1


def test_test_tiles_and_decisions_about_them_need_a_new_version(project: Path) -> None:
    first = first_session(project).manifest
    add = write_folder(project / "more", {"test/school/new.png": 900})
    with pytest.raises(ConfigError, match=r"1 added .*--new-test-version"):
        made("3", add=add)
    tile = picture_at(first, "test/school/0.png")
    lines = [decision(tile.pixel_sha256, session_digest=first.digest)]
    path = write_table(project, lines, "decisions.csv")
    with pytest.raises(ConfigError, match=r"1 taken out \(test/school/0.png\)"):
        made("3", decisions=path)
    assert not (project / "experiments/session3.yaml").exists() and not (project / "data/session3").exists()
    assert made("3", add=add, decisions=path, new_test_version=True).manifest.test_version == 2
    more = write_folder(project / "again", {"train/school/more.png": 990})
    assert made("4", parent="3", add=more).manifest.test_version == 2


def test_coordinates_and_attribution_go_with_the_tiles(project: Path) -> None:
    first_session(project)
    add = write_folder(
        project / "more", {"tiles/school/a.png": 900, "tiles/school/b.png": 901, "tiles/school/c.png": 902}
    )
    common = {"label": "school", "slice": "urban", "lon": "7.1", "status": "done", "left_out": ""}
    lines = [
        common
        | {
            "path": "tiles/school/a.png",
            "split": "train",
            "source": "https://example.org/{z}",
            "attribution": "© some",
        },
        common | {"path": "tiles/school/b.png", "split": "", "source": "", "attribution": "", "left_out": "near test"},
        common | {"path": "", "split": "", "source": "", "attribution": "", "status": "missing"},
    ]
    write_table(add, lines)
    done = made("3", add=add)
    assert done.left_out == {"left out by `satx data split`": 1}
    with (done.folder / "tiles.csv").open(newline="") as stream:
        rows = {one["path"]: one for one in csv.DictReader(stream)}
    assert list(rows["train/school/a.png"]) == ["path", "label", "split", "slice", "lon", "source", "attribution"]
    assert rows["train/school/a.png"]["attribution"] == "© some" and rows["train/school/0.png"]["lon"] == ""
    assert picture_at(done.manifest, "train/school/a.png").source == "https://example.org/{z}"
    later = made("4", parent="3", add=write_folder(project / "again", {"train/school/more.png": 990}))
    assert "© some" in (later.folder / "tiles.csv").read_text()
    assert "status" not in CARRIED and "reason" not in CARRIED  # a line without a status counts as done


@pytest.mark.parametrize(
    ("tiles", "lines", "said"),
    [
        ({"school/a.png": 900}, [], "expected a split for each tile to add, got 1 without: school/a.png"),
        ({"a.png": 900}, [{"path": "a.png", "label": "", "split": "train"}], "expected a class for each tile to add"),
        ({"train/clinic/a.png": 900}, [], "got no clinic in valid"),
        ({"train/school/a.png": 900, "valid/school/b.png": 900}, [], "got 1 that have two"),
        (
            {"train/not-school/a.png": 10},
            [],
            "train/not-school/a.png is not-school, there train/school/0.png is school",
        ),
    ],
)
def test_tiles_that_cannot_be_added_are_refused(
    project: Path, tiles: dict[str, int], lines: list[dict[str, str]], said: str
) -> None:
    first_session(project)
    add = write_folder(project / "more", tiles)
    if lines:
        write_table(add, lines)
    with pytest.raises(DataError, match=said):
        made("3", add=add)
    assert not (project / "data/session3").exists() and not (project / "experiments/session3.csv").exists()


def test_a_session_is_made_once_and_of_something(project: Path) -> None:
    first_session(project)
    add = write_folder(project / "more", MORE)
    with pytest.raises(ConfigError, match="got neither"):
        made("3")
    made("3", add=add)
    with pytest.raises(ConfigError, match="Session 3 exists already"):
        made("3", add=add)
    (project / "data/session4").mkdir()
    (project / "data/session4/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="session4: expected no folder"):
        made("4", add=add)
    with pytest.raises(ConfigError, match="expected a file elsewhere than"):
        made("5", add=add, decisions=project / "experiments/session5-decisions.csv")


def test_a_session_that_no_run_has_used_can_be_replaced_and_its_tiles_are_set_aside(project: Path) -> None:
    first = first_session(project).manifest
    write_table(project, [decision(first.rows[0].pixel_sha256, "keep", session_digest=first.digest)], "decisions.csv")
    before = made("3", add=write_folder(project / "more", MORE), decisions=project / "decisions.csv")
    after = made("3", add=write_folder(project / "less", {"train/school/x.png": 950}), replaces=True)
    assert open_manifest("3")[1] == after.manifest != before.manifest
    assert after.set_aside is not None and len(read_layout(after.set_aside).files) == len(before.manifest.rows)
    assert len(read_layout(project / "data/session3").files) == len(after.manifest.rows)
    assert not (project / "experiments/session3-decisions.csv").exists()
    with pytest.raises(ConfigError, match="which has no manifest"):
        made("2", add=project / "more", replaces=True)


def test_tiles_of_the_parent_that_changed_are_refused(project: Path) -> None:
    first_session(project)
    (project / "data/session1/train/school/0.png").write_bytes(image_bytes(noise_image(77)))
    with pytest.raises(DataError, match=r"1 changed or damaged \(train/school/0.png\)"):
        made("3", add=write_folder(project / "more", MORE))
    shutil.rmtree(project / "data/session1")
    with pytest.raises(DataError, match="expected the tiles of session 1, found no folder"):
        made("3", add=project / "more")


def test_names_that_other_systems_refuse_or_that_are_taken_get_digits_of_the_picture(project: Path) -> None:
    tiles = {path.replace("train/school/0", "train/school/deep/NEW"): seed for path, seed in SESSION_TILES.items()}
    imported("1", write_folder(project / "data/session1", tiles))
    done = made("3", add=write_folder(project / "more", MORE | {"train/school/what is this?.png": 905}))
    schools = [one for one in done.manifest.rows if one.path.startswith("train/school/")]
    assert len(schools) == len({one.path.lower() for one in schools}) == 5
    names = {one.path.removeprefix("train/school/").replace(one.pixel_sha256[:16], "#").lower() for one in schools}
    assert names == {"1.png", "2.png", "new.png", "new-#.png", "#.png"}
    assert all((done.folder / one.path).is_file() for one in schools)


@pytest.mark.parametrize("names", [("NEW.png", "new.png"), ("new.png", "NEW.png")])
def test_names_that_differ_in_case_only_are_told_apart(tmp_path: Path, names: tuple[str, str]) -> None:
    rows = [row(number, path=name) for number, name in enumerate(names, start=1)]
    files = {
        one.pixel_sha256: (tmp_path, Tile(TileFile(tmp_path / one.path, one.path, "school", "train", ""), "0" * 64))
        for one in rows
    }
    found = [tile.relative for tile in placed(manifest(*rows), files).values()]
    stem, _, ending = names[1].partition(".")
    assert found == [f"train/school/{names[0]}", f"train/school/{stem}-{rows[1].pixel_sha256[:16]}.{ending}"]


def test_tiles_are_copied_where_they_cannot_be_linked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_session(project)

    def refused(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    done = made("3", add=write_folder(project / "more", MORE))
    assert not (done.folder / "train/school/0.png").samefile(project / "data/session1/train/school/0.png")
    assert len(read_layout(done.folder).files) == len(done.manifest.rows)


def test_rendered_tiles_stay_marked_and_are_not_mixed_with_real_ones(project: Path) -> None:
    folder = write_folder(project / "data/session1", SESSION_TILES)
    (folder / SAMPLE_MARKER).write_text("{}")
    imported("1", folder)
    add = write_folder(project / "more", MORE)
    with pytest.raises(DataError, match="expected rendered tiles, as session 1 has, got real ones"):
        made("3", add=add)
    (add / SAMPLE_MARKER).write_text("{}")
    assert read_layout(made("3", add=add).folder).sample
