"""Open MLflow: the embedded SQLite store under `SATX_HOME`, or the server that `MLFLOW_TRACKING_URI` names."""

from __future__ import annotations

import os
import warnings
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from satx.errors import TrackerUnavailable
from satx.storage import locked, satx_home

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own imports use deprecated names of its dependencies
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException


__all__ = ["MlflowClient", "MlflowException", "experiment_id", "open_tracker", "tracking_uri"]


def tracking_uri() -> str:
    """Where runs go: `MLFLOW_TRACKING_URI`, else `SATX_HOME/mlflow.db`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{satx_home() / 'mlflow.db'}"


def open_tracker(uri: str | None = None) -> MlflowClient:
    """A client whose store answers; an embedded store is created, by one process at a time, when it is new.

    Raises:
        TrackerUnavailable: The server or the database does not answer.
    """
    uri = uri or tracking_uri()
    try:
        with warnings.catch_warnings(), ExitStack() as held:
            warnings.simplefilter("ignore")
            if uri.startswith("sqlite:///"):  # MLflow races on the first opening of a new file, from its constructor on
                held.enter_context(locked(Path(uri.removeprefix("sqlite:///"))))
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        raise TrackerUnavailable(
            f"MLflow at {uri} does not answer: {str(error).splitlines()[0]}. Start it (`make ui`), or mend MLFLOW_TRACKING_URI."
        ) from error
    return client


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
