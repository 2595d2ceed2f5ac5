"""MLflow client for the embedded SQLite store under `SATX_HOME` or the server at `MLFLOW_TRACKING_URI`."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import ExitStack
from urllib.parse import urlsplit

import requests
from botocore.exceptions import BotoCoreError
from sqlalchemy.exc import SQLAlchemyError

from satx.environment import environment
from satx.errors import ConfigError, TrackerUnavailable
from satx.storage import locked, satx_home, sqlite_path, sqlite_uri

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own imports use deprecated names of its dependencies
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException


logger = logging.getLogger(__name__)

REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
AWAY = "API request to "  # in the client's error message when a server does not respond or is unable to serve

FAILS = (MlflowException, requests.exceptions.RequestException, BotoCoreError)  # raised by writes to MLflow

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


KIND_TAG = "mlflow.experimentKind"  # without it MLflow's UI opens experiments in the views for language models


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI` if it is set, otherwise the URI of `SATX_HOME/mlflow.db`."""
    return environment().tracking_uri or sqlite_uri(satx_home() / "mlflow.db")


def open_tracker(uri: str | None = None) -> MlflowClient:
    """Return a client for a store that responds.

    A new embedded store is created, by one process at a time.

    Raises:
        ConfigError: The server rejects the user name or password, or the URI contains a password.
        TrackerUnavailable: The server or the database does not respond.
    """
    uri = uri or tracking_uri()
    if urlsplit(uri).password:
        raise ConfigError(
            "MLFLOW_TRACKING_URI: expected no password in the URI, since MLflow writes the URI to logs. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; for PostgreSQL, use the file that PGPASSFILE names."
        )
    try:
        with warnings.catch_warnings(), ExitStack() as held:
            warnings.simplefilter("ignore")
            if file := sqlite_path(uri):  # MLflow has a race when it opens a new file, from its constructor on
                held.enter_context(locked(file))
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        if getattr(error, "error_code", "") in REFUSED:
            names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
            given = "values that it rejects" if all(os.environ.get(name) for name in names) else "one or none of them"
            raise ConfigError(
                f"MLflow at {uri} denies access: expected a user name and a password with permission to read and write in "
                f"{' and '.join(names)}, got {given}. Set both, or ask the server's administrator."
            ) from error
        raise TrackerUnavailable(
            f"MLflow at {uri} does not answer: {str(error).splitlines()[0]}. Start it (`make ui`), or fix MLFLOW_TRACKING_URI."
        ) from error
    return client


def tracker_that_may_be_away() -> MlflowClient:
    """Return a client for a worker, even if the server does not respond.

    A worker writes through a spool, which waits for the server.

    Raises:
        ConfigError: The server rejects the user name or password, or the URI contains a password.
        TrackerUnavailable: The store is embedded and cannot be opened.
    """
    try:
        return open_tracker()
    except TrackerUnavailable as error:
        uri = tracking_uri()
        if not uri.startswith("http"):
            raise
        logger.warning("%s Until it answers, writes are queued on disk.", error)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_away(error: Exception) -> bool:
    """Return whether MLflow's server or the artifact store did not respond, as opposed to rejecting the request."""
    return isinstance(error, FAILS) and (not isinstance(error, MlflowException) or AWAY in str(error))


def experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment of this name, which is created if it does not exist.

    If MLflow is satx's own, the artifacts of the experiment are stored under `SATX_HOME/mlartifacts`.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        # the server that a sweep starts for its workers is in no variable of the driver, and is satx's own
        is_own = tracking_uri().startswith("sqlite:///")
        location = (satx_home() / "mlartifacts" / name).as_uri() if is_own else None
        try:
            return str(
                client.create_experiment(name, artifact_location=location, tags={KIND_TAG: "custom_model_development"})
            )
        except MlflowException as error:  # another process created it between the two calls
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
