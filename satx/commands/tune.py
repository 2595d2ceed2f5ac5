"""`satx tune`: sweep a user's own KerasTuner HyperModel on a session's tiles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import keras_tuner
import optuna

from satx.commands.console import banners, git_commit, next_commands, out, table
from satx.commands.progress import progress_bars
from satx.commands.stopping import stoppable
from satx.errors import ConfigError, SweepStopped
from satx.execution.driver import only_driver, open_parent_run, tags_of, take_up
from satx.execution.summary import log_curves, log_summary
from satx.execution.tuning import TUNER_VERSION, Tuning, tune
from satx.search.hypermodel import TileHyperModel, load_hypermodel, reason_of
from satx.search.identity import keras_backend, study_name
from satx.search.keras_tuner_oracle import HYPERPARAMETERS
from satx.sessions.prepare import PreparedSession, SessionRequest, notices_ahead, prepare
from satx.storage import file_digest
from satx.study.admission import why_exhausted
from satx.study.database import PATIENCE_SECONDS, do_not_wait, open_storage, set_value_name
from satx.study.outages import BREAKS
from satx.study.outcomes import counted
from satx.study.reconcile import settle_leftovers
from satx.tracking.client import experiment_id, open_tracker, waiting_longer


@stoppable()
def tune_command(path: Path, request: SessionRequest, *, trials: int, epochs: int, batch_size: int) -> None:
    """Run the trials, or continue them; file, tiles, epochs and batch size are the study's identity."""
    build = load_hypermodel(path)
    banners(notices_ahead(request))
    with progress_bars() as on_progress:
        prepared = prepare(request, (), on_progress=on_progress)
    banners(prepared.notices)
    hypermodel = _constructed(build, path, prepared, batch_size)
    identity = {
        "tuner": TUNER_VERSION,
        "backend": keras_backend(),
        "hypermodel": file_digest(path),
        "data": prepared.store.digest,
        "image_size_px": prepared.store.image_size_px,
        "fit": [epochs, batch_size, prepared.defaults.train.seed],
    }
    name = study_name(prepared.session.experiment_name, path.stem, identity)
    with waiting_longer(), only_driver(name):
        study, tuning = _opened(name, path, hypermodel, prepared, epochs=epochs)
        status = "KILLED"
        try:
            with progress_bars() as on_progress:
                tune(study, tuning, trials=trials, on_trial=lambda: on_progress("trials", len(counted(study)), trials))
            with suppress(*BREAKS):  # a sweep does not depend on what its run shows
                log_curves(tuning.client, study, tuning.parent_run_id)
            status = "FINISHED"
        finally:
            tuning.client.set_terminated(tuning.parent_run_id, status=status)
            do_not_wait(study)
            with suppress(*BREAKS):  # what ended the sweep may make its summary impossible too
                log_summary(tuning.client, study, tuning.parent_run_id, wanted=trials)
    done = len(counted(study))
    if not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        raise SweepStopped(f"Expected a trial that finished, got {done} pruned ones; look at their curves: make ui.")
    rows = [[name, value] for name, value in study.best_trial.user_attrs[HYPERPARAMETERS].items()]
    table(f"Best of {done}: validation AUC {study.best_value:.4f}", ["hyperparameter", "value"], rows)
    ended = "" if done >= trials else f" finished with {done} of {trials} configurations: {why_exhausted(study)}"
    out.print(f"Study {name}{ended}.", highlight=False)
    next_commands({"make ui": "MLflow on 127.0.0.1: the trials' curves"})


def _constructed(
    build: Callable[..., keras_tuner.HyperModel], path: Path, prepared: PreparedSession, batch_size: int
) -> TileHyperModel:
    """Construct the user's HyperModel, with the tiles.

    Raises:
        ConfigError: Its constructor raises an error, or its `fit` takes the tiles in a form that satx does not have.
    """
    store = prepared.store
    try:
        inner = build(image_size_px=store.image_size_px, num_classes=len(store.classes))
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(
            f"{path}: expected a HyperModel that can be constructed, got {reason_of(error, path)}. Fix it."
        ) from error
    seed = prepared.defaults.train.seed
    return TileHyperModel(inner, store, batch_size=batch_size, seed=seed, source=str(path))


def _opened(
    name: str, path: Path, hypermodel: TileHyperModel, prepared: PreparedSession, *, epochs: int
) -> tuple[optuna.Study, Tuning]:
    """Create or load the study; return it with what its trials share."""
    client, session = open_tracker(), prepared.session
    storage = open_storage(patience_seconds=PATIENCE_SECONDS)
    experiment = experiment_id(client, session.experiment_name)
    settle_leftovers(client, experiment, storage)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    study = optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
    )
    set_value_name(study)
    take_up(study, client, experiment)
    tags = tags_of(prepared, path.stem, git_commit()) | {"study": name}
    return study, Tuning(
        path=path,
        hypermodel=hypermodel,
        prepared=prepared,
        client=client,
        experiment_id=experiment,
        parent_run_id=open_parent_run(client, experiment, name, tags, prepared),
        tags=tags | {"backbone": path.stem},
        epochs=epochs,
    )
