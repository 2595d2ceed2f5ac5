"""The job of a study: the driver writes it into the study as JSON, and every worker reads it; nothing is pickled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial

from satx.config import Configuration, validated
from satx.execution.cache_plan import cuts_to_keep
from satx.execution.sharing import TILES, Shared, path_here
from satx.models.weights_file import Weights
from satx.search.space import SweepConfig, suggest
from satx.session_config import SessionConfig
from satx.storage import satx_home
from satx.tiles.store import TileStore, open_store
from satx.training.cache_room import Kept
from satx.training.contract import TrainingData


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to train a study's trials.

    Attributes:
        study_name: Name of the study.
        session: The session with its curated tiles.
        sweep: The sweep with its search space.
        defaults: The session's settings at the study's image size.
        store: The decoded tiles.
        weights: Starting weights, by backbone.
        experiment_id: Id of the MLflow experiment.
        parent_run_id: Id of the sweep's parent run.
        trials: Finished and pruned configurations wanted in total.
        tags: Tags of every run.
        bucket: `s3://bucket/prefix` for inputs and checkpoints; empty if one machine works alone.
        shared: URI and digest of each input in the bucket.
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
        """Folder of trunk caches and checkpoints; cached, since finding the project's folder takes milliseconds."""
        return satx_home() / "cache"

    @cached_property
    def kept(self) -> Kept:
        """Cuts that the trunk cache keeps for all trials, by backbone; selected once per process."""
        return cuts_to_keep(self.sweep, self.defaults, self.store, self.cache_dir, num_trials=self.trials)

    def data_for(self, backbone: str) -> TrainingData:
        """Return the inputs of a training with this backbone."""
        positive_index = self.store.classes.index(self.session.positive_class)
        return TrainingData(self.store, self.weights[backbone], positive_index, self.cache_dir, self.kept)

    def configuration_of(self, trial: FrozenTrial) -> Configuration:
        """Return the configuration that a trial of the study drew."""
        return suggest(FixedTrial(trial.params), self.sweep, self.defaults)

    def checkpoint_dir(self, digest: str) -> Path:
        """Return the checkpoint folder of a configuration."""
        return self.cache_dir / "checkpoints" / self.study_name / digest[:16]


def write_job(study: optuna.Study, job: Job) -> None:
    """Write a job into its study; later calls overwrite it."""
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
    """Read the job that the driver wrote into a study; fetch tiles and weights that are not on this machine.

    Raises:
        DataError: Tiles or weights cannot be obtained.
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
