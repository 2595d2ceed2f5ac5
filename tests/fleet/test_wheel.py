"""The wheel that machines install: it has all files that satx needs, and no other files of the checkout."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import boto3
import pytest

from satx.errors import ConfigError
from satx.fleet import wheel as module
from satx.fleet.wheel import BUILD_LOCK, LOCK, send_wheel
from satx.storage import file_digest, project_root

SECRET = "correct-horse-battery-staple"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the project, with the control machine's passwords filled in as infra/README.md says."""
    root = project_root()
    assert root is not None
    copy = tmp_path / "checkout"
    for name in ("satx", "experiments", "sweeps", "infra"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(root / name, copy / name)
    (copy / "infra" / "control" / ".env").write_text(f"POSTGRES_PASSWORD={SECRET}\n")
    monkeypatch.setattr(module, "project_root", lambda: copy)
    return copy


def test_a_wheel_has_the_files_that_a_worker_reads_and_no_password(
    checkout: Path, clients: Any, tmp_path: Path
) -> None:
    s3 = boto3.client("s3", "us-east-1")
    s3.create_bucket(Bucket="tiles")
    sent = send_wheel(s3, "s3://tiles/satx")
    path = tmp_path / sent.name
    s3.download_file("tiles", sent.uri.removeprefix("s3://tiles/"), str(path))
    assert file_digest(path) == sent.sha256
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert not [name for name in names if SECRET.encode() in archive.read(name) or ".env" in name]
    expected = ("infra/fleet.yaml", "infra/user-data.sh", "experiments/session2.yaml", "sweeps/quick.yaml")
    assert {f"satx/_project/{name}" for name in expected} <= set(names)
    assert "satx/commands/worker.py" in names
    s3.download_file("tiles", sent.lock_uri.removeprefix("s3://tiles/"), str(tmp_path / "lock.txt"))
    assert file_digest(tmp_path / "lock.txt") == sent.lock_sha256 == file_digest(checkout / LOCK)


def test_a_build_tool_that_differs_from_its_lock_builds_nothing(checkout: Path, clients: Any) -> None:
    s3 = boto3.client("s3", "us-east-1")
    s3.create_bucket(Bucket="tiles")
    lock = checkout / BUILD_LOCK
    lock.write_text(re.sub("sha256:[0-9a-f]{8}", "sha256:00000000", lock.read_text()))
    with pytest.raises(ConfigError, match="0000000"):
        send_wheel(s3, "s3://tiles/satx")
    assert s3.list_objects_v2(Bucket="tiles")["KeyCount"] == 0
