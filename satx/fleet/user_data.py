"""The script of a machine's first start: `infra/user-data.sh`, filled in. It holds no secret; anyone who may look can read it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

import jinja2
import sqlalchemy as sa

from satx.errors import ConfigError
from satx.storage import shipped_file

NAME = "infra/user-data.sh"
MAX_BYTES = 16384  # EC2's
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./?&~-]+")  # what a shell takes as it stands


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
        ConfigError: A value holds a password, or a character that a shell would not take as it stands; or all is too long.
    """
    for name, value in asdict(values).items():
        if not PLAIN.fullmatch(str(value)):
            raise ConfigError(
                f"{name}: expected letters, digits and @%+=:,./?&~- for a machine's start, got {value!r}."
            )
    for name in ("study_url", "tracking_uri"):
        if sa.engine.make_url(getattr(values, name)).password:
            raise ConfigError(
                f"{name}: expected no password, which anyone who may look at a machine could read. Put it into the SSM parameter "
                f"{values.secret_prefix}/{'pgpass' if name == 'study_url' else 'mlflow'} (infra/README.md)."
            )
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
    text = template.from_string(shipped_file(NAME).read_text()).render(asdict(values))
    if len(text.encode()) > MAX_BYTES:
        raise ConfigError(
            f"{NAME}: expected at most {MAX_BYTES} bytes when filled in, got {len(text.encode())}. Shorten it."
        )
    return text
