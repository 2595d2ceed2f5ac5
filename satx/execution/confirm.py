"""Confirmation after the search: the best configurations are trained again with other seeds.

The highest of 200 scores on 100 tiles is partly due to chance; a mean over seeds is less so. The runs of this step have
the tag `kind=confirm` and, in the tag `confirms`, the digest of the configuration that they confirm. They do not count
as configurations of the sweep.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mlflow.entities import Run

from satx.config import Configuration
from satx.environment import num_threads
from satx.errors import Interrupted, OutOfMemory, SweepStopped, TrialFailed
from satx.execution.driver import Sweep
from satx.execution.training_run import TrainingRun, train_into_run
from satx.sessions.prepare import OnStage
from satx.study.owner import owner_tag
from satx.tracking.curves import direct_curves
from satx.tracking.machine_load import machine_load
from satx.tracking.naming import COLOR, NOTE, run_color, run_link
from satx.tracking.provenance import recorded_configuration
from satx.tracking.runs import (
    CONFIRMED,
    Opening,
    dataset_fields,
    find_run,
    find_runs,
    log_numbers,
    open_run,
    own_score_first,
    runs_query,
)
from satx.tracking.writer import DirectWriter
from satx.training.checkpoint import remove_checkpoint
from satx.training.contract import run_params
from satx.training.devices import device_name
from satx.training.trainer import train

AUC_OF_CHANCE = 0.5  # score of a seed whose training failed: a configuration that may fail is no better than chance


@dataclass(frozen=True)
class Confirmation:
    """Progress of the confirmation.

    Attributes:
        num_confirmed: Configurations trained with all their seeds.
        num_wanted: Configurations to confirm.
        compute_seconds: Seconds of training that this and earlier calls spent on them.
    """

    num_confirmed: int
    num_wanted: int
    compute_seconds: float


def confirm_best(sweep: Sweep, *, ends_at: float = float("inf"), on_progress: OnStage) -> Confirmation:
    """Train the sweep's best configurations with more seeds, and log the mean score with the run that it confirms.

    After an interruption the next call continues: finished trainings are not repeated.

    Args:
        sweep: The sweep.
        ends_at: When to stop, on `time.monotonic`'s clock.
        on_progress: Called with the progress.

    Raises:
        SweepStopped: Memory ran out on this machine, which says nothing about the configuration.
    """
    settings = sweep.job.sweep.confirm
    query = runs_query({"study": sweep.job.study_name}, having=("model",), status="FINISHED")
    runs = find_runs(sweep.client, sweep.job.experiment_id, query)
    leading = [run for run in runs if run.data.tags["model"] != "dropped"]
    best = sorted(leading, key=own_score_first)[: settings.num_configurations]
    total = len(best) * settings.num_seeds
    num_confirmed, spent = 0, 0.0
    for number, run in enumerate(best):
        scores = [run.data.metrics["best_val_auc"]]
        for seed in range(1, settings.num_seeds + 1):
            done = number * settings.num_seeds + seed - 1
            what = f"confirming the best {len(best)} with {settings.num_seeds} more seeds"
            on_progress(what, done, total)
            try:
                again = _trained_again(sweep, run, seed, stop=lambda: time.monotonic() > ends_at)
            except Interrupted:
                return Confirmation(num_confirmed, len(best), spent)
            failed = again.info.status != "FINISHED"
            scores.append(AUC_OF_CHANCE if failed else again.data.metrics["best_val_auc"])
            spent += again.data.metrics.get("compute_seconds", 0.0)
            on_progress(what, done + 1, total)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        numbers = {CONFIRMED: statistics.mean(scores), f"{CONFIRMED}_std": spread, "num_seeds": float(len(scores))}
        log_numbers(sweep.client, run.info.run_id, numbers)
        num_confirmed += 1
    return Confirmation(num_confirmed, len(best), spent)


def unconfirmed_leaders(sweep: Sweep, finalists: list[Run]) -> list[str]:
    """Return a sentence for each confirmed finalist whose own score is below that of a later, unconfirmed run."""
    notes, then = [], "; the same command confirms it" if sweep.job.sweep.confirm.num_configurations else ""
    for chosen in [run for run in finalists if CONFIRMED in run.data.metrics]:
        of_backbone = {"study": sweep.job.study_name, "backbone": chosen.data.tags["backbone"]}
        query = runs_query(of_backbone, having=("configuration",), status="FINISHED")
        runs = find_runs(sweep.client, sweep.job.experiment_id, query)
        ahead = min((run for run in runs if CONFIRMED not in run.data.metrics), key=own_score_first, default=chosen)
        if own_score_first(ahead) < own_score_first(chosen):
            notes.append(
                f"{ahead.info.run_name} has validation AUC {ahead.data.metrics['best_val_auc']:.4f} with one seed, more than "
                f"{chosen.info.run_name} with its first seed, but is not confirmed yet{then}."
            )
    return notes


def _trained_again(sweep: Sweep, run: Run, seed: int, *, stop: Callable[[], bool]) -> Run:
    """Train a run's configuration with `seed` added to its seed, and return the new run, finished or failed."""
    client, job = sweep.client, sweep.job
    configuration = _with_seed(sweep, run, seed)
    digest = configuration.digest()
    identity = {
        "study": job.study_name,
        "kind": "confirm",
        "confirms": run.data.tags["configuration"],
        "seed": str(seed),
    }
    found = find_run(client, job.experiment_id, identity)
    if found is not None and found.info.status in ("FINISHED", "FAILED"):
        return found
    if stop():
        raise Interrupted("Stopped before the next confirming run; the same command continues.")
    opening = Opening(
        identity=identity,
        name=f"{run.info.run_name} seed {configuration.train.seed}",
        tags=job.tags
        | {name: run.data.tags[name] for name in ("backbone", "weights", "weights_digest")}
        | {
            COLOR: run_color(configuration.model.backbone, seed),
            NOTE: f"Trains the configuration of {run_link(run)} again, with seed {configuration.train.seed}. "
            f"The mean over all seeds is that run's `{CONFIRMED}`.",
        },
        params=run_params(configuration, len(job.store.classes)),
        parent=job.parent_run_id,
        dataset=dataset_fields(job.store, job.session.experiment_name),
        attempt_tags={"device": device_name(), "threads": str(num_threads()), **owner_tag()},
    )
    again, _ = open_run(client, job.experiment_id, opening)
    data, folder = job.data_for(configuration.model.backbone), job.checkpoint_dir(digest)
    into = TrainingRun(
        configuration,
        job.store,
        job.session,
        DirectWriter(client, again),
        direct_curves(client, again, load=machine_load),
        resumable=(Interrupted, OutOfMemory),
    )
    try:
        train_into_run(into, partial(train, configuration, data, checkpoint_dir=folder, stop=stop))
    except OutOfMemory as reason:
        raise SweepStopped(
            f"Confirming {run.info.run_name} needs more memory than this machine has: {reason} Free some and run the same "
            f"command, or remove `confirm` from sweeps/{job.sweep.name}.yaml, which keeps the study."
        ) from reason
    except TrialFailed:
        pass  # recorded in the run; the caller uses `AUC_OF_CHANCE` as its score
    remove_checkpoint(folder)
    return client.get_run(again.info.run_id)


def _with_seed(sweep: Sweep, run: Run, seed: int) -> Configuration:
    configuration = recorded_configuration(sweep.client, run.info.run_id)
    return configuration.with_values({"train.seed": configuration.train.seed + seed}, source=f"run {run.info.run_id}")
