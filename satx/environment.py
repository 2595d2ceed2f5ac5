"""The environment variables that satx reads, as one frozen value that is read once per process.

Variables that only a library reads (MLflow's retries, TensorFlow's log level) are not here. Only the start of a process
writes variables: `satx/__init__.py`, `cli_process.py`, and the code that starts workers and servers.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from satx.errors import ConfigError

THREADS = "TF_NUM_INTRAOP_THREADS"  # TensorFlow's own variable, which it reads at its first computation


class Environment(BaseSettings):
    """What the environment of this process says; an empty variable counts as not set.

    Attributes:
        home: Folder of all local state; None for the project's `.satx/` or the user's data folder.
        study_url: URL of the study database; None for SQLite under the home.
        tracking_uri: URI of MLflow's store or server; None for SQLite under the home.
        weights_dir: Folder of `<backbone>_notop.weights.h5`; None for Keras's downloads.
        bucket: `s3://bucket/prefix` that machines share; empty if one machine works alone.
        keras_backend: Keras's backend.
        num_threads: Number of threads per operation; None for one per processor.
        alive_file: File that a fleet machine's watchdog looks at; None outside a fleet.
        num_workers_here: Workers that share the price of this machine.
        metadata_endpoint: URL of EC2's instance metadata service.
    """

    model_config = SettingsConfigDict(frozen=True, case_sensitive=True, env_ignore_empty=True, extra="ignore")

    home: Path | None = Field(None, validation_alias="SATX_HOME")
    study_url: str | None = Field(None, validation_alias="SATX_STUDY_URL")
    tracking_uri: str | None = Field(None, validation_alias="MLFLOW_TRACKING_URI")
    weights_dir: Path | None = Field(None, validation_alias="SATX_WEIGHTS_DIR")
    bucket: str = Field("", validation_alias="SATX_BUCKET")
    keras_backend: str = Field("tensorflow", validation_alias="KERAS_BACKEND")
    num_threads: int | None = Field(None, ge=0, validation_alias=THREADS)
    alive_file: Path | None = Field(None, validation_alias="SATX_ALIVE")
    num_workers_here: int = Field(1, ge=1, validation_alias="SATX_WORKERS_HERE")
    metadata_endpoint: str = Field("http://169.254.169.254", validation_alias="AWS_EC2_METADATA_SERVICE_ENDPOINT")


@cache
def environment() -> Environment:
    """Read the environment at the first call, and return the same value from then on.

    Raises:
        ConfigError: A variable has a value that cannot be read.
    """
    try:
        return Environment()
    except ValidationError as error:
        problems = [f"{problem['loc'][0]}: {problem['msg']}, got {problem['input']!r}." for problem in error.errors()]
        raise ConfigError(" ".join(problems) + " Correct it, or unset it.") from error


def num_processors() -> int:
    """Return the number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def num_threads() -> int:
    """Return the number of threads that share one operation.

    On TensorFlow the number determines the order of summation, and so the last bits of the results.
    """
    return environment().num_threads or num_processors()
