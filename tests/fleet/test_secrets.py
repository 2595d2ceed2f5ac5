"""A worker uses its passwords; nothing that it or its launch writes or prints, and no command line, contains one."""

from __future__ import annotations

import base64
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from guarded import Servers, guarded_mlflow, make_roles, make_worker, password_file
from played import Metadata
from projects import TINY_SWEEP, environment
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from satx.commands import fleet_up
from satx.commands.fleet_up import Fleet, ordered
from satx.errors import ConfigError, TrackerUnavailable
from satx.execution.driver import open_sweep
from satx.execution.sharing import s3_client
from satx.fleet.launching import launch
from satx.fleet.plan import clients_of, plan_fleet
from satx.fleet.settings import FleetConfig, shared_databases
from satx.fleet.watch import Order
from satx.fleet.wheel import Wheel
from satx.models.weights_file import Weights
from satx.search.space import SweepConfig
from satx.session_config import load_session
from satx.sessions.prepare import PreparedSession
from satx.storage import file_digest
from satx.study.database import shared_storage
from satx.testing.local_postgres import running_postgres
from satx.tiles.store import TileStore
from satx.tracking.client import open_tracker

OF_STUDY, OF_RUNS, OF_AMAZON = "open-sesame-study", "open-sesame-runs", "open-sesame-amazon"
OF_WORKERS = "open-sesame-workers"  # of MLflow's user that machines are; OF_RUNS is its administrator's
WAIT_SECONDS = 120
WORKER = """
import logging
logging.basicConfig(level=logging.DEBUG)  # before satx configures it, so that the libraries' output is searched too
logging.getLogger("sqlalchemy").setLevel(logging.DEBUG)  # SQLAlchemy sets a higher level itself
from satx import cli
from satx.testing.rehearsal import rehearsal_engine
from satx.execution import engine, trial
trial.SEND_SECONDS = 0.0  # the state of every epoch goes into the bucket
cli.load_keras_quietly, engine.keras_engine = lambda: None, lambda: rehearsal_engine(0.1)
cli.main()
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Start PostgreSQL and MLflow; this process has the passwords in the same places as a machine, but is administrator."""
    folder = tmp_path_factory.mktemp("guarded")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as held:
        patch.setenv("PGPASSFILE", str(password_file(folder / "pgpass", OF_STUDY)))
        patch.setenv("MLFLOW_TRACKING_USERNAME", "satx")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", OF_RUNS)
        patch.setenv("AWS_SECRET_ACCESS_KEY", OF_AMAZON)
        try:
            postgres = held.enter_context(running_postgres(folder / "cluster", OF_STUDY, superuser="postgres"))
        except ConfigError as missing:
            pytest.skip(str(missing))
        make_roles(postgres, OF_STUDY)
        uri = held.enter_context(guarded_mlflow(folder, OF_RUNS, partial(postgres.url, user="mlflow")))
        make_worker(uri, OF_RUNS, OF_WORKERS)
        yield Servers(postgres, folder, uri)


@pytest.mark.parametrize(("user", "own", "foreign"), [("satx", "satx", "mlflow"), ("mlflow", "mlflow", "satx")])
def test_the_roles_of_the_databases_have_the_least_rights(servers: Servers, user: str, own: str, foreign: str) -> None:
    engine = create_engine(servers.postgres.url(own, user=user), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE made_here (number int)"))
        connection.execute(text("DROP TABLE made_here"))
        for forbidden in ("COPY (SELECT 1) TO PROGRAM 'true'", "CREATE ROLE other", "CREATE DATABASE other"):
            with pytest.raises(DBAPIError, match="InsufficientPrivilege"):
                connection.execute(text(forbidden))
    for database in (foreign, "postgres"):
        with pytest.raises(DBAPIError, match="permission denied for database"):
            create_engine(servers.postgres.url(database, user=user), poolclass=NullPool).connect()


@pytest.fixture
def study(
    servers: Servers,
    home: Path,
    tmp_path: Path,
    tiny_store: TileStore,
    fleet: FleetConfig,
    metadata: Metadata,
    clients: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Open a study and launch one simulated machine for it, which is this computer; return the study's name."""
    monkeypatch.setenv("SATX_STUDY_URL", servers.postgres.url("satx"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.uri)
    monkeypatch.setenv("SATX_ALIVE", str(tmp_path / "alive"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", fleet.region)
    s3_client.cache_clear()
    s3 = clients("s3")
    s3.create_bucket(Bucket="satx-test")
    versions = {"Status": "Enabled"}  # so that deleted objects can be searched too
    s3.put_bucket_versioning(Bucket="satx-test", VersioningConfiguration=versions)
    (tmp_path / "w.h5").write_text("stands for weights, which a rehearsal does not read")
    weights = Weights("mobilenetv2", str(tmp_path / "w.h5"), file_digest(tmp_path / "w.h5"), "random")
    session = load_session("2")
    defaults = session.defaults.model_copy(update={"image_size_px": tiny_store.image_size_px})
    prepared = PreparedSession(session, defaults, tiny_store, {"mobilenetv2": weights}, ())
    sweep = open_sweep(prepared, SweepConfig.model_validate(TINY_SWEEP), 2, git_commit="0" * 40, bucket=fleet.bucket)
    sweep.study.set_user_attr("store", f"/elsewhere/{tiny_store.folder.name}")
    sweep.study.set_user_attr("weights", {"mobilenetv2": weights.as_dict() | {"file": "/elsewhere/w.h5"}})

    monkeypatch.setattr("satx.fleet.settings.LOOPBACK", ())  # the simulated machine is this computer
    monkeypatch.setattr(fleet_up, "send_wheel", lambda *_: Wheel("s3://w", "satx.whl", "a" * 64, "s3://c", "b" * 64))
    amazon, now = clients_of(fleet), datetime.datetime.now(datetime.UTC)
    plan = plan_fleet(amazon, fleet, sweep.job.study_name, 1, spot=True, now=now)
    wanted = ordered(Fleet(fleet, amazon, Order(1, True, None), plan), sweep)
    (metadata.instance_id,) = launch(amazon.ec2, fleet, wanted, 1, now=now)
    metadata.region = fleet.region
    storage = shared_storage(sweep.study)
    assert storage is not None
    storage.engine.dispose()
    return sweep.job.study_name


@dataclass
class Work:
    """Traces of a machine's worker: exit code, output, command lines of its processes, all files ever in its home."""

    code: int
    said: str
    command_lines: str
    home: dict[str, bytes]


def work(study: str, folder: Path, **more: str) -> Work:
    """Run a worker until it exits, and collect its traces."""
    folder.mkdir()
    command = [sys.executable, "-c", WORKER, "worker", "--study", study, "--lease-minutes", "5"]
    login = {"MLFLOW_TRACKING_USERNAME": "satx-worker", "MLFLOW_TRACKING_PASSWORD": OF_WORKERS}
    lines, home, deadline = set[str](), dict[str, bytes](), time.monotonic() + WAIT_SECONDS
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            command, env=environment(folder / "home", **(login | more)), cwd=folder, stdout=said, stderr=said
        )
    while process.poll() is None and time.monotonic() < deadline:
        home |= files(folder / "home")  # checkpoints and the spool are gone at the end
        for one in psutil.Process().children(recursive=True):  # the worker, the MLflow server, and their children
            with suppress(psutil.Error):
                lines.add(" ".join(one.cmdline()))
        time.sleep(0.1)
    process.kill()
    code = process.wait()
    return Work(code, (folder / "said").read_text(), "\n".join(lines), home | files(folder / "home"))


def holding(texts: dict[str, bytes], *more: str) -> list[str]:
    """Return the names of the texts that contain a password, in plain text or as it is sent to MLflow."""
    passwords = [password.encode() for password in (OF_STUDY, OF_RUNS, OF_WORKERS, OF_AMAZON, *more)]
    logins = [user + password for user in (b"satx:", b"satx-worker:") for password in passwords]
    forms = passwords + [base64.b64encode(login) for login in logins]
    return [name for name, text in texts.items() if any(form in text for form in forms)]


def files(folder: Path) -> dict[str, bytes]:
    found = dict[str, bytes]()
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):  # other processes write there
                found |= {str(path): path.read_bytes()} if path.is_file() else {}
    return found


def in_bucket(s3: Any) -> dict[str, bytes]:
    """Return every version of every object that was ever in the bucket."""
    found = s3.list_object_versions(Bucket="satx-test")["Versions"]
    versions = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in found]
    return {" ".join(one.values()): s3.get_object(Bucket="satx-test", **one)["Body"].read() for one in versions}


def user_data_of(ec2: Any) -> bytes:
    (template,) = ec2.describe_launch_templates()["LaunchTemplates"]
    (version,) = ec2.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])[
        "LaunchTemplateVersions"
    ]
    return base64.b64decode(version["LaunchTemplateData"]["UserData"])


@pytest.mark.slow
def test_a_worker_uses_its_passwords_and_leaves_them_nowhere(
    study: str, servers: Servers, metadata: Metadata, tmp_path: Path, clients: Any
) -> None:
    worker = work(study, tmp_path / "machine")
    assert worker.code == 0, worker.said[-2000:]
    ec2, machine = clients("ec2"), metadata.instance_id
    searched = {  # each with texts that must be found there, to make sure that the place is right and not empty
        "said": ({"": worker.said.encode()}, ["database=satx", f"fleet/checkpoints/{study}"]),
        "command lines": ({"": worker.command_lines.encode()}, [f"worker --study {study}", "--app-name=basic-auth"]),
        "home": (worker.home, ["cache/tiles-", f"checkpoints/{study}", "val_auc"]),
        "databases": ({"": servers.run("pg_dumpall")}, [study, f"{machine} g6.xlarge", "SCRAM-SHA-256$", "scrypt:"]),
        "MLflow's log": ({"": (servers.folder / "log").read_bytes()}, ["POST /api/2.0/mlflow/runs/create"]),
        "artifacts": (files(servers.folder / "artifacts"), ["config.json", "val_auc"]),
        "bucket": (in_bucket(clients("s3")), [f"checkpoints/{study}", "fleet/tiles/", "fleet/weights/", "val_auc"]),
        "machines": ({"": json.dumps(ec2.describe_instances(), default=str).encode()}, [machine, study]),
        "user data": ({"": user_data_of(ec2)}, [f"satx worker --study {study}", servers.uri]),
    }
    for place, (texts, wanted) in searched.items():
        whole = b"\n".join(name.encode() + b"\n" + text for name, text in texts.items())
        assert [marker for marker in wanted if marker.encode() not in whole] == [], place
        assert holding(texts) == [], place
    assert holding(files(servers.folder)) == [str(servers.folder / "pgpass")], "the search itself works"


@pytest.mark.slow
def test_a_worker_without_the_right_password_exits_at_once_and_prints_none(study: str, tmp_path: Path) -> None:
    wrong = "open-barley"
    cases = {
        "no password supplied": (TrackerUnavailable, {"PGPASSFILE": str(tmp_path / "none")}),
        "password authentication failed": (
            TrackerUnavailable,
            {"PGPASSFILE": str(password_file(tmp_path / "wrong", wrong))},
        ),
        "MLFLOW_TRACKING_PASSWORD": (ConfigError, {"MLFLOW_TRACKING_PASSWORD": wrong}),
    }
    for says, (error, more) in cases.items():
        worker = work(study, tmp_path / says, **more)
        assert worker.code == error.exit_code, worker.said[-2000:]
        last = worker.said.splitlines()[-1]
        assert last.startswith("Error: ") and says in last
        texts = {"said": worker.said.encode()} | worker.home
        assert holding(texts, wrong) == []


@pytest.mark.parametrize(
    ("read", "study_url", "tracking_uri"),
    [
        (open_tracker, "", f"http://satx:{OF_RUNS}@127.0.0.1:9"),
        (open_tracker, "", f"postgresql+psycopg://satx:{OF_RUNS}@127.0.0.1:9/mlflow"),
        (shared_databases, f"mysql://satx:{OF_STUDY}@10.0.0.5/satx", "http://10.0.0.5:5000"),
        (shared_databases, "postgresql+psycopg://satx@10.0.0.5/satx", f"mysql://satx:{OF_RUNS}@10.0.0.5/mlflow"),
    ],
)
def test_a_password_in_a_url_is_refused_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[], object], study_url: str, tracking_uri: str
) -> None:
    monkeypatch.setenv("SATX_STUDY_URL", study_url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    with pytest.raises(ConfigError) as error:
        read()
    assert holding({"error": str(error.value).encode()}) == []
