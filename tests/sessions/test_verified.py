"""Tests of what a sweep, a training and `satx tune` ask first: whether the tiles are those of the session's manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from projects import ROOT, with_databases
from tiles.folders import image_bytes, noise_image

import satx.sessions.verified
from satx.errors import ConfigError, DataError
from satx.session_config import load_session
from satx.sessions.manifest import Manifest, manifest_text, sorted_rows
from satx.sessions.prepare import PreparedSession, SessionRequest, notices_ahead, prepare
from satx.sessions.session_file import manifest_of, with_manifest
from satx.storage import write_text
from satx.tiles.check import digest_files
from sessions.small_sessions import SESSION_TILES, first_session, imported, write_folder, write_table


def prepared(data: Path | None = None) -> PreparedSession:
    return prepare(SessionRequest("1", data, "none", 32), ())


@pytest.fixture
def tiles(project: Path) -> Path:
    """Import a first session; return the folder of its tiles."""
    first_session(project)
    return project / "data/session1"


def test_a_session_with_its_tiles_is_prepared_and_no_file_is_read_twice(
    tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(satx.sessions.verified, "read_pictures", lambda files, *_: read.append(len(files)) or [])
    monkeypatch.setattr(
        satx.sessions.verified, "digest_files", lambda files, *_: read.append(len(files)) or digest_files(files)
    )
    store = prepared().store
    assert len(store.index) == len(SESSION_TILES)
    assert sum(read) == 0  # the digests of the store decided


def changed(folder: Path) -> None:
    (folder / "train/school/0.png").write_bytes(image_bytes(noise_image(77)))


def missing(folder: Path) -> None:
    (folder / "train/school/0.png").unlink()


def extra(folder: Path) -> None:
    write_folder(folder, {"train/school/extra.png": 990})


def relabelled(folder: Path) -> None:
    (folder / "train/school/0.png").rename(folder / "train/not-school/from-school.png")


def moved(folder: Path) -> None:
    (folder / "train/school/0.png").rename(folder / "valid/school/from-train.png")


def replaced_by_a_copy(folder: Path) -> None:
    shutil.copy(folder / "train/school/1.png", folder / "train/school/0.png")


def exchanged_for_a_test_tile(folder: Path) -> None:
    shutil.copy(folder / "test/school/1.png", folder / "train/school/0.png")


def resliced(folder: Path) -> None:
    lines = [
        {"path": path, "split": path.split("/")[0], "label": path.split("/")[1], "slice": ""} for path in SESSION_TILES
    ]
    write_table(folder, [line | {"slice": "urban" if line["path"] == "train/school/0.png" else ""} for line in lines])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed, r"1 changed or damaged \(train/school/0.png\)"),
        (missing, r"1 missing \(train/school/0.png\)"),
        (extra, r"got 1 more: train/school/extra.png"),
        (relabelled, r"from-school.png is train, not-school, no slice, not train, school, no slice"),
        (moved, r"from-train.png is valid, school, no slice, not train, school, no slice"),
        (replaced_by_a_copy, r"1 changed or damaged \(train/school/0.png\)"),
        (exchanged_for_a_test_tile, r"1 changed or damaged \(train/school/0.png\)"),
        (resliced, r"0.png is train, school, urban, not train, school, no slice"),
    ],
)
def test_a_folder_that_is_not_the_manifests_is_refused(tiles: Path, change: Callable[[Path], None], said: str) -> None:
    prepared()  # the store of the right tiles does not stand for the wrong ones
    change(tiles)
    with pytest.raises(DataError, match=said) as refused:
        prepared()
    assert "satx session new N --from" in str(refused.value)


def test_a_damaged_tile_among_many_is_refused(project: Path) -> None:
    many = {f"train/school/more{number}.png": 2000 + number for number in range(30)}
    imported("1", write_folder(project / "data/session1", SESSION_TILES | many))
    (project / "data/session1/train/school/0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"1 changed or damaged \(train/school/0.png\)"):
        prepared()


def test_the_same_pictures_in_other_files_and_under_other_names_are_the_same_session(
    tiles: Path, tmp_path: Path
) -> None:
    before = prepared().store
    with Image.open(tiles / "train/school/0.png") as image:
        image.save(tiles / "train/school/0.bmp")  # without loss
    (tiles / "train/school/0.png").unlink()
    store = prepared().store
    assert len(store.index) == len(before.index) and set(store.index["content_digest"]) == set(
        before.index["content_digest"]
    )
    (tiles / "valid/school/0.png").unlink()
    write_folder(tiles, {"valid/school/0.png": 7777})
    with pytest.raises(DataError, match=r"1 changed or damaged \(valid/school/0.png\)"):
        prepared()
    elsewhere = {path.replace(".png", ".renamed.png"): seed for path, seed in SESSION_TILES.items()}
    other = prepared(write_folder(tmp_path / "elsewhere", elsewhere)).store
    assert set(other.index["content_digest"]) == set(before.index["content_digest"])
    (tmp_path / "elsewhere/train/school/0.renamed.png").unlink()
    with pytest.raises(DataError, match=r"1 missing"):
        prepared(tmp_path / "elsewhere")


def test_copies_and_files_that_are_no_tiles_do_not_train_and_are_told(project: Path) -> None:
    folder = write_folder(
        project / "data/session1", SESSION_TILES | {"train/school/copy.png": SESSION_TILES["train/school/0.png"]}
    )
    (folder / "train/school/notes.txt").write_text("no tile")
    imported("1", folder)
    ready = prepared()
    assert len(ready.store.index) == len(SESSION_TILES)
    assert any("copy.png" in notice and "not in the session's manifest" in notice for notice in ready.notices)


def test_a_missing_folder_is_not_replaced_by_rendered_tiles(tiles: Path) -> None:
    shutil.rmtree(tiles)
    for ask in (lambda: notices_ahead(SessionRequest("1")), prepared):
        with pytest.raises(DataError, match="expected the tiles of session1, found no folder"):
            ask()


def test_a_manifest_edited_by_hand_and_a_parent_that_is_missing_stop_a_sweep(tiles: Path, project: Path) -> None:
    table = project / "experiments/session1.csv"
    text = table.read_text()
    table.write_text(text.replace(",train,", ",valid,", 1))
    with pytest.raises(DataError, match=r"session1.csv was changed"):
        prepared()
    table.write_text(text)
    imported("9", tiles, parent="1")
    imported("10", tiles, parent="9")
    request = SessionRequest("10", None, "none", 32)
    prepare(request, ())
    (project / "experiments/session9.yaml").unlink()
    with pytest.raises(ConfigError, match=r"session10.yaml: expected its parent, session 9, which cannot be read"):
        prepare(request, ())


def test_sweep_train_and_tune_refuse_tiles_that_changed(
    tiles: Path, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from satx.commands.sweep import sweep_command
    from satx.commands.train import train_command
    from satx.commands.tune import tune_command

    with_databases(home, tmp_path_factory.getbasetemp())
    changed(tiles)
    request = SessionRequest("1", None, "none", 96)
    options = {"minutes": None, "workers": 1, "order": None, "dry_run": True, "as_json": False}
    calls: list[Callable[[], object]] = [
        lambda: sweep_command(request, sweep_name="quick", trials=1, **options),
        lambda: train_command(request, values={"model.backbone": "mobilenetv2"}, from_run=None),
        lambda: tune_command(ROOT / "sweeps/hypermodel.py", request, trials=1, epochs=1, batch_size=8),
    ]
    for call in calls:
        with pytest.raises(DataError, match=r"1 changed or damaged \(train/school/0.png\)"):
            call()


def record_run(session: str, ready: PreparedSession) -> Any:
    """Log a run on a prepared session, as a sweep does."""
    from satx.tracking.client import experiment_id, open_tracker
    from satx.tracking.provenance import inputs_tag

    client = open_tracker()
    experiment = experiment_id(client, session)
    tags = inputs_tag(ready.session, ready.store.folder, {})
    manifest = ready.session.manifest
    assert tags.get("manifest_digest") == (manifest and manifest.digest)  # MLflow shows it
    return client.create_run(experiment, tags=tags)


def other_manifest(project: Path) -> None:
    """Write another manifest of the same folder over the first, with a digest that fits."""
    session = load_session("1")
    assert session.manifest is not None
    from satx.sessions.manifest import load_manifest

    rows = load_manifest(session.manifest).rows
    changed = Manifest(sorted_rows(rows), test_version=2)
    yaml = project / "experiments/session1.yaml"
    text = yaml.read_text()
    write_text(project / "experiments/session1.csv", manifest_text(changed))
    start = text.index("# Written by")
    yaml.write_text(with_manifest("1", text[:start], manifest_of("1", changed), data_dir="data/session1"))


def test_a_session_whose_runs_recorded_another_manifest_is_refused(
    tiles: Path, project: Path, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from satx.sessions.used import recorded_digest
    from satx.tracking.client import open_tracker

    with_databases(home, tmp_path_factory.getbasetemp())
    ready = prepared()
    assert recorded_digest("session1") is None
    run = record_run("session1", ready)
    assert ready.session.manifest is not None
    assert recorded_digest("session1") == ready.session.manifest.digest
    prepared()
    other_manifest(project)
    said = rf"session1 was trained with the manifest {ready.session.manifest.digest[:12]}…; now it has"
    with pytest.raises(ConfigError, match=said):
        prepared()
    open_tracker().delete_run(run.info.run_id)
    prepared()


def test_runs_without_a_manifest_do_not_count(
    tiles: Path, project: Path, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from dataclasses import replace

    from satx.sessions.used import recorded_digest

    with_databases(home, tmp_path_factory.getbasetemp())
    ready = prepared()
    record_run("session1", replace(ready, session=ready.session.model_copy(update={"manifest": None})))
    assert recorded_digest("session1") is None
    prepared()
