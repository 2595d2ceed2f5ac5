"""The MLflow run of a trial whose training satx does not control: opened when training begins, parameters as they come."""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow.entities import Param

from satx.storage import digest_of
from satx.tracking.client import MlflowClient
from satx.tracking.curves import CurveLogger, direct_curves
from satx.tracking.machine_load import machine_load
from satx.tracking.runs import Opening, open_run
from satx.tracking.writer import DirectWriter, Files
from satx.training.checkpoint import Epoch

LONGEST_NAME = 200  # characters; MLflow accepts 250


class TrialRun:
    """A run that need not exist yet; `open` creates it, or resumes that of an earlier attempt."""

    def __init__(self, client: MlflowClient, experiment_id: str, opening: Opening) -> None:
        """Describe the run, without creating it."""
        self._client, self._experiment_id, self._opening = client, experiment_id, opening
        self._opened: tuple[DirectWriter, CurveLogger] | None = None
        self._params: set[str] = set()
        self.history: list[Epoch] = []

    @property
    def is_open(self) -> bool:
        """Whether this attempt has created or resumed the run."""
        return self._opened is not None

    def open(self, params: Mapping[str, Any]) -> tuple[DirectWriter, CurveLogger]:
        """Create or resume the run with the parameters that are known by now, unless it is open; return its writers."""
        if self._opened is None:
            legal = {legal_name(name): value for name, value in params.items()}
            run, found = open_run(self._client, self._experiment_id, replace(self._opening, params=legal))
            self._params = set(run.data.params) if found else set(legal)
            self._opened = DirectWriter(self._client, run), direct_curves(self._client, run, load=machine_load)
        return self._opened

    def add(self, epoch: Epoch, params: Mapping[str, Any]) -> None:
        """Log an epoch, to a run that is opened for it if need be."""
        self.history.append(epoch)
        self.open(params)[1].add(epoch)

    def end(
        self,
        status: str,
        params: Mapping[str, Any],
        *,
        numbers: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        files: Files | None = None,
    ) -> None:
        """Log what is missing, and set the status; a run that does not exist yet is created for it.

        Args:
            status: A final status of MLflow's, or `WAITING`.
            params: All parameters of the run. Those that it has already keep their values, as MLflow demands.
            numbers: Metrics without steps, beside the best epoch's scores.
            tags: Tags.
            files: Files by name.
        """
        writer, curves = self.open(params)
        missing = {legal_name(name): value for name, value in params.items() if legal_name(name) not in self._params}
        if missing:
            writer.batch([], [Param(name, str(value)) for name, value in missing.items()], [])
        all_tags = _best_epoch(self.history) | dict(tags or {})
        curves.flush(best_numbers(self.history) | dict(numbers or {}), tags=all_tags)
        if files:
            writer.files(files)
        writer.end(status)


def best_numbers(history: list[Epoch]) -> dict[str, float]:
    """Return the best epoch's scores and the seconds of all epochs."""
    seconds = {"compute_seconds": sum(epoch.epoch_seconds for epoch in history)}
    if not history:
        return seconds
    best = _best(history)
    scores = {"auc": best.val_auc, "accuracy": best.val_accuracy, "loss": best.val_loss}
    return seconds | {f"best_val_{name}": value for name, value in scores.items()}


def _best_epoch(history: list[Epoch]) -> dict[str, str]:
    return {"best_epoch": str(_best(history).step)} if history else {}


def _best(history: list[Epoch]) -> Epoch:
    return max(history, key=lambda epoch: (epoch.val_auc, -epoch.val_loss))


def legal_name(name: str) -> str:
    """Return a name that MLflow accepts for a parameter or metric: the name itself, or a similar one with its digest.

    MLflow refuses characters such as `#`, `,` and brackets, and names that are no normal relative paths.
    """
    normal = posixpath.normpath(name)
    is_path = normal == name and normal != "." and not normal.startswith(("..", "/"))
    if is_path and len(name) <= LONGEST_NAME and re.fullmatch(r"[\w. :/-]+", name):
        return name
    readable = re.sub(r"[^\w:-]+", "_", name)[:LONGEST_NAME]
    return f"{readable}-{digest_of(name)[:6]}"


def returned_numbers(returned: Any) -> dict[str, float]:
    """Return the numbers that a `fit` returned as a dictionary, so that they are tracked: `fit.NAME`."""
    numbers: dict[str, float] = {}
    for name, value in returned.items() if isinstance(returned, Mapping) else ():
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # something else than a number
            numbers[f"fit.{legal_name(str(name))}"] = float(value)
    return numbers
