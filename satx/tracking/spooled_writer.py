"""Writer for the runs of a worker's configurations that keeps working while MLflow is unavailable.

All writes go through a spool as operations that can be repeated: a run is searched for before it is created, points
of a curve are not sent twice, files are overwritten.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag

from satx.errors import Interrupted
from satx.tracking.client import FAILS, MlflowClient, is_away
from satx.tracking.kept_models import drop_models
from satx.tracking.machine_load import PREFIX
from satx.tracking.runs import CURVES, Opening, find_run, last_logged_step, log_folder, open_run
from satx.tracking.spool import Operation, Spool
from satx.tracking.writer import DirectWriter, Files

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 1.0


class SpooledRuns:
    """The runs that a worker writes, through one spool."""

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        folder: Path,
        alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Adopt the queues in `folder` that workers left when they exited.

        Args:
            client: MLflow client.
            experiment_id: Experiment of the runs.
            folder: Folder of the spool.
            alone: Context manager that only one worker enters at a time, across machines. When MLflow is back, all
                waiting workers search for their runs at once, and two of them may have started the same configuration.
        """
        self._client, self._experiment_id, self._alone = client, experiment_id, alone
        self._runs: dict[str, Run] = {}
        self._last_steps: dict[str, int] = {}
        self._surely_new: set[str] = set()
        self.spool = Spool(folder, self._perform, cannot_be_done_now=_comes_later)

    def open(self, opening: Opening, *, is_new: bool) -> SpooledWriter:
        """Create or resume the run of a configuration, and return its writer.

        Args:
            opening: How to find the run, and what to create it with.
            is_new: No earlier attempt can have created the run, so it need not be searched for.
        """
        configuration = opening.identity["configuration"]
        self._surely_new = {configuration} if is_new and not self.spool.num_waiting else set()
        self.spool.do({"do": "open", **dataclasses.asdict(opening)})
        self._surely_new.clear()  # from now on the run may exist: creation was tried, or another process may do it
        return SpooledWriter(self, opening.identity)

    def drop_models(self, study_name: str, backbone: str, *, keep: int) -> None:
        """Delete the models of a study's finished runs of a backbone, except those of the best `keep` runs.

        Does nothing while MLflow is unavailable; a later call does it then.
        """
        try:
            if not self.spool.num_waiting:
                drop_models(self._client, self._experiment_id, study_name, backbone, keep=keep)
        except FAILS as error:
            if not is_away(error):
                raise

    def write(self, identity: dict[str, str], operation: Operation, files: Files | None = None) -> None:
        """Do an operation on a run now, or queue it."""
        self.spool.do({"identity": identity, **operation}, files)

    def finish(self, patience_seconds: float, stop: Callable[[], bool]) -> None:
        """Try to do the waiting operations before the worker exits; the rest stays on disk for the next worker.

        Gives up after `patience_seconds`, or when `stop` returns True.
        """
        deadline = time.monotonic() + patience_seconds
        while not self.spool.drain() and time.monotonic() < deadline and not stop():
            time.sleep(LOOK_AGAIN_SECONDS)
        if self.spool.num_waiting:
            logger.warning(
                "%d operations wait for MLflow; the next worker on this machine does them", self.spool.num_waiting
            )
        self.spool.close()

    def _perform(self, operation: Operation, files: Path | None) -> None:
        if operation["do"] == "open":
            is_new = operation["identity"]["configuration"] in self._surely_new
            with nullcontext() if is_new else self._alone():
                self._open(operation, is_new=is_new)
            return
        writer = DirectWriter(self._client, self._run(operation["identity"]))
        if operation["do"] == "batch":
            key, last = operation["identity"]["configuration"], self._last_step(operation["identity"])
            metrics = [Metric(*fields) for fields in operation["metrics"]]
            new = [metric for metric in metrics if not _is_of_epoch(metric) or metric.step > last]
            params, tags = operation["params"], operation["tags"]
            writer.batch(new, [Param(*fields) for fields in params], [RunTag(*fields) for fields in tags])
            self._last_steps[key] = max([last, *(metric.step for metric in new if _is_of_epoch(metric))])
        elif operation["do"] == "files" and files is not None:
            log_folder(self._client, writer.run, files)
        elif operation["do"] == "end":
            writer.end(operation["status"])

    def _open(self, operation: Operation, *, is_new: bool) -> None:
        """Create or resume a run, without its parameters: they are sent with the first epochs."""
        fields = {field.name: operation[field.name] for field in dataclasses.fields(Opening) if field.name in operation}
        run, found = open_run(self._client, self._experiment_id, Opening(**fields | {"params": {}}), is_new=is_new)
        key = operation["identity"]["configuration"]
        self._runs[key] = run
        if found:
            self._last_steps.pop(key, None)
        else:
            self._last_steps[key] = 0

    def _run(self, identity: dict[str, str]) -> Run:
        key = identity["configuration"]
        if key not in self._runs:
            found = find_run(self._client, self._experiment_id, identity)
            if found is None:
                raise LookupError(f"Expected a run with the tags {identity}, found none: it was deleted.")
            self._runs[key] = found
        return self._runs[key]

    def _last_step(self, identity: dict[str, str]) -> int:
        key = identity["configuration"]
        if key not in self._last_steps:
            self._last_steps[key] = last_logged_step(self._client, self._run(identity))
        return self._last_steps[key]


def _is_of_epoch(metric: Metric) -> bool:
    """Return whether a metric is a point of a curve, with the epoch as its step."""
    return metric.key in CURVES.values() or metric.key.startswith(PREFIX)


def _comes_later(error: Exception) -> bool:
    """Return whether MLflow is unavailable, or the worker was stopped while it waited for `alone`."""
    return is_away(error) or isinstance(error, Interrupted)


@dataclass(frozen=True)
class SpooledWriter:
    """Writes one run through a spool.

    Attributes:
        spooled_runs: Runs of the worker, with the spool.
        identity: Tags that identify the run.
    """

    spooled_runs: SpooledRuns
    identity: dict[str, str]

    def batch(self, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]) -> None:
        """Log metrics, parameters and tags in one request."""
        operation: dict[str, Any] = {
            "do": "batch",
            "metrics": [[metric.key, metric.value, metric.timestamp, metric.step] for metric in metrics],
            "params": [[param.key, param.value] for param in params],
            "tags": [[tag.key, tag.value] for tag in tags],
        }
        self.spooled_runs.write(self.identity, operation)

    def files(self, files: Files) -> None:
        """Log files."""
        self.spooled_runs.write(self.identity, {"do": "files"}, files)

    def end(self, status: str) -> None:
        """Set the status of the run."""
        self.spooled_runs.write(self.identity, {"do": "end", "status": status})
