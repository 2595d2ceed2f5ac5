"""The satx package that machines install: a wheel of this checkout and the lock of its packages, uploaded to the bucket."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from satx.bucket import Client, put_files
from satx.errors import ConfigError
from satx.storage import file_digest, project_root

LOCK = "infra/locks/worker.txt"  # what a machine installs: each package with its version and SHA-256
BUILD_LOCK = "infra/locks/build.txt"  # what builds the wheel


@dataclass(frozen=True)
class Wheel:
    """The wheel and the lock that a machine installs.

    Attributes:
        uri: URI of the wheel in S3.
        name: File name of the wheel.
        sha256: SHA-256 of the wheel.
        lock_uri: URI of the lock in S3.
        lock_sha256: SHA-256 of the lock.
    """

    uri: str
    name: str
    sha256: str
    lock_uri: str
    lock_sha256: str


def send_wheel(s3: Client, bucket: str) -> Wheel:
    """Build this checkout's wheel, and upload it with its lock to the bucket, under the wheel's digest.

    Raises:
        ConfigError: satx does not run from a checkout, or its wheel cannot be built.
        TrackerUnavailable: The upload failed.
    """
    root = project_root()
    if root is None:
        raise ConfigError(
            "Expected a checkout of the project, from which to build the wheel that machines install, found none. Run the "
            "command in a checkout."
        )
    with tempfile.TemporaryDirectory() as folder:
        wheel, lock = _built(root, Path(folder)), root / LOCK
        digest = file_digest(wheel)
        uri = f"{bucket}/wheels/{digest[:16]}"
        put_files(s3, uri, {wheel.name: wheel, lock.name: lock})
        return Wheel(f"{uri}/{wheel.name}", wheel.name, digest, f"{uri}/{lock.name}", file_digest(lock))


def _built(root: Path, folder: Path) -> Path:
    """Build the wheel with the locked build tools, since machines run what these write; return its path.

    pip's own isolated build would install the newest tools, without comparing hashes.
    """
    tools = folder / "tools"
    pip = [sys.executable, "-P", "-m", "pip", "--quiet"]
    steps = (
        [*pip, "install", "--target", str(tools), "--require-hashes", "--requirement", str(root / BUILD_LOCK)],
        [*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(root)],
    )
    for command in steps:
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tools)})
        if done.returncode:
            raise ConfigError(f"Building satx's wheel failed: {done.stderr.strip()[-500:]}")
    (wheel,) = folder.glob("satx-*.whl")
    return wheel
