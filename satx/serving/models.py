"""The models that a server serves: their versions, labels and states, and their replacement without a failed request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np

from satx.environment import num_processors
from satx.errors import SatxError
from satx.inference.serving_files import ServedVersions
from satx.serving.batcher import Limits
from satx.serving.contract import Servable, ServingError, VersionStatus
from satx.serving.loaded import LoadedExport
from satx.serving.metrics import Metrics
from satx.serving.version import ServedVersion, serve_export

logger = logging.getLogger(__name__)

DEFAULT_LABEL = "champion"  # answers requests without version and label, if a model has it

RETRY_SECONDS = 60.0  # an export that could not be loaded may be fine: memory or a disk was missing for a moment

Fingerprint = frozenset[tuple[str, int, int]]


@dataclass(frozen=True)
class _Failure:
    """An export that could not be loaded.

    Attributes:
        fingerprint: Its files at that time.
        message: The error.
        tried_at: Time of the last try, as `time.monotonic` counts.
    """

    fingerprint: Fingerprint
    message: str
    tried_at: float


@dataclass
class _Model:
    """State of one model.

    Attributes:
        available: Versions that answer.
        labels: Version of each label; each of them is available.
        statuses: States of all versions that are or were to be loaded, by version.
        failed: The exports that could not be loaded, by version.
    """

    available: dict[int, ServedVersion] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    failed: dict[int, _Failure] = field(default_factory=dict)


class ServedModels:
    """Implements `contract.Models` over exports on disk. Its methods are called from the event loop."""

    def __init__(self, limits: Limits, metrics: Metrics, *, report: Callable[[str], None]) -> None:
        """Start without models.

        Args:
            limits: When to refuse a request.
            metrics: Where to count.
            report: Receives a line for the user whenever a version is loaded, fails or is unloaded.
        """
        self._limits = limits
        self._metrics = metrics
        self._report = report
        self._models: dict[str, _Model] = {}
        self._pool = ThreadPoolExecutor(num_processors(), thread_name_prefix="satx-decode")

    def find(self, model: str, *, version: int | None = None, label: str | None = None) -> ServedVersion:
        """Return a version; see `contract.Models.find`."""
        known = self._models.get(model, _Model())
        if label is not None:
            if label not in known.labels:
                raise ServingError(400, f"Unrecognized servable version label: {label}")
            version = known.labels[label]
        if version is not None:
            if version not in known.available:
                raise ServingError(404, f"Servable not found for request: Specific({model}, {version})")
            return known.available[version]
        if not known.available:
            raise ServingError(404, f"Servable not found for request: Latest({model})")
        return known.available[known.labels.get(DEFAULT_LABEL, max(known.available))]

    def statuses(self, model: str, *, version: int | None = None) -> list[VersionStatus]:
        """Return the states of a model's versions, newest first; see `contract.Models.statuses`."""
        statuses = dict(self._models.get(model, _Model()).statuses)
        if version is not None:
            if version not in statuses:
                raise ServingError(404, f"Could not find version {version} of model {model}")
            return [statuses[version]]
        if not statuses:
            raise ServingError(404, f"Could not find any versions of model {model}")
        return [statuses[number] for number in sorted(statuses, reverse=True)]

    async def predict(
        self, servable: Servable, signature_name: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature; see `contract.Models.predict`."""
        if not isinstance(servable, ServedVersion):
            raise TypeError(f"Expected a version that `find` returned, got {type(servable).__name__}.")
        return await servable.predict(signature_name, inputs)

    async def update(self, wanted: Mapping[str, ServedVersions]) -> None:
        """Load the versions that are wanted and missing, then move the labels, then drop the versions that are not wanted.

        A version that cannot be loaded changes nothing else: the versions and labels that answer go on answering, and
        `statuses` has the error. It is tried again once its export has changed, and every minute. A dropped version is unloaded
        when its last request is answered. One call at a time.
        """
        for name, versions in wanted.items():
            model = self._models.setdefault(name, _Model())
            for version in sorted(versions.versions):
                if version not in model.available:
                    await self._load(name, model, version, versions.base_path / str(version))
            self._move_labels(name, model, versions.labels)
            self._drop(name, model, keep=versions.versions)
        for name in self._models.keys() - wanted.keys():
            self._models[name].labels.clear()
            self._drop(name, self._models[name], keep=())
            if not self._models[name].statuses:
                del self._models[name]

    def problems(self) -> list[str]:
        """Return the errors of versions that could not be loaded."""
        statuses = (status for model in self._models.values() for status in list(model.statuses.values()))
        return [status.error_message for status in statuses if status.error_message]

    def is_empty(self) -> bool:
        """Return whether no version answers."""
        return not any(model.available for model in self._models.values())

    def available(self) -> dict[str, list[int]]:
        """Return the versions that answer, by model; the first is the one that requests without a version get."""
        return {
            name: sorted(model.available, key=lambda version: (version != default.version, -version))
            for name, model in self._models.items()
            if model.available and (default := self.find(name))
        }

    def metrics_page(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        self._metrics.waiting_rows.clear()  # of models that are no longer served
        for name, model in self._models.items():
            rows = sum(served.batcher.waiting_rows for served in model.available.values())
            self._metrics.waiting_rows.labels(name).set(rows)
        return self._metrics.page()

    def close(self) -> None:
        """Drop all versions, and end the threads that decode."""
        self._models.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _load(self, name: str, model: _Model, version: int, folder: Path) -> None:
        fingerprint = await asyncio.to_thread(_fingerprint, folder)
        failure = model.failed.get(version)
        is_changed = failure is None or failure.fingerprint != fingerprint
        if failure is not None and not is_changed and monotonic() < failure.tried_at + RETRY_SECONDS:
            return
        model.statuses[version] = VersionStatus(version, "LOADING")
        if is_changed:
            self._report(f"Loading {name} version {version} …")
        try:
            export = await asyncio.to_thread(LoadedExport, folder)
        except Exception as error:  # TensorFlow raises many kinds for a bad file; the other versions go on answering
            code = "INVALID_ARGUMENT" if fingerprint else "NOT_FOUND"
            message = str(error) or type(error).__name__
            model.statuses[version] = VersionStatus(version, "END", code, message)
            model.failed[version] = _Failure(fingerprint, message, monotonic())
            if failure is None or is_changed or failure.message != message:
                self._report_failure(name, model, version, error)
            return
        model.failed.pop(version, None)
        model.available[version] = serve_export(
            export,
            model=name,
            version=version,
            limits=self._limits,
            pool=self._pool,
            metrics=self._metrics,
            on_unloaded=partial(_forget, model, version),
        )
        model.statuses[version] = VersionStatus(version, "AVAILABLE")
        self._metrics.set_model(name, loaded_versions=len(model.available))
        self._report(f"Serving {name} version {version}.")

    def _report_failure(self, name: str, model: _Model, version: int, error: Exception) -> None:
        if not isinstance(error, SatxError):
            logger.error("%s version %d could not be loaded.", name, version, exc_info=error)
        still = ", ".join(map(str, sorted(model.available)))
        self._report(
            f"{name} version {version} is not served: {model.statuses[version].error_message}"
            + (f" Still served: {still}." if still else "")
        )

    def _move_labels(self, name: str, model: _Model, wanted: Mapping[str, int]) -> None:
        moved = {label: version for label, version in wanted.items() if version in model.available}
        kept = {label: version for label, version in model.labels.items() if label in wanted}
        for label, version in moved.items():
            if kept.get(label) not in (None, version):
                self._report(f"{name}: label {label} moved from version {kept[label]} to {version}.")
        model.labels = kept | moved

    def _drop(self, name: str, model: _Model, *, keep: tuple[int, ...]) -> None:
        """Drop the versions that are not wanted, unless one that is wanted could not be loaded."""
        for version in [version for version in list(model.statuses) if version not in keep]:
            if model.statuses[version].state == "END":  # it never answered
                del model.statuses[version]
                model.failed.pop(version, None)
        if any(version not in model.available for version in keep):
            return
        for version in model.available.keys() - set(keep):
            model.statuses[version] = VersionStatus(version, "UNLOADING")
            del model.available[version]  # unloaded here, unless a request still refers to it
            self._report(f"{name} version {version} is no longer served.")
        self._metrics.set_model(name, loaded_versions=len(model.available))


def _forget(model: _Model, version: int) -> None:
    status = model.statuses.get(version)
    if status is not None and status.state == "UNLOADING":
        del model.statuses[version]


def _fingerprint(folder: Path) -> Fingerprint:
    """Return the path, size and time of change of each file, which change while an export is copied or written again."""
    found = set()
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):  # removed meanwhile
                status = path.stat()
                found.add((str(path), status.st_size, status.st_mtime_ns))
    return frozenset(found)
