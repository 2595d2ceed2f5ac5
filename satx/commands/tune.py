"""`satx tune`: sweep a user's own KerasTuner HyperModel on a session's tiles."""

from __future__ import annotations

from pathlib import Path

import optuna

from satx.commands.console import banner, git_commit, next_commands, out, progress_bars, stop_signals_raise, table
from satx.errors import Interrupted, SweepStopped
from satx.search.driver import only_driver, open_parent_run, take_up
from satx.search.prepare import Request, prepare
from satx.search.reconcile import settle_leftovers
from satx.search.study import open_storage, study_name
from satx.search.tuner_space import load_hypermodel
from satx.search.tuning import Tuning, tune
from satx.storage import file_digest
from satx.tracking.tracker import experiment_id, open_tracker


def tune_command(path: Path, request: Request, *, trials: int, epochs: int, batch_size: int) -> None:
    """Run the trials, or go on with them; the study's identity is the file, the tiles, epochs and batch size."""
    build = load_hypermodel(path)
    with progress_bars() as notify:
        ready = prepare(request, (), notify=notify)
    for notice in ready.notices:
        banner(notice)
    store, session = ready.store, ready.session
    identity = {
        "hypermodel": file_digest(path),
        "data": store.digest,
        "image_size_px": store.image_size_px,
        "fit": [epochs, batch_size, ready.defaults.train.seed],
    }
    name = study_name(session.experiment_name, path.stem, identity)
    client = open_tracker()
    with only_driver(name):
        storage = open_storage()
        experiment = experiment_id(client, session.experiment_name)
        settle_leftovers(client, experiment, storage)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
        )
        take_up(study, client, experiment)
        tags = {
            "session": session.experiment_name,
            "task": session.task,
            "sweep": path.stem,
            "data_digest": store.digest,
            "git_commit": git_commit(),
            "sample": str(store.sample).lower(),
            "study": name,
        }
        parent = open_parent_run(client, experiment, name, tags, ready)
        positive = store.classes.index(session.positive_class)
        tuning = Tuning(
            build, store, positive, client, experiment, parent, tags | {"backbone": path.stem},
            session.experiment_name, epochs, batch_size, ready.defaults.train.seed,
        )  # fmt: skip
        status = "KILLED"
        try:
            with stop_signals_raise(), progress_bars() as notify:
                tune(study, tuning, trials=trials, on_trial=lambda done: notify("trials", done, trials))
            status = "FINISHED"
        except KeyboardInterrupt as error:
            raise Interrupted("Stopped. Finished trials are kept; the same command continues.") from error
        finally:
            client.set_terminated(parent, status=status)
    if not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        raise SweepStopped(f"Expected a trial that finished, got {trials} pruned ones; look at their curves: make ui.")
    rows = [[name, value] for name, value in study.best_trial.params.items()]
    table(f"Best of {trials}: validation AUC {study.best_value:.4f}", ["hyperparameter", "value"], rows)
    out.print(f"Study {name}.", highlight=False)
    next_commands({"make ui": "MLflow on 127.0.0.1: the trials' curves"})
