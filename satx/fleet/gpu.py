"""How busy a machine's GPUs are, as its worker sees it; kept in the study, where `satx fleet status` reads it."""

from __future__ import annotations

import subprocess

import optuna

from satx.fleet.metadata import Identity

USE = "gpu_percent "  # begins a machine's attribute of the study
ANSWER_SECONDS = 5.0
COMMAND = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]


def gpu_percent() -> float | None:
    """The share of the last moment in which a kernel ran, mean of all GPUs, in percent; None where no driver tells.

    The moment is between a sixth of a second and a second (`nvidia-smi --help-query-gpu`), so ask often.
    """
    try:
        said = subprocess.run(COMMAND, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True).stdout
        percents = [float(line) for line in said.splitlines()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return sum(percents) / len(percents) if percents else None


def note_gpu_percent(study: optuna.Study, me: Identity, seen: list[float]) -> None:
    """Write down how busy this machine was since the last time; `seen` is emptied.

    Args:
        study: The study it works at.
        me: This machine.
        seen: What `gpu_percent` said meanwhile.
    """
    if seen:
        study.set_user_attr(f"{USE}{me.instance_id}", round(sum(seen) / len(seen), 1))
        seen.clear()


def gpu_percents(study: optuna.Study) -> dict[str, float]:
    """By machine, what each wrote down last."""
    attributes = study.user_attrs
    return {name.removeprefix(USE): float(value) for name, value in attributes.items() if name.startswith(USE)}
