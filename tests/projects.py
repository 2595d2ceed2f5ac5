"""Small projects and prepared homes for tests that run satx like a user."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from satx.storage import locked, replacing
from satx.testing.changed_environment import changed_environment

ROOT = Path(__file__).resolve().parents[1]
SIZE_PX = 32
TINY_SWEEP: dict[str, Any] = {
    "name": "tiny",
    "trials": 2,
    "keep_models_per_backbone": 1,
    "pruner": {"name": "none"},
    "set": {
        "model.backbone": "mobilenetv2",
        "train.head_epochs": 2,
        "train.finetune_epochs": 1,
        "augmentation.num_flips": 1,
    },
    "start": [{"model.unfreeze": "none"}],
    "space": {
        "model.unfreeze": {"choices": ["none", "block16"]},
        "train.head_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    },
}


def make_project(folder: Path, **sweeps: dict[str, Any]) -> Path:
    """Create a folder that satx recognizes as its project, with these sweeps.

    It holds modules that no process of satx may import, as anybody's files beside the tiles would be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("keras", "mlflow", "multiprocessing", "numpy", "optuna", "pip", "uvicorn"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported from the current folder')\n")
    (folder / "pyproject.toml").write_text('[project]\nname = "satx"\n')
    shutil.copytree(ROOT / "experiments", folder / "experiments", ignore=shutil.ignore_patterns("benchmarks"))
    (folder / "sweeps").mkdir()
    for name, sweep in sweeps.items():
        (folder / "sweeps" / f"{name}.yaml").write_text(yaml.safe_dump(sweep))
    return folder


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment variables for a process of satx with this home."""
    return os.environ | {"SATX_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200"} | more


def run_satx(
    *arguments: str, cwd: Path, home: Path, program: str = "satx", timeout_s: float = 300, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `satx …` and wait until it exits."""
    return subprocess.run(
        command(*arguments, program=program),
        cwd=cwd,
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def command(*arguments: str, program: str = "satx") -> list[str]:
    """Return the command line of `satx` or `sat_xception` with this Python."""
    if program == "satx":
        return [sys.executable, "-P", "-m", "satx", *arguments]
    return [sys.executable, "-P", "-c", f"from satx.{program} import main; main()", *arguments]


def shared_folder(basetemp: Path) -> Path:
    """Return the folder that all test processes of a session share.

    Args:
        basetemp: Folder for temporary files of one of the processes, or the shared folder itself.
    """
    if basetemp.name == "shared":
        return basetemp
    return (basetemp.parent if basetemp.name.startswith("popen-") else basetemp) / "shared"


@cache
def databases(basetemp: Path) -> Path:
    """Return a home with empty databases, created once per session because creating MLflow's tables takes seconds.

    Args:
        basetemp: Folder for temporary files of this process.
    """
    from satx.study.database import open_storage
    from satx.tracking.client import open_tracker

    home = shared_folder(basetemp) / "databases"
    with locked(home):
        if not home.exists():
            with (
                replacing(home) as new,
                changed_environment(SATX_HOME=str(new), SATX_STUDY_URL=None, MLFLOW_TRACKING_URI=None),
            ):
                open_storage().engine.dispose()
                open_tracker()
    return home


def with_databases(home: Path, basetemp: Path) -> Path:
    """Copy initialized, empty databases into a new home, and return the home."""
    return shutil.copytree(databases(basetemp), home, dirs_exist_ok=True)


def template_home(tiles: Path) -> Path:
    """Return the home that `furnish` copies. Its cache contains what is decoded and computed once per session."""
    return tiles.parent / "template-home"


@cache
def _template(tiles: Path) -> tuple[Path, Any]:
    from satx.session_config import load_session
    from satx.sessions.prepare import SessionRequest, prepare_folder
    from satx.tiles.layout import read_layout

    home = template_home(tiles)
    with locked(home), changed_environment(SATX_HOME=str(home)):
        if not (home / "mlflow.db").exists():
            shutil.copytree(databases(tiles.parents[1]), home, dirs_exist_ok=True)
        request = SessionRequest("2", tiles, "none", SIZE_PX)
        prepared = prepare_folder(read_layout(tiles), load_session("2"), request, ("mobilenetv2",))
    return home, prepared


def furnish(home: Path, tiles: Path) -> Any:
    """Fill a new home with databases, decoded tiles and random MobileNetV2 weights; return what `prepare` would."""
    template, prepared = _template(tiles)
    shutil.copytree(template, home, dirs_exist_ok=True)
    return prepared


def copy_home(source: Path, target: Path) -> None:
    """Copy a home with runs into another, and change the places of the runs' files, which MLflow records."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    with closing(sqlite3.connect(target / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(source), str(target)))


def furnished_region(clients: Any) -> Any:
    """Create what fleet commands need in a simulated AWS region; return it as `infra/fleet.yaml` would name it."""
    from satx.fleet.settings import FleetConfig

    ec2 = clients("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24", AvailabilityZone="us-east-1a")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="satx", Description="none in", VpcId=vpc)["GroupId"]
    clients("s3").create_bucket(Bucket="satx-test")
    return FleetConfig(
        region="us-east-1",
        bucket="s3://satx-test/fleet",
        image="/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
        subnets=(subnet,),
        security_groups=(group,),
        study_url="postgresql+psycopg://satx@10.0.0.5/satx",
        tracking_uri="http://10.0.0.5:5000",
    )
