"""Logging of a run's curves in few batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag

from satx.tracking.client import MlflowClient
from satx.tracking.runs import CURVES, last_logged_step
from satx.tracking.writer import DirectWriter, RunWriter
from satx.training.checkpoint import Epoch

MAX_EPOCHS_A_REQUEST = 100  # MLflow accepts at most 1000 metrics per request
NOTHING: Mapping[str, float] = MappingProxyType({})
FLUSH_SECONDS = 5.0  # how far curves may lag, in return for one request instead of one per epoch


def direct_curves(
    client: MlflowClient, run: Run, *, load: Callable[[], Mapping[str, float]] = lambda: NOTHING
) -> CurveLogger:
    """Return a logger that writes directly to a run and continues after its last logged step."""
    return CurveLogger(DirectWriter(client, run), last_step=last_logged_step(client, run), load=load)


class CurveLogger:
    """Logs epochs to a run in few batches, and no epoch twice."""

    def __init__(
        self,
        writer: RunWriter,
        *,
        last_step: int = 0,
        params: Mapping[str, Any] | None = None,
        load: Callable[[], Mapping[str, float]] = lambda: NOTHING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describe what to log.

        Args:
            writer: Writes to the run.
            last_step: The last epoch that the run has; later ones are logged.
            params: Parameters, sent with the first batch.
            load: Called once for each batch of epochs; its metrics are logged with the step of the last of them.
            clock: Seconds of a monotonic clock.
        """
        self._writer, self._clock, self._load = writer, clock, load
        self._params = [Param(key, str(value)) for key, value in (params or {}).items()]
        self._last_step = last_step
        self._waiting: list[Epoch] = []
        self._flushed_at = clock()

    def add(self, epoch: Epoch) -> None:
        """Queue an epoch; send the queue if `FLUSH_SECONDS` have passed since it was last sent."""
        if epoch.step > self._last_step:
            self._waiting.append(epoch)
            self._last_step = epoch.step
        if self._clock() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self, numbers: Mapping[str, float] | None = None, *, tags: Mapping[str, str] | None = None) -> None:
        """Send the queued epochs together with metrics without steps (`numbers`) and tags."""
        now_ms = int(time.time() * 1000)
        single = [Metric(name, float(value), now_ms, 0) for name, value in (numbers or {}).items()]
        run_tags = [RunTag(key, value) for key, value in (tags or {}).items()]
        while self._waiting or single or run_tags or self._params:
            epochs = self._waiting[:MAX_EPOCHS_A_REQUEST]
            metrics = [
                Metric(name, getattr(epoch, field), now_ms, epoch.step)
                for epoch in epochs
                for field, name in CURVES.items()
            ]
            if epochs:
                metrics += [Metric(name, value, now_ms, epochs[-1].step) for name, value in self._load().items()]
            self._writer.batch([*metrics, *single], self._params, run_tags)
            del self._waiting[: len(epochs)]
            single, run_tags, self._params = [], [], []
        self._flushed_at = self._clock()
