"""What a worker needs to know, written into the study by the driver and read by every worker: JSON, nothing pickled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial

from satx.config import Configuration, SessionConfig, validated
from satx.execution.cache_plan import cuts_to_keep
from satx.execution.sharing import TILES, Shared, path_here
from satx.models.weights_file import Weights
from satx.search.space import SweepConfig, suggest
from satx.storage import satx_home
from satx.tiles.store import TileStore, open_store
from satx.training.cache_room import Kept
from satx.training.contract import TrainingData


@dataclass(frozen=True)
class Job:
    """One study's work.

    Attributes:
        study_name: Its name.
        session: The curated tiles it is about.
        sweep: What is searched.
        defaults: The session's settings at the study's image size.
        store: The decoded tiles.
        weights: Starting weights of each backbone.
        experiment_id: Of MLflow.
        parent_run_id: The sweep's own run.
        trials: Finished and pruned configurations wanted in all.
        tags: What every run carries.
        bucket: `s3://bucket/prefix` through which inputs and checkpoints travel; empty where one machine works.
        shared: What lies there.
    """

    study_name: str
    session: SessionConfig
    sweep: SweepConfig
    defaults: Configuration
    store: TileStore
    weights: dict[str, Weights]
    experiment_id: str
    parent_run_id: str
    trials: int
    tags: dict[str, str]
    bucket: str = ""
    shared: Shared = field(default_factory=dict)

    @cached_property
    def cache_dir(self) -> Path:
        """Trunk caches and checkpoints; looked up once, since finding the project's folder takes milliseconds."""
        return satx_home() / "cache"

    @cached_property
    def kept(self) -> Kept:
        """What the trunk cache keeps for all trials; decided once a process."""
        return cuts_to_keep(self.sweep, self.defaults, self.store, self.cache_dir, num_trials=self.trials)

    def data_for(self, backbone: str) -> TrainingData:
        """What a training with this backbone reads."""
        positive_index = self.store.classes.index(self.session.positive_class)
        return TrainingData(self.store, self.weights[backbone], positive_index, self.cache_dir, self.kept)

    def configuration_of(self, trial: FrozenTrial) -> Configuration:
        """What a trial of the study has drawn."""
        return suggest(FixedTrial(trial.params), self.sweep, self.defaults)

    def checkpoint_dir(self, digest: str) -> Path:
        """Where the training of a configuration keeps its state."""
        return self.cache_dir / "checkpoints" / self.study_name / digest[:16]


def write_job(study: optuna.Study, job: Job) -> None:
    """Put a job into its study; later calls update it."""
    for name, value in {
        "session": job.session.model_dump(),
        "sweep": job.sweep.model_dump(),
        "defaults": job.defaults.model_dump(),
        "store": str(job.store.folder),
        "weights": {name: weights.as_dict() for name, weights in job.weights.items()},
        "experiment_id": job.experiment_id,
        "parent_run_id": job.parent_run_id,
        "trials": job.trials,
        "tags": job.tags,
        "bucket": job.bucket,
        "shared": job.shared,
    }.items():
        study.set_user_attr(name, value)


def read_job(study: optuna.Study) -> Job:
    """The job of a study, from what the driver wrote; what it reads is fetched, if it was made on another machine.

    Raises:
        DataError: Tiles or weights are not to be had.
        TrackerUnavailable: The bucket that has them cannot be reached.
    """
    attributes: dict[str, Any] = study.user_attrs
    shared = attributes["shared"]
    weights = {name: Weights(**found) for name, found in attributes["weights"].items()}
    files = {name: path_here(Path(found.file), name, shared) for name, found in weights.items()}
    source = f"study {study.study_name}"
    return Job(
        study_name=study.study_name,
        session=validated(SessionConfig, attributes["session"], source=source),
        sweep=validated(SweepConfig, attributes["sweep"], source=source),
        defaults=validated(Configuration, attributes["defaults"], source=source),
        store=open_store(path_here(Path(attributes["store"]), TILES, shared)),
        weights={name: replace(found, file=str(files[name])) for name, found in weights.items()},
        experiment_id=attributes["experiment_id"],
        parent_run_id=attributes["parent_run_id"],
        trials=attributes["trials"],
        tags=attributes["tags"],
        bucket=attributes["bucket"],
        shared=shared,
    )
