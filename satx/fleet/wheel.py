"""The satx package that machines install: a wheel of this checkout and the tested versions, uploaded to the bucket."""

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
    """The wheel and the pinned versions that a machine installs.

    Attributes:
        uri: URI of the wheel in S3.
        name: File name of the wheel.
        sha256: SHA-256 of the wheel.
        constraints_uri: URI of the pinned versions in S3.
        constraints_sha256: SHA-256 of the pinned versions.
    """

    uri: str
    name: str
    sha256: str
    constraints_uri: str
    constraints_sha256: str


def send_wheel(s3: Client, bucket: str) -> Wheel:
    """Build this checkout's wheel, and upload it with its constraints to the bucket, under the wheel's digest.

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
        command = [sys.executable, "-P", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(root)]
        built = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("satx-*.whl"))
        if built.returncode or not wheels:
            raise ConfigError(f"Building satx's wheel failed: {built.stderr.strip()[-500:]}")
        wheel, constraints = wheels[0], root / CONSTRAINTS
        digests = file_digest(wheel), file_digest(constraints)
        uri = f"{bucket}/wheels/{digests[0][:16]}"
        put_files(s3, uri, {wheel.name: wheel, constraints.name: constraints})
        return Wheel(f"{uri}/{wheel.name}", wheel.name, digests[0], f"{uri}/{constraints.name}", digests[1])
