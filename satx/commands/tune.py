"""`satx tune`: sweep a user's own KerasTuner HyperModel on a session's tiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras_tuner
import optuna

from satx.commands.console import banner, git_commit, next_commands, out, progress_bars, stop_signals_raise, table
from satx.errors import Interrupted, SweepStopped
from satx.execution.driver import only_driver, open_parent_run, tags_of, take_up
from satx.execution.tuning import HYPERPARAMETERS, Tuning, tune
from satx.search.identity import study_name
from satx.search.keras_tuner_space import load_hypermodel
from satx.sessions.prepare import PreparedSession, SessionRequest, prepare
from satx.storage import file_digest
from satx.study.database import open_storage
from satx.study.outcomes import DONE
from satx.study.reconcile import settle_leftovers
from satx.tracking.client import experiment_id, open_tracker


def tune_command(path: Path, request: SessionRequest, *, trials: int, epochs: int, batch_size: int) -> None:
    """Run the trials, or continue them; file, tiles, epochs and batch size are the study's identity."""
    build = load_hypermodel(path)
    with progress_bars() as on_progress:
        prepared = prepare(request, (), on_progress=on_progress)
    for notice in prepared.notices:
        banner(notice)
    identity = {
        "hypermodel": file_digest(path),
        "data": prepared.store.digest,
        "image_size_px": prepared.store.image_size_px,
        "fit": [epochs, batch_size, prepared.defaults.train.seed],
    }
    name = study_name(prepared.session.experiment_name, path.stem, identity)
    with only_driver(name):
        study, tuning = _opened(name, path.stem, build, prepared, epochs=epochs, batch_size=batch_size)
        status = "KILLED"
        try:
            with stop_signals_raise(), progress_bars() as on_progress:
                tune(study, tuning, trials=trials, on_trial=lambda done: on_progress("trials", done, trials))
            status = "FINISHED"
        except KeyboardInterrupt as error:
            raise Interrupted("Stopped. Finished trials are kept; the same command continues.") from error
        finally:
            tuning.client.set_terminated(tuning.parent_run_id, status=status)
    if not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        raise SweepStopped(f"Expected a trial that finished, got {trials} pruned ones; look at their curves: make ui.")
    rows = [[name, value] for name, value in study.best_trial.user_attrs[HYPERPARAMETERS].items()]
    done = len(study.get_trials(deepcopy=False, states=DONE))
    table(f"Best of {done}: validation AUC {study.best_value:.4f}", ["hyperparameter", "value"], rows)
    out.print(f"Study {name}.", highlight=False)
    next_commands({"make ui": "MLflow on 127.0.0.1: the trials' curves"})


def _opened(
    name: str,
    sweep_name: str,
    build: Callable[..., keras_tuner.HyperModel],
    prepared: PreparedSession,
    *,
    epochs: int,
    batch_size: int,
) -> tuple[optuna.Study, Tuning]:
    """Create or load the study; return it with what its trials share."""
    client, storage, session = open_tracker(), open_storage(), prepared.session
    experiment = experiment_id(client, session.experiment_name)
    settle_leftovers(client, experiment, storage)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    study = optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
    )
    take_up(study, client, experiment)
    tags = tags_of(prepared, sweep_name, git_commit()) | {"study": name}
    return study, Tuning(
        build=build,
        store=prepared.store,
        positive_index=prepared.store.classes.index(session.positive_class),
        client=client,
        experiment_id=experiment,
        parent_run_id=open_parent_run(client, experiment, name, tags, prepared),
        tags=tags | {"backbone": sweep_name},
        session=session.experiment_name,
        epochs=epochs,
        batch_size=batch_size,
        seed=prepared.defaults.train.seed,
    )
