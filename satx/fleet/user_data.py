"""The script of a machine's first start: `infra/user-data.sh`, filled in. It holds no secret; anyone who may look can read it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import jinja2
import sqlalchemy as sa

from satx.errors import ConfigError
from satx.storage import shipped_file

NAME = "infra/user-data.sh"
MAX_BYTES = 16384  # EC2's
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./?&~-]+")  # what a shell takes as it stands
HARMLESS = {"sslmode", "sslrootcert"}  # of what a study's URL may ask for: `password` is one of the others


@dataclass(frozen=True)
class FirstStart:
    """What the script is filled in with.

    Attributes:
        study: The study to work at.
        study_url: Of its database, without a password.
        tracking_uri: Of MLflow, without a password.
        bucket: `s3://bucket/prefix` of tiles, weights and checkpoints.
        region: Of AWS.
        wheel_uri: Where satx's wheel lies in S3.
        wheel_name: Its file's name.
        wheel_sha256: Its digest.
        constraints_uri: Where the pinned versions lie in S3.
        constraints_sha256: Their digest.
        secret_prefix: SSM parameters `<prefix>/pgpass` and `<prefix>/mlflow` hold the passwords.
        lease_minutes: How long a machine may stay without progress.
        lease_seconds: The same.
        max_seconds: No machine lives longer.
    """

    study: str
    study_url: str
    tracking_uri: str
    bucket: str
    region: str
    wheel_uri: str
    wheel_name: str
    wheel_sha256: str
    constraints_uri: str
    constraints_sha256: str
    secret_prefix: str
    lease_minutes: int
    lease_seconds: int
    max_seconds: int


def user_data(values: FirstStart) -> str:
    """The script.

    Raises:
        ConfigError: A value may hold a password, or a character that a shell would not take as it stands; or all is too long.
    """
    _refuse_passwords(values)
    for name, value in asdict(values).items():
        if not PLAIN.fullmatch(str(value)):
            raise ConfigError(
                f"{name}: expected letters, digits and @%+=:,./?&~- for a machine's start, got "
                f"{PLAIN.sub('', str(value)) or 'nothing'!r}."
            )
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
    text = template.from_string(shipped_file(NAME).read_text()).render(asdict(values))
    if len(text.encode()) > MAX_BYTES:
        raise ConfigError(
            f"{NAME}: expected at most {MAX_BYTES} bytes when filled in, got {len(text.encode())}. Shorten it."
        )
    return text


def _refuse_passwords(values: FirstStart) -> None:
    """Refuse what is, or may be, a password; no message repeats it."""
    study_url, tracking_uri = sa.engine.make_url(values.study_url), urlsplit(values.tracking_uri)
    if study_url.password is not None or set(study_url.query) - HARMLESS:
        raise ConfigError(
            f"study_url: expected no password, and after `?` nothing but {' and '.join(sorted(HARMLESS))}, since anyone who may "
            f"look at a machine could read it. Put the password into the SSM parameter {values.secret_prefix}/pgpass "
            f"(infra/README.md)."
        )
    if "@" in tracking_uri.netloc or tracking_uri.query or tracking_uri.fragment:
        raise ConfigError(
            f"tracking_uri: expected no name, no password and nothing after `?`, since anyone who may look at a machine could "
            f"read it. Put them into the SSM parameter {values.secret_prefix}/mlflow (infra/README.md)."
        )
