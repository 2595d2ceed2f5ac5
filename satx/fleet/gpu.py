"""GPU utilization of a machine, measured by its worker and kept in the study, where `satx fleet status` reads it."""

from __future__ import annotations

import subprocess

import optuna

from satx.fleet.metadata import Identity

USE = "gpu_percent "  # prefix of a machine's study attribute
ANSWER_SECONDS = 5.0
COMMAND = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]


def gpu_percent() -> float | None:
    """Return the GPU utilization in percent, averaged over all GPUs; None without an NVIDIA driver.

    Utilization is the share of the last sample period in which a kernel ran. The period is between 1/6 s and 1 s
    (`nvidia-smi --help-query-gpu`), so sample often.
    """
    try:
        said = subprocess.run(COMMAND, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True).stdout
        percents = [float(line) for line in said.splitlines()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return sum(percents) / len(percents) if percents else None


def note_gpu_percent(study: optuna.Study, me: Identity, seen: list[float]) -> None:
    """Record this machine's mean GPU utilization since the last call, and empty `seen`.

    Args:
        study: The study whose trials the machine trains.
        me: This machine.
        seen: Results of `gpu_percent` since the last call.
    """
    if seen:
        study.set_user_attr(f"{USE}{me.instance_id}", round(sum(seen) / len(seen), 1))
        seen.clear()


def gpu_percents(study: optuna.Study) -> dict[str, float]:
    """Return the last recorded GPU utilization by instance id."""
    attributes = study.user_attrs
    return {name.removeprefix(USE): float(value) for name, value in attributes.items() if name.startswith(USE)}
