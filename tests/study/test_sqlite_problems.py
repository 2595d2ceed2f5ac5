"""What satx says about SQLite databases that another process holds, that it may not write, or that it cannot read."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from projects import ROOT, with_databases

from satx.errors import ConfigError, SatxError, TrackerUnavailable
from satx.storage import satx_home
from satx.study import database
from satx.study.database import open_storage
from satx.study.outages import BREAKS, as_satx_error
from satx.tracking.client import experiment_id, open_tracker

HOLD = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(600)
"""
OPENERS: dict[str, Callable[[], object]] = {"studies.db": open_storage, "mlflow.db": open_tracker}


@pytest.fixture
def ready(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return this test's home, with empty databases that no process has open."""
    with_databases(home, tmp_path_factory.getbasetemp())
    return satx_home()  # adapts the copy to its path


@contextmanager
def held_by_another_process(file: Path) -> Iterator[int]:
    """Hold the exclusive lock of a database in another process while the block runs; yield its id."""
    with subprocess.Popen([sys.executable, "-c", HOLD, file], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.kill()


def test_writing_a_study_whose_database_is_locked_names_the_file_and_the_process(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BRIEF_LOCK_SECONDS", 0.2)
    storage = open_storage()
    with held_by_another_process(ready / "studies.db") as pid, pytest.raises(BREAKS) as caught:
        optuna.create_study(study_name="mine", storage=storage)
    storage.engine.dispose()
    with held_by_another_process(ready / "studies.db") as pid:
        error = as_satx_error(caught.value)
    assert isinstance(error, TrackerUnavailable)
    message = str(error)
    assert str(ready / "studies.db") in message and f"process {pid} " in message
    assert "invalid data" not in message and "mlflow.db" not in message


def test_writing_to_mlflows_database_while_it_is_locked_names_the_file_and_the_process(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{ready}/mlflow.db?timeout=0.2")  # MLflow itself waits longer
    client = open_tracker()
    with held_by_another_process(ready / "mlflow.db") as pid:
        with pytest.raises(BREAKS) as caught:
            experiment_id(client, "mine")
        error = as_satx_error(caught.value)
    assert isinstance(error, TrackerUnavailable)
    assert str(ready / "mlflow.db") in str(error) and f"process {pid} " in str(error)
    assert "studies.db" not in str(error)


def test_a_lock_that_is_released_meanwhile_names_no_process(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BRIEF_LOCK_SECONDS", 0.2)
    storage = open_storage()
    with held_by_another_process(ready / "studies.db"), pytest.raises(BREAKS) as caught:
        optuna.create_study(study_name="mine", storage=storage)
    storage.engine.dispose()
    error = as_satx_error(caught.value)
    assert isinstance(error, TrackerUnavailable)
    assert str(ready / "studies.db") in str(error) and "in process" not in str(error)


def test_opening_a_database_that_is_locked_from_the_start_is_told_as_such(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BRIEF_LOCK_SECONDS", 0.2)
    with closing(sqlite3.connect(ready / "studies.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # as Optuna creates it: a lock then keeps readers away too
    with held_by_another_process(ready / "studies.db") as pid, pytest.raises(TrackerUnavailable) as caught:
        open_storage()
    assert str(ready / "studies.db") in str(caught.value) and f"process {pid} " in str(caught.value)


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize("content", [b"this is no database " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_named(ready: Path, name: str, content: bytes) -> None:
    (ready / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        OPENERS[name]()
    assert str(ready / name) in str(caught.value) and "another kind" in str(caught.value)


@pytest.mark.parametrize("name", OPENERS)
def test_a_folder_in_place_of_a_database_is_named_at_once(home: Path, name: str) -> None:
    (home / name).mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        OPENERS[name]()
    assert str(home / name) in str(caught.value) and "folder" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("studies.db", "v99.0.0", "newer"),
        ("studies.db", "v3.0.0.d", "`optuna storage upgrade"),
        ("mlflow.db", "ffffffffffff", "newer"),
        ("mlflow.db", "451aebb31d03", "`mlflow db upgrade"),
    ],
)
def test_tables_of_another_version_are_told_with_the_way_out(ready: Path, name: str, revision: str, words: str) -> None:
    with closing(sqlite3.connect(ready / name)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    with pytest.raises(ConfigError) as caught:
        OPENERS[name]()
    assert str(ready / name) in str(caught.value) and words in str(caught.value)


def test_a_full_disk_is_told_as_such(ready: Path) -> None:
    storage = open_storage()

    @sa.event.listens_for(storage.engine, "connect")
    def _limit(connection: sqlite3.Connection, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")  # SQLite then reports a full disk

    with pytest.raises(BREAKS) as caught:
        study = optuna.create_study(storage=storage)
        study.set_user_attr("big", "x" * 100_000)
    storage.engine.dispose()
    error = as_satx_error(caught.value)
    assert isinstance(error, ConfigError)
    assert "satx gc" in str(error) and str(ready) in str(error) and "full" in str(error)


FORBIDDEN = """
import sys
from satx.errors import ConfigError
from satx.study.database import open_storage
from satx.tracking.client import open_tracker
try:
    {"studies.db": open_storage, "mlflow.db": open_tracker}[sys.argv[1]]()
except ConfigError as error:
    print(error)
"""
# root may write everywhere, unless it lacks these
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize("what", ["file", "folder", "lock"])
def test_a_database_without_permission_to_write_it_is_told_with_what_is_forbidden(
    ready: Path, name: str, what: str
) -> None:
    path = {"file": ready / name, "folder": ready, "lock": ready / f"{name}.lock"}[what]
    path.touch()
    path.chmod(0o500 if path.is_dir() else 0o400)
    if os.geteuid() == 0 and subprocess.run([*UNPRIVILEGED, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root writes everywhere, and setpriv is not available")
    command = [*(UNPRIVILEGED if os.geteuid() == 0 else []), sys.executable, "-P", "-c", FORBIDDEN, name]
    variables = os.environ | {"SATX_HOME": str(ready), "PYTHONPATH": str(ROOT)}
    try:
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    finally:
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert ended.returncode == 0, ended.stderr
    assert str(ready / name) in ended.stdout and f"none for {path}." in ended.stdout


def test_an_error_of_a_server_says_what_the_server_said_and_names_no_file(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("SATX_STUDY_URL", "postgresql+psycopg://satx@127.0.0.1/satx")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    error = as_satx_error(sa.exc.OperationalError("SELECT", {}, Exception("server closed the connection")))
    assert isinstance(error, SatxError)
    assert "server closed the connection" in str(error) and ".db" not in str(error)
