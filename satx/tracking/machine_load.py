"""Load of the machine, under the names of MLflow's own system metrics.

MLflow's monitor is a thread that writes to the server by itself and ends when the server does not answer. So its
collectors are used here without that thread: a run's writer sends a sample with each batch of epochs.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

PREFIX = "system/"  # by which MLflow's pages tell these metrics from those of the model


def machine_load() -> dict[str, float]:
    """Return use of processors (since the last call), memory and, with `nvidia-ml-py` installed, NVIDIA GPUs.

    Takes less than a millisecond without a GPU.
    """
    load: dict[str, float] = {}
    for collector in _collectors():
        collector.collect_metrics()
        load |= {f"{PREFIX}{name}": float(value) for name, value in collector.aggregate_metrics().items()}
        collector.clear_metrics()
    return load


@cache
def _collectors() -> list[Any]:
    """Return MLflow's collectors that work on this machine."""
    cpu_monitor: Any = CPUMonitor  # MLflow's classes have no types
    gpu_monitor: Any = GPUMonitor
    collectors = [cpu_monitor()]
    with contextlib.suppress(ImportError, RuntimeError):  # no `nvidia-ml-py`, or no NVIDIA driver
        collectors.append(gpu_monitor())
    return collectors
