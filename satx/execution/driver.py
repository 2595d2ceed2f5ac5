"""The driver, which creates or resumes a sweep's study, experiment and parent run; one driver per study."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import optuna

from satx.errors import ConfigError
from satx.execution.job import Job, read_job, write_job
from satx.execution.sharing import s3_client, share_inputs
from satx.search.identity import identity_of, keras_backend, study_name, what_changed
from satx.search.space import SweepConfig, fixed_settings, start_params
from satx.sessions.prepare import PreparedSession
from satx.storage import locked, satx_home, write_text
from satx.study.database import PATIENCE_SECONDS, open_storage, open_study, set_value_name
from satx.study.outcomes import CALLED_AT, counted
from satx.study.owner import named_owner, owner_tag, owner_text
from satx.study.reconcile import reconcile, settle_leftovers
from satx.tracking.client import MlflowClient, experiment_id, open_tracker
from satx.tracking.provenance import inputs_tag
from satx.tracking.runs import Opening, dataset_fields, open_run
from satx.training.contract import TRAINER_VERSION


@dataclass
class Sweep:
    """A running sweep.

    Attributes:
        job: The job that the workers read.
        study: The study that the workers share.
        client: The MLflow client.
        changed: How it differs from the last sweep of this session and name, or None.
        interrupts: Number of stop signals received.
        timed_out: Whether the time limit was reached.
        workers: Running worker processes, by their number.
        signaled: Ids of processes that were sent a stop signal; a second signal would end them at once.
        killed: Ids of processes that the driver killed.
        deaths: Workers killed by a signal from elsewhere since a configuration was last done.
        num_done: Configurations done when a worker last died.
    """

    job: Job
    study: optuna.Study
    client: MlflowClient
    changed: str | None
    interrupts: int = 0
    timed_out: bool = False
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    signaled: set[int] = field(default_factory=set)
    killed: set[int] = field(default_factory=set)
    deaths: int = 0
    num_done: int = -1


def name_of_study(prepared: PreparedSession, sweep: SweepConfig) -> tuple[str, dict[str, object]]:
    """Return the study's name and the identity stored with it."""
    identity = identity_of(
        sweep=sweep,
        fixed=fixed_settings(sweep, prepared.defaults),
        data_digest=prepared.store.digest,
        weights={name: weights.digest for name, weights in prepared.weights.items()},
        image_size_px=prepared.store.image_size_px,
        trainer=TRAINER_VERSION,
        backend=keras_backend(),
    )
    return study_name(prepared.session.experiment_name, sweep.name, identity), identity


def num_done(name: str) -> int:
    """Return how many configurations of a study are finished or pruned; 0 if the study does not exist."""
    storage = open_storage()
    return len(counted(open_study(storage, name))) if name in optuna.get_all_study_names(storage=storage) else 0


@contextmanager
def only_driver(name: str) -> Iterator[None]:
    """Hold the study's driver lock, which is released at the latest when the process ends.

    Raises:
        ConfigError: Another driver of this study is running.
    """
    path = satx_home() / "locks" / name
    with locked(path, wait=False) as held:
        if not held:
            raise ConfigError(f"Sweep {name} is in use by {named_owner(path)}. Wait for it, or stop it first.")
        write_text(path, owner_text("satx sweep"))
        yield


def open_sweep(
    prepared: PreparedSession,
    sweep: SweepConfig,
    trials: int,
    *,
    git_commit: str,
    bucket: str = "",
    tracking_uri: str | None = None,
) -> Sweep:
    """Create the study, its experiment and parent run, or resume them.

    Args:
        prepared: The session.
        sweep: The sweep with its search space.
        trials: Finished and pruned configurations wanted in total.
        git_commit: Commit of the project, for the runs' tags.
        bucket: `s3://bucket/prefix` that machines share; empty if one machine works alone.
        tracking_uri: URI of the MLflow server to write to; None for the environment's or the embedded store.
    """
    name, identity = name_of_study(prepared, sweep)
    storage = open_storage(patience_seconds=PATIENCE_SECONDS)
    prefix = f"{prepared.session.experiment_name}-{sweep.name}"
    changed = what_changed(storage, prefix, name, dict(identity))
    client = open_tracker(tracking_uri)
    experiment = experiment_id(client, prepared.session.experiment_name)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    set_value_name(study)
    tags = tags_of(prepared, sweep.name, git_commit)
    settle_leftovers(client, experiment, storage)
    parent = open_parent_run(client, experiment, name, tags, prepared)
    study.set_user_attr("identity", identity)
    bucket = bucket.rstrip("/")
    shared = share_inputs(s3_client(), bucket, prepared.store, prepared.weights) if bucket else {}
    job = Job(
        name,
        prepared.session,
        sweep,
        prepared.defaults,
        prepared.store,
        prepared.weights,
        experiment,
        parent,
        trials,
        tags,
        bucket,
        shared,
    )
    write_job(study, job)
    take_up(study, client, experiment)
    for start in sweep.start:
        study.enqueue_trial(start_params(sweep, start), skip_if_exists=True)
    return Sweep(job=read_job(study), study=study, client=client, changed=changed)


def tags_of(prepared: PreparedSession, sweep_name: str, git_commit: str) -> dict[str, str]:
    """Return the tags of every run of a sweep."""
    return {
        "session": prepared.session.experiment_name,
        "task": prepared.session.task,
        "sweep": sweep_name,
        "data_digest": prepared.store.digest,
        "git_commit": git_commit,
        "trainer": str(TRAINER_VERSION),
        "backend": keras_backend(),
        "sample": str(prepared.store.sample).lower(),
        **inputs_tag(prepared.session, prepared.store.folder, prepared.weights),
    }


def open_parent_run(
    client: MlflowClient, experiment_id: str, study_name: str, tags: dict[str, str], prepared: PreparedSession
) -> str:
    """Create or resume the parent run of a study's runs, and return its id."""
    opening = Opening(
        identity={"study": study_name, "kind": "sweep"},
        name=study_name,
        tags=tags,
        params={},
        parent=None,
        dataset=dataset_fields(prepared.store, prepared.session.experiment_name),
        attempt_tags=owner_tag(),
    )
    run, _ = open_run(client, experiment_id, opening)
    return str(run.info.run_id)


def take_up(study: optuna.Study, client: MlflowClient, experiment_id: str) -> None:
    """Reconcile what an earlier call left; its failures do not count towards this call's limit."""
    reconcile(study, client, experiment_id)
    study.set_user_attr(CALLED_AT, time.time())


def close_sweep(sweep: Sweep, status: str) -> None:
    """End the parent run: `FINISHED`, or `KILLED` if the next call is to continue the sweep."""
    sweep.client.set_terminated(sweep.job.parent_run_id, status=status)
