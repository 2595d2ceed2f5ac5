"""Open MLflow: the embedded SQLite store under `SATX_HOME`, or the server that `MLFLOW_TRACKING_URI` names."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import requests
from botocore.exceptions import BotoCoreError
from sqlalchemy.exc import SQLAlchemyError

from satx.errors import ConfigError, TrackerUnavailable
from satx.storage import locked, satx_home

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own imports use deprecated names of its dependencies
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException


logger = logging.getLogger(__name__)

REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
AWAY = "API request to "  # in what MLflow's client raises when a server does not answer, or answers that it cannot

FAILS = (MlflowException, requests.exceptions.RequestException, BotoCoreError)  # what writing to MLflow may raise

__all__ = [
    "FAILS",
    "MlflowClient",
    "MlflowException",
    "experiment_id",
    "is_away",
    "open_tracker",
    "tracker_that_may_be_away",
    "tracking_uri",
]


def tracking_uri() -> str:
    """Where runs go: `MLFLOW_TRACKING_URI`, else `SATX_HOME/mlflow.db`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{satx_home() / 'mlflow.db'}"


def open_tracker(uri: str | None = None) -> MlflowClient:
    """A client whose store answers; an embedded store is created, by one process at a time, when it is new.

    Raises:
        ConfigError: The server wants another name or password, or the URI holds one.
        TrackerUnavailable: The server or the database does not answer.
    """
    uri = uri or tracking_uri()
    if urlsplit(uri).password:
        raise ConfigError(
            "MLFLOW_TRACKING_URI: expected no password in it, which MLflow's own messages would repeat into logs. Put it into "
            "MLFLOW_TRACKING_PASSWORD, the name into MLFLOW_TRACKING_USERNAME; a PostgreSQL's into the file PGPASSFILE names."
        )
    try:
        with warnings.catch_warnings(), ExitStack() as held:
            warnings.simplefilter("ignore")
            if uri.startswith("sqlite:///"):  # MLflow races on the first opening of a new file, from its constructor on
                held.enter_context(locked(Path(uri.removeprefix("sqlite:///"))))
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        if getattr(error, "error_code", "") in REFUSED:
            names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
            given = "others" if all(os.environ.get(name) for name in names) else "not both"
            raise ConfigError(
                f"MLflow at {uri} refuses: expected a name and a password that may read and write there in "
                f"{' and '.join(names)}, got {given}. Set both, or ask whoever keeps the server."
            ) from error
        raise TrackerUnavailable(
            f"MLflow at {uri} does not answer: {str(error).splitlines()[0]}. Start it (`make ui`), or mend MLFLOW_TRACKING_URI."
        ) from error
    return client


def tracker_that_may_be_away() -> MlflowClient:
    """The same for a worker, which writes through a spool: a server that does not answer now is waited for there.

    Raises:
        ConfigError: The server wants another name or password, or the URI holds one.
        TrackerUnavailable: The store is embedded, and cannot be opened.
    """
    # MLflow's client repeats even what makes a run, which may have been made; the spool repeats it too, and looks first
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        return open_tracker()
    except TrackerUnavailable as error:
        uri = tracking_uri()
        if not uri.startswith("http"):
            raise
        logger.warning("%s What there is to write waits on disk.", error)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_away(error: Exception) -> bool:
    """Whether MLflow's server, or where artifacts lie, did not answer, rather than refuse."""
    return isinstance(error, FAILS) and (not isinstance(error, MlflowException) or AWAY in str(error))


def experiment_id(client: MlflowClient, name: str) -> str:
    """The experiment of this name, made when missing; its artifacts lie under `SATX_HOME/mlartifacts` when MLflow is local."""
    found = client.get_experiment_by_name(name)
    if found is None:
        embedded = tracking_uri().startswith("sqlite:///") or "SATX_LOCAL_MLFLOW" in os.environ
        location = (satx_home() / "mlartifacts" / name).as_uri() if embedded else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:  # another process made it between the two calls
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
