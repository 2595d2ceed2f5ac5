"""The steps after the trials: baselines, models of the leading runs, and test scores of the finalists.

The test split is read only here, after selection: by the baselines, which select nothing, and by the best run of each
backbone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow.entities import Run

from satx.execution.cache_fill import trunk_of
from satx.execution.driver import Sweep
from satx.inference.predictor import predict_split
from satx.models.classifier import load_classifier
from satx.reports.paired import against_baselines
from satx.search.space import BACKBONE, value_of
from satx.sessions.prepare import OnStage
from satx.study.outcomes import counted
from satx.study.owner import owner_tag
from satx.tracking.client import MlflowClient
from satx.tracking.kept_models import KEPT, TRAINED
from satx.tracking.naming import COLOR, NOTE, run_color
from satx.tracking.results import log_split_scores, write_model
from satx.tracking.runs import (
    Opening,
    best_first,
    dataset_fields,
    fetch_file,
    find_run,
    find_runs,
    log_numbers,
    open_run,
    runs_query,
)
from satx.training.baseline import fit_baseline


def log_baselines(sweep: Sweep, *, on_progress: OnStage) -> None:
    """Log the baseline of each backbone that was drawn: a logistic regression on its pooled features."""
    job = sweep.job
    found_in = {value_of(job.sweep, trial, BACKBONE) for trial in counted(sweep.study)}
    drawn = [backbone for backbone in job.sweep.backbones if backbone in found_in]
    for number, backbone in enumerate(drawn):
        on_progress("fitting baselines", number, len(drawn))
        identity = {"study": job.study_name, "kind": "baseline", "backbone": backbone}
        found = find_run(sweep.client, job.experiment_id, identity)
        if found is not None and found.info.status == "FINISHED":
            continue
        splits = tuple(split for split in ("valid", "test") if len(job.store.rows(split)))
        baseline = fit_baseline(trunk_of(job, backbone), seed=job.defaults.train.seed, splits=splits)
        opening = Opening(
            identity=identity,
            name=f"{backbone} baseline",
            tags=job.tags
            | {
                "weights": job.weights[backbone].source,
                COLOR: run_color(backbone),
                NOTE: f"The score to beat: a logistic regression on the pooled features of {backbone} with its starting "
                "weights, of which nothing is trained.",
            },
            params={"model.backbone": backbone, "baseline.regularisation": baseline.regularization},
            parent=job.parent_run_id,
            dataset=dataset_fields(job.store, job.session.experiment_name),
            attempt_tags=owner_tag(),
        )
        run, _ = open_run(sweep.client, job.experiment_id, opening)
        for split, probabilities in baseline.probabilities.items():
            log_split_scores(sweep.client, run, split, probabilities, store=job.store, session=job.session)
        sweep.client.set_terminated(run.info.run_id, status="FINISHED")
    on_progress("fitting baselines", len(drawn), len(drawn))


def log_finalists(sweep: Sweep, *, on_progress: OnStage) -> list[Run]:
    """Score the best run of each backbone on the test tiles, after selection, and return these runs."""
    job = sweep.job
    _write_models(sweep, on_progress)
    finalists = []
    for number, backbone in enumerate(job.sweep.backbones):
        on_progress("scoring the best of each backbone", number, len(job.sweep.backbones))
        run = best_run(sweep.client, job.experiment_id, job.study_name, backbone)
        if run is None:
            continue
        if len(job.store.rows("test")) and "test_auc" not in run.data.metrics:
            with tempfile.TemporaryDirectory() as folder:
                path = fetch_file(sweep.client, run.info.run_id, "model", Path(folder))
                if path is None:
                    continue
                classifier = load_classifier(path, weights_sha256=run.data.tags.get("weights_sha256"))
                probabilities = predict_split(classifier.network, job.store, "test")
            log_split_scores(sweep.client, run, "test", probabilities, store=job.store, session=job.session)
        finalists.append(sweep.client.get_run(run.info.run_id))
    on_progress("scoring the best of each backbone", len(job.sweep.backbones), len(job.sweep.backbones))
    return sorted(finalists, key=best_first)


def _write_models(sweep: Sweep, on_progress: OnStage) -> None:
    """Write model, plots and predictions of the leading runs, which have only their trained values so far."""
    job = sweep.job
    query = runs_query({"study": job.study_name, "model": TRAINED}, status="FINISHED")
    waiting = find_runs(sweep.client, job.experiment_id, query)
    for number, run in enumerate(waiting):
        on_progress("writing models of the leading runs", number, len(waiting))
        weights = job.weights[run.data.tags["backbone"]]
        write_model(sweep.client, run, weights, store=job.store, session=job.session)
    on_progress("writing models of the leading runs", len(waiting), len(waiting))


def versus_baselines(sweep: Sweep, finalists: list[Run]) -> list[str]:
    """Return sentences that compare the winner with each baseline on the test tiles; empty without test tiles."""
    job = sweep.job
    if not finalists or not len(job.store.rows("test")):
        return []
    found = {
        backbone: find_run(
            sweep.client, job.experiment_id, {"study": job.study_name, "kind": "baseline", "backbone": backbone}
        )
        for backbone in job.sweep.backbones
    }
    ids = {backbone: str(run.info.run_id) for backbone, run in found.items() if run and run.info.status == "FINISHED"}
    winner = str(finalists[0].info.run_id)
    return against_baselines(sweep.client, winner, ids, positive_class=job.session.positive_class)


def log_shared_seconds(sweep: Sweep) -> None:
    """Log each configuration's share of the seconds that filling the shared trunk cache took.

    Entries that an earlier sweep or training filled cost this one nothing. Entries evicted since are not counted, since
    their seconds are no longer known.
    """
    job = sweep.job
    trials = sweep.study.get_trials(deepcopy=False)
    begun = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start is not None]
    for backbone in job.sweep.backbones:
        query = runs_query({"study": job.study_name, "backbone": backbone}, having=("configuration",))
        runs = find_runs(sweep.client, job.experiment_id, query)
        seconds = trunk_of(job, backbone).build_seconds(since_seconds=min(begun, default=float("inf")))
        share = seconds / max(1, len(runs))
        for run in runs:
            if run.data.metrics.get("shared_seconds") != share:
                log_numbers(sweep.client, run.info.run_id, {"shared_seconds": share})


def best_run(client: MlflowClient, experiment_id: str, study: str, backbone: str) -> Run | None:
    """Return the best finished run whose model is kept, or None.

    Confirmed runs come first, by their mean; then the highest validation AUC decides (ties: lowest validation loss).
    """
    query = runs_query({"study": study, "backbone": backbone, "model": KEPT}, status="FINISHED")
    runs = find_runs(client, experiment_id, query)
    return min(runs, key=best_first, default=None)
