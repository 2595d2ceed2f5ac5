"""satx itself for machines to install: a wheel of this checkout and the versions it was tested with, in the bucket."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from satx.bucket import Client, put_files
from satx.errors import ConfigError
from satx.storage import file_digest, project_root

CONSTRAINTS = "infra/constraints.txt"


@dataclass(frozen=True)
class Wheel:
    """What a machine installs.

    Attributes:
        uri: Of the wheel in S3.
        name: Its file's name.
        sha256: Its digest.
        constraints_uri: Of the pinned versions.
        constraints_sha256: Their digest.
    """

    uri: str
    name: str
    sha256: str
    constraints_uri: str
    constraints_sha256: str


def send_wheel(s3: Client, bucket: str) -> Wheel:
    """Build this checkout's wheel, and put it and its constraints into the bucket under its digest.

    Raises:
        ConfigError: satx does not run from a checkout, or its wheel cannot be built.
        TrackerUnavailable: The bucket does not take it.
    """
    root = project_root()
    if root is None:
        raise ConfigError("`satx fleet up` builds satx's wheel for its machines: call it in a checkout of the project.")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(root)]
        built = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("satx-*.whl"))
        if built.returncode or not wheels:
            raise ConfigError(f"satx's wheel could not be built: {built.stderr.strip()[-500:]}")
        wheel, constraints = wheels[0], root / CONSTRAINTS
        digests = file_digest(wheel), file_digest(constraints)
        uri = f"{bucket}/wheels/{digests[0][:16]}"
        put_files(s3, uri, {wheel.name: wheel, constraints.name: constraints})
        return Wheel(f"{uri}/{wheel.name}", wheel.name, digests[0], f"{uri}/{constraints.name}", digests[1])
