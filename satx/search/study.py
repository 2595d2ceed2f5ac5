"""The study: its storage, its identity, and who is working on which of its trials.

A study's name carries the digest of what its scores depend on (space, tiles, weights, size, trainer), so scores of
different things never mix; the same command finds the same study and goes on with it.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from satx.config import Configuration
from satx.errors import ConfigError
from satx.search.pruning import RungPruner
from satx.search.space import SweepConfig
from satx.storage import digest_of

optuna.logging.set_verbosity(optuna.logging.WARNING)

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def identity_of(
    *,
    sweep: SweepConfig,
    fixed: dict[str, Any],
    data_digest: str,
    weights: dict[str, str],
    image_size_px: int,
    trainer: int,
    backend: str,
) -> dict[str, Any]:
    """What a study's scores depend on, part by part. How many trials are wanted is not among it.

    Args:
        sweep: What is searched.
        fixed: The settings that it does not draw, the session's defaults among them.
        data_digest: Of the tiles.
        weights: Digest of each backbone's weights.
        image_size_px: Edge of the tiles.
        trainer: Version of the trainer.
        backend: Keras's, whose rounding differs.
    """
    space = sweep.model_dump(exclude={"trials", "keep_models_per_backbone", "confirm", "set"})
    return {
        "space": digest_of([space, fixed]),
        "data": data_digest,
        "weights": digest_of(weights),
        "image_size_px": image_size_px,
        "trainer": trainer,
        "backend": backend,
    }


def keras_backend() -> str:
    """The one that this process trains with, told without importing Keras."""
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def study_name(experiment: str, sweep: str, identity: dict[str, Any]) -> str:
    """`session2-quick-1a2b3c4d`."""
    return f"{experiment}-{sweep}-{digest_of(identity)[:8]}"


def what_changed(storage: RDBStorage, prefix: str, name: str, identity: dict[str, Any]) -> str | None:
    """How this study differs from the newest other one of the same session and sweep, or None if there is none."""
    summaries = optuna.get_all_study_summaries(storage=storage)
    same_kind = [s for s in summaries if s.study_name.rpartition("-")[0] == prefix]
    others = [s for s in same_kind if s.study_name != name and "identity" in s.user_attrs and s.datetime_start]
    if not others or any(s.study_name == name for s in summaries):
        return None
    newest = max(others, key=lambda summary: str(summary.datetime_start))
    changed = [part for part, value in identity.items() if newest.user_attrs["identity"].get(part) != value]
    return f"{', '.join(changed)} changed since study {newest.study_name}"


def pruner_for(sweep: SweepConfig, defaults: Configuration) -> optuna.pruners.BasePruner:
    """The sweep's pruner."""
    settings = sweep.pruner
    if settings.name == "rungs":
        return RungPruner(sweep, defaults)
    if settings.name == "median":
        return optuna.pruners.MedianPruner(settings.num_startup_trials, n_warmup_steps=settings.num_warmup_epochs)
    return optuna.pruners.NopPruner()


def open_study(storage: RDBStorage, name: str) -> optuna.Study:
    """A study that the driver created.

    Raises:
        ConfigError: There is no such study.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        names = optuna.get_all_study_names(storage=storage)
        raise ConfigError(
            f"Expected the name of a study, got {name!r}. Known: {', '.join(names) or 'none'}."
        ) from error


def owner_of_this_process() -> dict[str, Any]:
    """Who works on a trial, precise enough that a reused process id is not taken for the living worker."""
    return {
        "host": owner_host(),
        "ids": _ids(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "started": _started(psutil.Process()),
        "memory_kills": _memory_kills(),
    }


def owner_tag() -> dict[str, str]:
    """The same as a run's tag, for runs that no trial stands for: a sweep's own, a baseline's, a single training's."""
    return {"owner": json.dumps(owner_of_this_process())}


def owner_host() -> str:
    """This machine's name, as owners carry it, and its installation's id, since names are not always its own."""
    path = Path("/etc/machine-id")
    return f"{socket.gethostname()} {path.read_text().strip()[:12] if path.exists() else ''}".strip()


def _ids() -> str:
    """In which space process ids mean what they mean here: containers may share name, installation, and the number 1."""
    path = Path("/proc/self/ns/pid")
    return str(path.readlink()) if path.is_symlink() else ""


def owner_is_dead(owner: dict[str, Any] | None) -> bool:
    """True only when the owner was on this machine and is gone; another machine's worker is left alone."""
    if not owner or owner["host"] != owner_host():
        return False
    if owner["boot"] != _boot_id():
        return True
    if owner.get("ids", _ids()) != _ids():  # of another container here: where studies are shared it may live, and beats
        return not os.environ.get("SATX_STUDY_URL", "").startswith("postgresql")
    try:
        process = psutil.Process(owner["pid"])
        return bool(abs(_started(process) - owner["started"]) > 1.0 or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count towards `TRIALS`: finished and pruned configurations, each once."""
    return counted_of(study.get_trials(deepcopy=False))


def counted_of(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The same of trials that were read already."""
    return [trial for trial in trials if trial.state in DONE and "duplicate_of" not in trial.user_attrs]


def memory_ran_out_since(owner: dict[str, Any] | None) -> bool:
    """Whether the kernel of this machine has ended a process for want of memory since this owner wrote itself down."""
    if not owner or owner["host"] != owner_host() or owner["boot"] != _boot_id():
        return False
    return bool(_memory_kills() > owner.get("memory_kills", float("inf")))


def _memory_kills() -> int:
    """How often since its start, containers' limits included; 0 where the kernel does not say."""
    path = Path("/proc/vmstat")
    counts = dict(line.split() for line in path.read_text().splitlines()) if path.exists() else {}
    return int(counts.get("oom_kill", 0))


def _started(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's, which no setting of the clock moves."""
    return process.create_time() - psutil.boot_time()


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(psutil.boot_time())
