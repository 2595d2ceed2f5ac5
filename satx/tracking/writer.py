"""Interface for writing one run, directly or through a worker's spool, and the direct implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlflow.entities import Metric, Param, Run, RunTag

from satx.tracking.client import MlflowClient
from satx.tracking.runs import WAITING, log_files

Files = Mapping[str, Callable[[Path], object]]


class RunWriter(Protocol):
    """Writes one run."""

    def batch(self, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]) -> None:
        """Log metrics, parameters and tags in one request."""
        ...

    def files(self, files: Files) -> None:
        """Log `{"plots/roc.png": write}`, where `write(path)` makes the file or folder."""
        ...

    def end(self, status: str) -> None:
        """Set the status of the run: a final one, or `WAITING` if it is to be resumed."""
        ...


@dataclass(frozen=True)
class DirectWriter:
    """Writes directly to MLflow.

    Attributes:
        client: MLflow client.
        run: The run.
    """

    client: MlflowClient
    run: Run

    def batch(self, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]) -> None:
        """Log metrics, parameters and tags in one request."""
        self.client.log_batch(self.run.info.run_id, metrics=metrics, params=params, tags=tags)

    def files(self, files: Files) -> None:
        """Log files."""
        log_files(self.client, self.run, files)

    def end(self, status: str) -> None:
        """Set the status of the run."""
        if status == WAITING:
            self.client.update_run(self.run.info.run_id, status=WAITING)
        else:
            self.client.set_terminated(self.run.info.run_id, status=status)
