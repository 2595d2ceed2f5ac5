"""User-data script of a machine's first boot: `infra/user-data.sh`, rendered.

The script contains no secrets, since anyone who may view the machine can read it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import jinja2
import sqlalchemy as sa

from satx.errors import ConfigError
from satx.storage import shipped_file

NAME = "infra/user-data.sh"
MAX_BYTES = 16384  # limit of EC2
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./?&~-]+")  # characters that a shell does not interpret
HARMLESS = {"sslmode", "sslrootcert"}  # query parameters allowed in a study's URL; `password` is not


@dataclass(frozen=True)
class FirstStart:
    """Variables of the script's template.

    Attributes:
        study: The study whose trials to train.
        study_url: URL of the study's database, without a password.
        tracking_uri: URI of MLflow, without a password.
        bucket: `s3://bucket/prefix` of tiles, weights and checkpoints.
        region: AWS region.
        wheel_uri: URI of satx's wheel in S3.
        wheel_name: File name of the wheel.
        wheel_sha256: SHA-256 of the wheel.
        lock_uri: URI of the lock in S3: the packages that satx needs, each with its version and SHA-256.
        lock_sha256: SHA-256 of the lock.
        secret_prefix: SSM parameters `<prefix>/pgpass` and `<prefix>/mlflow` contain the passwords.
        lease_minutes: How long a machine may run without progress, in minutes.
        lease_seconds: How long a machine may run without progress, in seconds.
        max_seconds: Maximum lifetime of a machine.
    """

    study: str
    study_url: str
    tracking_uri: str
    bucket: str
    region: str
    wheel_uri: str
    wheel_name: str
    wheel_sha256: str
    lock_uri: str
    lock_sha256: str
    secret_prefix: str
    lease_minutes: int
    lease_seconds: int
    max_seconds: int


def user_data(values: FirstStart) -> str:
    """Render the script.

    Raises:
        ConfigError: A value may contain a password, or a character that a shell interprets; or the script is too long.
    """
    _check_for_passwords(values)
    for name, value in asdict(values).items():
        if not PLAIN.fullmatch(str(value)):
            raise ConfigError(
                f"{name}: expected only letters, digits and _@%+=:,./?&~-, since a shell reads the value, got "
                f"{PLAIN.sub('', str(value)) or 'an empty value'!r}. Change {name}."
            )
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
    text = template.from_string(shipped_file(NAME).read_text()).render(asdict(values))
    if len(text.encode()) > MAX_BYTES:
        raise ConfigError(
            f"{NAME}: expected at most {MAX_BYTES} bytes when rendered, got {len(text.encode())}. Shorten it."
        )
    return text


def _check_for_passwords(values: FirstStart) -> None:
    """Raise an error if a URL contains, or may contain, a password; the error does not repeat it."""
    study_url, tracking_uri = sa.engine.make_url(values.study_url), urlsplit(values.tracking_uri)
    if study_url.password is not None or set(study_url.query) - HARMLESS:
        raise ConfigError(
            f"study_url: expected no password, and no query parameters except {' and '.join(sorted(HARMLESS))}, since everyone "
            f"who may view a machine can read the URL. Put the password into the SSM parameter {values.secret_prefix}/pgpass "
            f"(infra/README.md)."
        )
    if "@" in tracking_uri.netloc or tracking_uri.query or tracking_uri.fragment:
        raise ConfigError(
            f"tracking_uri: expected no user name, password, query or fragment, since everyone who may view a machine can read "
            f"the URI. Put user name and password into the SSM parameter {values.secret_prefix}/mlflow (infra/README.md)."
        )
