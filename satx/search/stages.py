"""What surrounds the trials: shared features and baselines before them, the finalists' test scores after them.

The test split is read here only, after selection: by the baselines, which select nothing, and by the best run of each
backbone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow.entities import Run

from satx.models.classifier import load_classifier
from satx.search.driver import Sweep
from satx.search.prepare import Notify
from satx.search.space import settings_of
from satx.search.study import owner_tag
from satx.tracking.paired import against_baselines
from satx.tracking.results import log_split_scores
from satx.tracking.runs import best_first, fetch_file, find_run, log_dataset, log_numbers, start_run
from satx.tracking.tracker import MlflowClient
from satx.training.baseline import fit_baseline
from satx.training.features import FeatureSource, build_all, feature_source
from satx.training.steps import predict


def log_baselines(sweep: Sweep, *, notify: Notify) -> None:
    """Compute every backbone's pooled features, and log a logistic regression on them: the baseline to beat."""
    job = sweep.job
    for backbone in job.sweep.backbones:
        source = features_of(sweep, backbone)
        build_all(source, on_progress=lambda done, total, name=backbone: notify(f"{name} features", done, total))  # type: ignore[misc]
        identity = {"study": job.study_name, "kind": "baseline", "backbone": backbone}
        found = find_run(sweep.client, job.experiment_id, identity)
        if found is not None and found.info.status == "FINISHED":
            continue
        splits = tuple(split for split in ("valid", "test") if len(job.store.rows(split)))
        baseline = fit_baseline(source, seed=job.defaults.train.seed, splits=splits)
        run_id = start_run(
            sweep.client,
            job.experiment_id,
            name=f"baseline-{backbone}",
            tags=job.tags | identity | owner_tag() | {"weights": job.weights[backbone].source},
            params={"model.backbone": backbone, "baseline.regularisation": baseline.regularisation},
            parent=job.parent_run_id,
        )
        log_dataset(sweep.client, run_id, job.store, job.session.experiment_name)
        for split, probabilities in baseline.probabilities.items():
            log_split_scores(sweep.client, run_id, split, probabilities, store=job.store, session=job.session)
        sweep.client.set_terminated(run_id, status="FINISHED")


def log_finalists(sweep: Sweep, *, notify: Notify) -> list[Run]:
    """Score the best run of each backbone on the test tiles, now that selection is over; returns these runs."""
    job = sweep.job
    finalists = []
    for number, backbone in enumerate(job.sweep.backbones):
        notify("scoring the best of each backbone", number, len(job.sweep.backbones))
        run = best_run(sweep.client, job.experiment_id, job.study_name, backbone)
        if run is None:
            continue
        if len(job.store.rows("test")) and "test_auc" not in run.data.metrics:
            with tempfile.TemporaryDirectory() as folder:
                path = fetch_file(sweep.client, run.info.run_id, "model", Path(folder))
                if path is None:
                    continue
                classifier = load_classifier(path, weights_sha256=run.data.tags.get("weights_sha256"))
                probabilities = predict(classifier.network, job.store, "test")
            log_split_scores(sweep.client, run.info.run_id, "test", probabilities, store=job.store, session=job.session)
        finalists.append(sweep.client.get_run(run.info.run_id))
    notify("scoring the best of each backbone", len(job.sweep.backbones), len(job.sweep.backbones))
    return sorted(finalists, key=best_first)


def versus_baselines(sweep: Sweep, finalists: list[Run]) -> list[str]:
    """What to say of the winner and the baselines it was to beat; nothing when there are no test tiles."""
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
    """Give every configuration its share of the seconds that features took for all of them."""
    job = sweep.job
    for backbone in job.sweep.backbones:
        query = f"tags.study = '{job.study_name}' and tags.backbone = '{backbone}' and tags.configuration LIKE '%'"
        runs = sweep.client.search_runs([job.experiment_id], filter_string=query, max_results=5000)
        share = features_of(sweep, backbone).build_seconds() / max(1, len(runs))
        for run in runs:
            if run.data.metrics.get("shared_seconds") != share:
                log_numbers(sweep.client, run.info.run_id, {"shared_seconds": share})


def features_of(sweep: Sweep, backbone: str) -> FeatureSource:
    """The pooled features that every trial of this backbone reads."""
    job = sweep.job
    settings = settings_of(job.sweep, job.defaults)
    data = job.data_for(backbone)
    return feature_source(settings, job.store, data.weights, data.cache_dir)


def best_run(client: MlflowClient, experiment_id: str, study: str, backbone: str) -> Run | None:
    """The finished configuration of highest validation AUC (ties: lowest validation loss) whose model is kept."""
    query = f"tags.study = '{study}' and tags.backbone = '{backbone}' and tags.model = 'kept' and attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment_id], filter_string=query, max_results=1000)
    return min(runs, key=best_first, default=None)
