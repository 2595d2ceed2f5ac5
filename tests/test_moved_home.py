"""A home that was moved or copied works at its new path, and leaves the old path alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from projects import SIZE_PX, TINY_SWEEP, furnish, make_project, run_satx, with_databases

from satx.errors import ConfigError
from satx.execution.sharing import TILES, path_here
from satx.inference.serving_files import ServedVersions, read_models_config, write_models_config
from satx.models.weights_file import Weights
from satx.moved_home import rewrite_places, rewritten_models_config
from satx.session_config import load_session
from satx.storage import home_in_use, in_this_home, satx_home, write_json
from satx.testing.changed_environment import changed_environment
from satx.tiles.store import TileStore, open_store
from satx.tracking.client import experiment_id, open_tracker
from satx.tracking.provenance import inputs_tag, recorded_inputs
from satx.tracking.runs import fetch_file, log_files, start_run
from satx.tracking.server import local_server

HOLD = """
import sys, time
from pathlib import Path
from satx.storage import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def log_run(name: str = "session2") -> str:
    """Log a run with a file and a registered version in the present home; return its id."""
    client = open_tracker()
    run = start_run(client, experiment_id(client, name), name="run", tags={}, params={}, parent=None)
    log_files(client, run, {"model/notes.txt": lambda path: path.write_text("notes")})
    if not client.search_registered_models():
        client.create_registered_model("school")
    client.create_model_version("school", f"{run.info.artifact_uri}/model", run.info.run_id, await_creation_for=0)
    return str(run.info.run_id)


@pytest.fixture
def old(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return this test's home with empty databases."""
    return with_databases(home, tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("name", ["moved", "home-2", "a b%20é#"])
@pytest.mark.parametrize("is_recorded", [True, False])
def test_runs_of_a_moved_home_have_their_files_and_new_ones_are_written_to_its_new_path(
    old: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, is_recorded: bool
) -> None:
    run_id = log_run()
    if not is_recorded:  # as earlier versions wrote it
        (old / "format.json").write_text(json.dumps({"format": 1}))
    new = old.rename(tmp_path / name)
    monkeypatch.setenv("SATX_HOME", str(new))
    client = open_tracker()
    run = client.get_run(run_id)
    assert run.info.artifact_uri.startswith((new / "mlartifacts" / "session2").as_uri() + "/")
    found = fetch_file(client, run_id, "model/notes.txt", tmp_path)
    assert found is not None and found.read_text() == "notes"
    (version,) = client.search_model_versions("name = 'school'")
    assert version.source == f"{run.info.artifact_uri}/model"
    assert client.get_model_version_download_uri("school", version.version).startswith(new.as_uri())
    again = log_run()
    assert list((new / "mlartifacts").rglob(f"{again}/artifacts/model/notes.txt"))
    assert not old.exists(), "nothing is written to the old path"
    assert json.loads((new / "format.json").read_text())["path"] == str(new)


def test_a_copy_is_independent_of_the_original(old: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_id = log_run()
    before = open_tracker().get_run(run_id).info.artifact_uri
    monkeypatch.setenv("SATX_HOME", str(shutil.copytree(old, tmp_path / "copy")))
    client = open_tracker()
    log_files(client, client.get_run(run_id), {"added.txt": lambda path: path.write_text("to the copy")})
    assert [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("added.txt")] == ["copy"]
    monkeypatch.setenv("SATX_HOME", str(old))
    assert open_tracker().get_run(run_id).info.artifact_uri == before


def test_places_outside_the_home_stay_as_they_are(old: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log_run()
    client, elsewhere = open_tracker(), Path(f"{old}-of-others") / "mlartifacts" / "own"
    client.create_experiment("own", artifact_location=elsewhere.as_uri())
    client.create_experiment("bucket", artifact_location="s3://bucket/mlflow")
    monkeypatch.setenv("SATX_HOME", str(old.rename(tmp_path / "moved")))
    client = open_tracker()
    places = {experiment.name: experiment.artifact_location for experiment in client.search_experiments()}
    assert places["own"] == elsewhere.as_uri()
    assert places["bucket"] == "s3://bucket/mlflow"


def test_a_server_finds_the_exports_of_a_moved_home(old: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served = {
        "school": ServedVersions(old / "exports" / "school", (1, 2), {"champion": 2}),
        "clinic": ServedVersions(tmp_path / "elsewhere", (7,), {}),
    }
    write_models_config(satx_home() / "exports" / "models.config", served)
    moved = old.rename(tmp_path / "moved")
    monkeypatch.setenv("SATX_HOME", str(moved))
    assert read_models_config(satx_home() / "exports" / "models.config") == {
        **served,
        "school": ServedVersions(moved / "exports" / "school", (1, 2), {"champion": 2}),
    }


def test_a_configuration_that_has_been_rewritten_stays(tmp_path: Path) -> None:
    before, now = tmp_path / "a", tmp_path / "a" / "b"
    write_models_config(tmp_path / "models.config", {"school": ServedVersions(before / "exports", (1,), {})})
    once = rewritten_models_config((tmp_path / "models.config").read_text(), before, now)
    assert str(now / "exports") in once
    assert rewritten_models_config(once, before, now) == once


def test_a_configuration_that_is_none_does_not_keep_a_home_from_moving(
    old: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (old / "exports").mkdir()
    (old / "exports" / "models.config").write_text("mine {")
    monkeypatch.setenv("SATX_HOME", str(old.rename(tmp_path / "moved")))
    assert (satx_home() / "exports" / "models.config").read_text() == "mine {"


def test_a_home_that_moves_below_itself_is_rewritten_once(
    old: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = log_run()
    moved = old.rename(tmp_path / "moved")
    old.mkdir()
    new = moved.rename(old / "below")
    rewrite_places(new / "mlflow.db", old, new)  # and then this process is killed
    monkeypatch.setenv("SATX_HOME", str(new))
    run = open_tracker().get_run(run_id)
    assert run.info.artifact_uri.startswith((new / "mlartifacts" / "session2").as_uri() + "/")
    assert fetch_file(open_tracker(), run_id, "model/notes.txt", tmp_path) is not None


def test_a_running_training_or_ui_keeps_its_home(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_run()
    with home_in_use("train"):
        monkeypatch.setenv("SATX_HOME", str(old.rename(tmp_path / "moved")))
        with pytest.raises(ConfigError) as caught:
            satx_home()
        (tmp_path / "moved").rename(old)
        monkeypatch.setenv("SATX_HOME", str(old))
    assert f"train-{os.getpid()}" in str(caught.value)


def test_a_home_that_a_command_uses_under_another_path_is_refused_and_unchanged(
    old: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = log_run()
    before = open_tracker().get_run(run_id).info.artifact_uri
    new = old.rename(tmp_path / "moved")
    lock = new / "locks" / "session2-quick-1a2b3c4d"
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            monkeypatch.setenv("SATX_HOME", str(new))
            with pytest.raises(ConfigError) as caught:
                satx_home()
        finally:
            process.kill()
    assert all(words in str(caught.value) for words in (str(new), str(old), lock.name))
    new.rename(old)
    monkeypatch.setenv("SATX_HOME", str(old))
    assert open_tracker().get_run(run_id).info.artifact_uri == before


def test_a_home_that_stays_where_it_is_is_not_rewritten(old: Path) -> None:
    log_run()
    written = (old / "mlflow.db").stat().st_mtime_ns, (old / "format.json").stat().st_mtime_ns
    satx_home()
    assert ((old / "mlflow.db").stat().st_mtime_ns, (old / "format.json").stat().st_mtime_ns) == written


def test_a_recorded_file_of_a_cache_is_found_in_the_present_home(home: Path, tmp_path: Path) -> None:
    here = satx_home() / "cache" / "weights" / "w.h5"
    here.parent.mkdir(parents=True)
    here.write_text("here")
    assert in_this_home(Path("/gone/cache/.satx/cache/weights/w.h5")) == here
    assert in_this_home(Path("/gone/cache/weights/other.h5")) == Path("/gone/cache/weights/other.h5")
    assert in_this_home(Path("/gone/w.h5")) == Path("/gone/w.h5")
    there = tmp_path / "cache" / "weights" / "w.h5"
    there.parent.mkdir(parents=True)
    there.write_text("there")
    assert in_this_home(there) == there, "what still exists is used as it was recorded"


def test_what_a_run_was_trained_on_is_found_in_the_moved_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_store: TileStore
) -> None:
    cache = satx_home() / "cache"
    folder = shutil.copytree(tiny_store.folder, cache / tiny_store.folder.name)
    (home / "sample" / "session2").mkdir(parents=True)
    about = json.loads((folder / "store.json").read_text())
    about["report"]["root"] = str(home / "sample" / "session2")
    write_json(folder / "store.json", about)
    (cache / "weights").mkdir()
    (cache / "weights" / "w.h5").write_text("weights")
    weights = {"mobilenetv2": Weights("mobilenetv2", str(cache / "weights" / "w.h5"), "0" * 64, "random")}
    tags = inputs_tag(load_session("2"), folder, weights) | {"backbone": "mobilenetv2"}

    new = home.rename(tmp_path / "moved")
    monkeypatch.setenv("SATX_HOME", str(new))
    _, found, start = recorded_inputs("run", tags)
    assert found == new / "cache" / folder.name
    assert start.file == str(new / "cache" / "weights" / "w.h5")
    assert open_store(found).report.root == new / "sample" / "session2"
    assert path_here(folder, TILES, {}) == found, "a worker finds them too"


@pytest.mark.slow
def test_a_trained_home_can_be_moved_and_then_compared_promoted_shown_continued_and_served(
    home: Path, tmp_path: Path, tiny_tiles: Path
) -> None:
    furnish(home, tiny_tiles)
    project = make_project(tmp_path / "project", tiny=TINY_SWEEP)
    sweep = [
        "sweep",
        "--data",
        str(tiny_tiles),
        "--size",
        str(SIZE_PX),
        "--weights",
        "none",
        "--sweep",
        "tiny",
        "--json",
    ]

    def satx(*arguments: str) -> list[dict[str, object]] | dict[str, object]:
        ended = run_satx(*arguments, cwd=project, home=here)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    here = home
    satx(*sweep, "--trials", "1")
    with changed_environment(SATX_HOME=str(here)):
        client = open_tracker()
        (experiment,) = client.search_experiments(filter_string="name LIKE 'session2%'")
        ids = [experiment.experiment_id]
        (run,) = client.search_runs(ids, "tags.configuration LIKE '%' AND attributes.status = 'FINISHED'")
        assert Path(Weights(**json.loads(run.data.tags["inputs"])["weights"]["mobilenetv2"]).file).is_relative_to(home)
    run_id = run.info.run_id

    here = home.rename(tmp_path / "moved")
    compare = ["compare", "--session", "2", "--json", *(["--sample"] if experiment.name.endswith("-sample") else [])]
    assert run_id in json.dumps(satx(*compare))
    satx("promote", "--run-id", run_id, "--force", "a test", "--json")
    assert str(here / "exports") in json.dumps(satx("show", "--json"))

    here = here.rename(tmp_path / "moved again")
    shown = json.dumps(satx("show", "--json"))
    assert str(here / "exports") in shown and '"intact"' in shown
    satx(*sweep, "--trials", "2")
    with changed_environment(SATX_HOME=str(here)):
        client = open_tracker()
        finished = client.search_runs(ids, "tags.configuration LIKE '%' AND attributes.status = 'FINISHED'")
        assert len(finished) == 2, "the sweep was continued, not begun anew"
        with local_server() as uri:
            for one in finished:
                query = {"path": "history.csv", "run_uuid": one.info.run_id}
                served = httpx.get(f"{uri}/get-artifact", params=query, timeout=60)
                assert served.status_code == httpx.codes.OK and "val_auc" in served.text
    assert not home.exists() and not (tmp_path / "moved").exists()
