"""Fleet settings from `infra/fleet.yaml`: where machines run, which types, and for how long."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import sqlalchemy as sa
from pydantic import AfterValidator, Field, StringConstraints

from satx.config import Frozen, read_yaml, validated
from satx.environment import environment
from satx.errors import ConfigError
from satx.storage import shipped_file

NAME = "infra/fleet.yaml"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _of_postgres(url: str) -> str:
    """Return the URL if it is a PostgreSQL database's; an error does not repeat it, since it may contain a password."""
    try:
        kind = sa.engine.make_url(url).get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        kind = "nothing" if not url else "an invalid URL"
    if kind != "postgresql":
        raise ValueError(f"expected a PostgreSQL server that the fleet's machines can reach, got {kind}")
    return url


def _of_server(uri: str) -> str:
    """Return the URI if it is an MLflow server's; an error does not repeat it, since it may contain a password."""
    if not uri.startswith(("http://", "https://")):
        kind = uri.partition(":")[0] or "nothing"
        raise ValueError(f"expected an MLflow server (http or https) that the fleet's machines can reach, got {kind}")
    return uri


class FleetConfig(Frozen):
    """Settings of a fleet in one region."""

    region: str = Field(description="AWS region, for example us-east-1")
    bucket: Annotated[str, StringConstraints(pattern=r"^s3://[a-z0-9.-]+(/.*[^/])?$")] = Field(
        description="folder in S3 for tiles, weights and checkpoints"
    )
    instance_types: tuple[str, ...] = Field(
        ("g6.xlarge", "g5.xlarge"), min_length=1, description="in order of preference"
    )
    image: Annotated[str, StringConstraints(pattern=r"^(ami-[0-9a-f]+|/.+)$")] = Field(
        description="id of an AMI, or an SSM parameter that contains one"
    )
    subnets: tuple[str, ...] = Field(min_length=1, description="private subnets, in several zones")
    security_groups: tuple[str, ...] = Field(min_length=1, description="security groups without inbound rules")
    instance_profile: str = Field("satx-worker", description="see infra/iam/worker.json")
    secrets: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_/-]*[A-Za-z0-9_-]$")] = Field(
        "/satx", description="the SSM parameters SECRETS/pgpass and SECRETS/mlflow contain the passwords"
    )
    study_url: Annotated[str, AfterValidator(_of_postgres)] | None = Field(
        None, description="PostgreSQL as machines reach it, if they cannot use SATX_STUDY_URL"
    )
    tracking_uri: Annotated[str, AfterValidator(_of_server)] | None = Field(
        None, description="MLflow as machines reach it, if they cannot use MLFLOW_TRACKING_URI"
    )
    volume_gb: int = Field(100, ge=20, le=16000)
    lease_minutes: int = Field(20, ge=5, le=120, description="a machine shuts down after this time without progress")
    max_hours: float = Field(24.0, gt=0, le=720, description="maximum lifetime of a machine")


def load_fleet() -> FleetConfig:
    """Read the project's `infra/fleet.yaml`.

    Raises:
        ConfigError: The file is missing, or a name, type or bound in it is wrong.
    """
    path = shipped_file(NAME)
    return validated(FleetConfig, read_yaml(path), source=NAME)


def shared_databases() -> tuple[str, str]:
    """Return the URLs of the study database and of MLflow, as this environment reaches them.

    The fleet's machines use the same URLs, unless `infra/fleet.yaml` sets others.

    Raises:
        ConfigError: One of them is missing or local to this machine.
    """
    study_url, tracking_uri = environment().study_url or "", environment().tracking_uri or ""
    for name, value, check, example in (
        ("SATX_STUDY_URL", study_url, _of_postgres, "postgresql+psycopg://satx@HOST/satx"),
        ("MLFLOW_TRACKING_URI", tracking_uri, _of_server, "http://HOST:5000"),
    ):
        try:
            check(value)
        except ValueError as error:
            raise ConfigError(
                f"{name}: {error}. Set one up as described in infra/README.md, and set {name}={example}."
            ) from error
    return study_url, tracking_uri


def databases_of_machines(config: FleetConfig) -> tuple[str, str]:
    """Return the URLs of the study database and of MLflow, as the fleet's machines reach them.

    Raises:
        ConfigError: One of them is a loopback address, which on a machine would mean the machine itself.
    """
    study_url, tracking_uri = shared_databases()
    found = {"study_url": config.study_url or study_url, "tracking_uri": config.tracking_uri or tracking_uri}
    own = [name for name, url in found.items() if urlsplit(url).hostname in LOOPBACK]
    if own:
        raise ConfigError(
            f"{NAME}: expected databases that machines can reach, got loopback addresses, such as those of a tunnel. Set "
            f"{' and '.join(own)} to addresses that machines can reach."
        )
    return found["study_url"], found["tracking_uri"]
