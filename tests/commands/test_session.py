"""Tests of `satx session import|new|diff|show` on the command line, with rendered and with real tiles."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from projects import make_project, with_databases
from typer.testing import CliRunner

from satx.cli import app
from satx.commands.console import err, out
from satx.errors import ConfigError, DataError
from satx.sessions.lineage import open_manifest
from satx.sessions.prepare import SessionRequest, prepare


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(out, "_file", None)
    monkeypatch.setattr(err, "_file", None)
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def samples(tiny_tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the rendered sample as session 2, and as session 1 without some of its training tiles."""
    root = tmp_path_factory.mktemp("samples")
    for name in ("session1", "session2"):
        shutil.copytree(tiny_tiles, root / name)
    lines = read_table(root / "session1")
    gone = [line for line in lines if line["split"] == "train"][::3]
    for line in gone:
        (root / "session1" / line["path"]).unlink()
    write_table(root / "session1", [line for line in lines if line not in gone])
    return root


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "tiles.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def write_table(folder: Path, lines: list[dict[str, str]], **options: Any) -> None:
    with (folder / "tiles.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]), **options)
        writer.writeheader()
        writer.writerows(lines)


def satx(*words: str) -> str:
    out.stderr = False  # an earlier command of the same test may have printed JSON
    result = CliRunner().invoke(app, ["session", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def document(*words: str) -> Any:
    return json.loads(satx(*words, "--json"))


def words_of(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_the_sample_becomes_two_sessions_of_which_the_second_adds_tiles(project: Path, samples: Path) -> None:
    for number in "12":
        shutil.copytree(samples / f"session{number}", project / f"data/session{number}")
    said = words_of(satx("import", "1", "data/session1", "--author", "Ada"))
    assert f"Session 1: {len(read_table(samples / 'session1'))} tiles" in said and "satx sweep --session 1" in said
    done = document("import", "2", "data/session2", "--from", "1")
    first, second = (open_manifest(name)[1] for name in "12")
    assert done["parent_digest"] == first.digest and done["test_version"] == 1
    assert sum(sum(counts.values()) for counts in done["counts"].values()) == len(second.rows)
    assert set(first.by_picture) < set(second.by_picture)

    difference = document("diff", "1", "2")
    assert difference["same_test"]
    added = sum(group["added"] for group in difference["groups"])
    assert added == len(second.rows) - len(first.rows) == difference["reasons"]["imported from session2"]
    assert all(group["dropped"] == group["relabelled"] == group["moved"] == 0 for group in difference["groups"])
    said = words_of(satx("diff", "1", "2"))
    assert "scores of the two sessions can be compared" in said and "re-sliced" in said
    with Image.open(difference["picture"]) as picture:
        assert picture.format == "PNG" and np.ptp(np.asarray(picture)) > 100  # something is drawn


def test_a_session_of_a_sample_is_prepared_as_a_sample_and_shown_as_used(
    project: Path, samples: Path, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from satx.tracking.client import experiment_id, open_tracker
    from satx.tracking.provenance import inputs_tag

    with_databases(home, tmp_path_factory.getbasetemp())
    shutil.copytree(samples / "session1", project / "data/session1")
    satx("import", "1", "data/session1")
    lines = Path("decisions.csv")
    first = open_manifest("1")[1]
    tile = next(row for row in first.rows if row.split == "train")
    lines.write_text(
        "pixel_sha256,decision,label,reason,author,decided_at,session_digest\n"
        f"{tile.pixel_sha256},drop,,blurred,Ada,2026-01-31T12:00:00+00:00,{first.digest}\n"
    )
    said = words_of(satx("new", "3", "--from", "1", "--decisions", "decisions.csv"))
    assert "Since session 1: 1 dropped." in said
    ready = prepare(SessionRequest("3", None, "none", 32), ())
    assert ready.session.experiment_name == "session3-sample" and len(ready.store.index) == len(first.rows) - 1
    shown = document("show", "3")
    assert [one["session"] for one in shown["chain"]] == ["3", "1"] and shown["used_in"] == []
    assert "no run has used it" in words_of(satx("show", "3"))
    client = open_tracker()
    tags = inputs_tag(ready.session, ready.store.folder, {})
    client.create_run(experiment_id(client, ready.session.experiment_name), tags=tags)
    assert document("show", "3")["used_in"] == ["session3-sample"]
    assert "have used it, so it does not change" in words_of(satx("show", "3"))
    with pytest.raises(ConfigError, match="experiment session3-sample has runs on its tiles"):
        satx("new", "3", "--from", "1", "--decisions", "decisions.csv", "--replace")


def test_what_is_left_out_and_a_new_test_version_are_told(project: Path, samples: Path) -> None:
    shutil.copytree(samples / "session1", project / "data/session1")
    shutil.copytree(samples / "session2", project / "data/added")
    lines = read_table(project / "data/added")
    new = next(line for line in lines if not (project / "data/session1" / line["path"]).exists())
    new["split"] = "test"
    write_table(project / "data/added", lines)
    satx("import", "1", "data/session1")
    with pytest.raises(ConfigError, match="--new-test-version"):
        satx("new", "3", "--from", "1", "--add", "data/added")
    said = words_of(satx("new", "3", "--from", "1", "--add", "data/added", "--new-test-version"))
    assert "Files that are not in the session" in said and "in test of session 1 already" in said
    assert "version 2. Scores on it are not compared with earlier ones" in said
    assert not document("diff", "1", "3")["same_test"]
    assert "scores of the two sessions cannot be compared" in words_of(satx("diff", "1", "3"))


def test_errors_are_told_and_nothing_is_written(project: Path) -> None:
    before = {path: path.read_bytes() for path in (project / "experiments").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="expected a session with a manifest, got one without"):
        satx("show", "1")
    with pytest.raises(ConfigError, match="Expected two different sessions"):
        satx("diff", "1", "1")
    with pytest.raises(DataError, match="There is no folder"):
        satx("import", "1", "data/nowhere")
    with pytest.raises(ConfigError, match=r"No file experiments/session77.yaml"):
        satx("new", "3", "--from", "77", "--add", "data/nowhere")
    assert before == {path: path.read_bytes() for path in (project / "experiments").rglob("*") if path.is_file()}


@pytest.fixture
def real_sessions(real_tiles: Path, project: Path) -> Path:
    """Import both sessions of the real tiles, which stay where they are."""
    satx("import", "1", str(real_tiles.parent / "session1"))
    satx("import", "2", str(real_tiles.parent / "session2"), "--from", "1")
    return real_tiles.parent


def test_the_real_sessions_differ_by_forty_schools_and_221_built_up_tiles(real_sessions: Path) -> None:
    difference = document("diff", "1", "2")
    added = {
        (group["label"], group["slice"], group["split"]): group["added"]
        for group in difference["groups"]
        if group["added"]
    }
    assert added == {("school", "school", "train"): 40, ("not-school", "built-up", "train"): 221}
    for name in ("dropped", "relabelled", "moved", "resliced"):
        assert all(group[name] == 0 for group in difference["groups"])
    assert difference["same_test"]


def test_the_real_tiles_have_one_digest_on_every_machine_and_a_changed_one_stops_a_sweep(
    real_sessions: Path, project: Path, tmp_path: Path
) -> None:
    """The tiles are copied to another folder, in another order and under other names, as on another machine."""
    first = open_manifest("1")[1]
    lines = read_table(real_sessions / "session1")
    random.Random(7).shuffle(lines)
    for number, line in enumerate(lines):
        target = tmp_path / "elsewhere" / f"{number % 7}" / f"tile {number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real_sessions / "session1" / line["path"], target)
        line["path"] = target.relative_to(tmp_path / "elsewhere").as_posix()
    reordered = [dict(reversed(line.items())) for line in lines]
    write_table(tmp_path / "elsewhere", reordered, delimiter=";", lineterminator="\r\n")
    satx("import", "9", str(tmp_path / "elsewhere"))
    assert open_manifest("9")[1].digest == first.digest
    request = SessionRequest("1", tmp_path / "elsewhere", "none", 32)
    assert len(prepare(request, ()).store.index) == len(first.rows)
    victim = tmp_path / "elsewhere" / next(line["path"] for line in lines if line["split"] == "train")
    with Image.open(victim) as image:
        image.rotate(90).save(victim, quality=95)
    with pytest.raises(DataError, match="expected the tiles of the manifest, got 1 more"):
        prepare(request, ())
