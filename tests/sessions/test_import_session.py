"""Tests of the import of a folder: its manifest, its YAML, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from satx.errors import ConfigError, DataError
from satx.session_config import load_session
from satx.sessions.lineage import open_manifest
from satx.storage import file_digest
from sessions.small_sessions import SESSION_TILES, first_session, imported, picture_at, write_folder, write_table


def test_a_folder_becomes_a_session_and_stays_as_it_is(project: Path) -> None:
    before = (project / "experiments/session1.yaml").read_text()
    done = first_session(project)
    session, manifest = open_manifest("1")
    assert manifest == done.manifest and session.manifest is not None
    assert [row.path for row in sorted(manifest.rows, key=lambda row: row.path)] == sorted(SESSION_TILES)
    one = picture_at(manifest, "train/school/0.png")
    assert one.file_sha256 == file_digest(project / "data/session1" / one.path)
    assert (one.label, one.split, one.source, one.reason, one.author) == (
        "school", "train", "session1", "imported from session1", "Ada",
    )  # fmt: skip
    assert (manifest.parent, manifest.test_version) == (None, 1)
    after = (project / "experiments/session1.yaml").read_text()
    assert after.startswith(before)  # comments and settings
    assert yaml.safe_load(after) == yaml.safe_load(before) | {
        "manifest": session.manifest.model_dump(exclude_none=True)
    }


def test_a_session_without_a_yaml_gets_one(project: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "elsewhere", SESSION_TILES)
    imported("coast", folder, task="schools-of-the-coast")
    session = load_session("coast")
    assert (session.task, session.positive_class, session.data_dir) == ("schools-of-the-coast", "school", str(folder))
    assert session.experiment_name == "coast"
    imported("7", write_folder(project / "data/mine", SESSION_TILES), parent="coast")
    child = load_session("7")
    assert (child.task, child.data_dir) == ("schools-of-the-coast", "data/mine")


def test_the_folder_of_a_session_may_be_elsewhere_if_its_own_is_missing(project: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "elsewhere", SESSION_TILES)
    before = (project / "experiments/session1.yaml").read_text()
    imported("1", folder)
    after = (project / "experiments/session1.yaml").read_text()
    assert after.startswith(before.replace("data_dir: data/session1", f"data_dir: {folder}"))
    assert load_session("1").data_dir == str(folder)


def test_a_folder_that_is_not_the_sessions_own_is_refused(project: Path, tmp_path: Path) -> None:
    write_folder(project / "data/session1", SESSION_TILES)
    folder = write_folder(tmp_path / "elsewhere", SESSION_TILES)
    with pytest.raises(ConfigError, match="expected the folder of its tiles, data/session1"):
        imported("1", folder)
    with pytest.raises(ConfigError, match="--task: expected 'school'"):
        imported("1", project / "data/session1", task="other")
    (project / "experiments/session1.yaml").write_text(
        "{session: '1', task: a, positive_class: school, data_dir: x, sweep: y}"
    )
    with pytest.raises(ConfigError, match="expected a name and a value on each line"):
        imported("1", folder)


def test_a_session_is_imported_once(project: Path) -> None:
    first_session(project)
    with pytest.raises(ConfigError, match=r"Session 1 has a manifest already.*satx session new N --from 1"):
        imported("1", project / "data/session1")


def test_pictures_of_the_parent_keep_their_reason_and_a_changed_test_split_is_a_new_version(project: Path) -> None:
    first = first_session(project).manifest
    folder = project / "data/session2"
    shutil.copytree(project / "data/session1", folder)
    write_folder(folder, {"train/school/new.png": 990})
    (folder / "train/not-school/0.png").rename(folder / "train/school/was-wrong.png")
    second = imported("2", folder, parent="1", author="Grace").manifest
    kept, new = picture_at(second, "train/school/0.png"), picture_at(second, "train/school/new.png")
    relabelled = picture_at(second, "train/school/was-wrong.png")
    assert (kept.reason, kept.author) == ("imported from session1", "Ada")
    assert {(one.reason, one.author) for one in (new, relabelled)} == {("imported from session2", "Grace")}
    assert (second.parent, second.parent_digest, second.test_version) == ("1", first.digest, 1)
    third = project / "data/session3"
    shutil.copytree(folder, third)
    (third / "test/school/0.png").unlink()
    assert imported("3", third, parent="2").manifest.test_version == 2


def test_copies_are_one_picture_and_broken_files_are_left_out(project: Path) -> None:
    many = {f"train/school/more{number}.png": 2000 + number for number in range(30)}
    folder = write_folder(project / "data/session1", SESSION_TILES | many | {"train/school/copy.png": 10})
    (folder / "train/school/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "train/school/notes.txt").write_text("no tile")
    done = imported("1", folder)
    assert (done.num_copies, [one.relative for one in done.broken]) == (1, ["train/school/broken.png"])
    assert len(done.manifest.rows) == len(SESSION_TILES) + 30
    assert picture_at(done.manifest, "train/school/0.png")  # the first by name; copy.png is the copy


@pytest.mark.parametrize(
    ("tiles", "said"),
    [
        ({"test/school/leak.png": 10}, r"test/school/leak.png \(test, school\)"),
        ({"train/not-school/conflict.png": 10}, r"train/not-school/conflict.png \(train, not-school\)"),
    ],
)
def test_a_picture_with_two_splits_or_classes_is_refused_with_both_places(
    project: Path, tiles: dict[str, int], said: str
) -> None:
    folder = write_folder(project / "data/session1", SESSION_TILES | tiles)
    with pytest.raises(DataError, match=said) as refused:
        imported("1", folder)
    assert "got 1 that have two" in str(refused.value) and "train/school/0.png (train, school)" in str(refused.value)
    assert "manifest" not in (project / "experiments/session1.yaml").read_text()


def test_a_folder_of_broken_files_and_one_without_the_class_of_interest_are_refused(project: Path) -> None:
    folder = write_folder(project / "data/session1", SESSION_TILES)
    for number in (0, 1):
        (folder / f"train/school/{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"2 of 14 tiles in .* cannot be used, over 5%"):
        imported("1", folder)
    with pytest.raises(DataError, match="expected the positive class 'clinic', got not-school, school"):
        imported("9", folder, positive_class="clinic")


def test_slices_and_sources_of_a_table_are_kept(project: Path) -> None:
    folder = write_folder(project / "data/session1", SESSION_TILES)
    lines = [
        {
            "path": path,
            "split": path.split("/")[0],
            "label": path.split("/")[1],
            "slice": "urban",
            "source": "https://example.org",
        }
        for path in SESSION_TILES
    ]
    write_table(folder, lines)
    done = imported("1", folder)
    assert {(one.slice, one.source) for one in done.manifest.rows} == {("urban", "https://example.org")}


@pytest.mark.parametrize("name", ["../1", "Two", "", "a" * 60])
def test_a_name_that_no_session_can_have_is_refused(project: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="Expected the name of a session"):
        imported(name, project)


def test_outside_of_a_project_no_session_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "tiles", SESSION_TILES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="Expected the folder of a satx project"):
        imported("9", folder)
