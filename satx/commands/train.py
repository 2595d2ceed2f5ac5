"""`satx train`: one training, from the session's defaults and `--set`, or repeating a run exactly."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlflow.entities import Run

from satx.commands.console import banner, git_commit, next_commands, out, progress_bars, stop_signal, table
from satx.config import Configuration, load_session, validated
from satx.errors import ConfigError, Interrupted, TrialFailed
from satx.evaluation.style import backbone_color
from satx.execution.job import recorded_inputs
from satx.models.weights_file import Weights
from satx.search.identity import keras_backend
from satx.search.space import IMAGE_SIZE
from satx.sessions.prepare import OnStage, PreparedSession, SessionRequest, prepare, weights_for
from satx.storage import digest_of, locked, satx_home
from satx.study.database import open_storage
from satx.study.owner import owner_tag
from satx.study.reconcile import settle_leftovers
from satx.tiles.layout import read_layout
from satx.tiles.store import TileStore, build_store, open_store
from satx.tracking.client import MlflowClient, experiment_id, open_tracker
from satx.tracking.curves import CurveLogger, direct_curves
from satx.tracking.finish_run import close_run, result_numbers
from satx.tracking.results import log_evidence
from satx.tracking.runs import (
    WAITING,
    fetch_file,
    find_run,
    get_run,
    history_frame,
    log_dataset,
    start_run,
    take_up_run,
)
from satx.tracking.writer import DirectWriter
from satx.training.checkpoint import Epoch, remove_checkpoint
from satx.training.contract import TRAINER_VERSION, TrainingData, run_params
from satx.training.devices import device_name
from satx.training.threads import num_threads
from satx.training.trainer import train


def train_command(request: SessionRequest, *, values: dict[str, object], from_run: str | None) -> str:
    """Train one configuration into a run of its own; an interrupted one continues. Returns the run's id.

    Args:
        request: Session, tiles, weights and size; what is left out comes from the YAML, or from the run that is repeated.
        values: Dotted settings over those.
        from_run: Repeat this run, on the tiles and weights that it was trained on.
    """
    client = open_tracker()
    values = dict(values)
    if IMAGE_SIZE in values:  # the tiles are decoded at it, so it is more than a setting
        asked = Configuration().with_values({IMAGE_SIZE: values.pop(IMAGE_SIZE)}, source="--set")
        request = replace(request, image_size_px=asked.image_size_px)
    with progress_bars() as on_progress:
        if from_run is None:
            wanted = load_session(request.session).defaults.with_values(values, source="--set")
            prepared = prepare(request, (wanted.model.backbone,), on_progress=on_progress)
            wanted = wanted.with_values({IMAGE_SIZE: prepared.store.image_size_px}, source="SIZE")
        else:
            wanted, prepared = _recorded(client, from_run, request, values, on_progress)
    for notice in prepared.notices:
        banner(notice)
    _print_plan(prepared, wanted)
    return train_ready(client, prepared, wanted, repeats=from_run or "none")


def train_ready(
    client: MlflowClient, prepared: PreparedSession, configuration: Configuration, *, repeats: str = "none"
) -> str:
    """Train on what was prepared; returns the run's id."""
    store, session, digest = prepared.store, prepared.session, configuration.digest()
    weights = prepared.weights[configuration.model.backbone]
    name = f"{configuration.model.backbone}-{configuration.model.unfreeze}-{digest[:8]}"
    identity = {"kind": "train", "configuration": digest, "data_digest": store.digest, "weights_digest": weights.digest}
    identity |= {"repeats": repeats, "trainer": str(TRAINER_VERSION), "backend": keras_backend()}
    folder = satx_home() / "cache" / "checkpoints" / "train" / digest_of(identity)[:16]
    with locked(folder):  # a second call of the same command waits for the first one
        experiment = experiment_id(client, session.experiment_name)
        settle_leftovers(client, experiment, open_storage())
        run = _unfinished_run(client, experiment, identity)
        if run is None:
            remove_checkpoint(folder)
            tags = identity | {
                "session": session.experiment_name,
                "task": session.task,
                "backbone": configuration.model.backbone,
                "mlflow.runColor": backbone_color(configuration.model.backbone),
                "weights": weights.source,
                "weights_file": weights.file,
                "git_commit": git_commit(),
                "device": device_name(),
                "threads": str(num_threads()),
                "sample": str(store.sample).lower(),
                "store": str(store.folder),
                "session_config": session.model_dump_json(),
            }
            params = run_params(configuration, len(store.classes))
            run = start_run(client, experiment, name=name, tags=tags, params=params, parent=None)
            log_dataset(client, run.info.run_id, store, session.experiment_name)
        data = TrainingData(store, weights, store.classes.index(session.positive_class), satx_home() / "cache")
        _train_into(client, run, prepared, configuration, data, folder)
        remove_checkpoint(folder)
    return str(run.info.run_id)


def _train_into(
    client: MlflowClient,
    run: Run,
    prepared: PreparedSession,
    configuration: Configuration,
    data: TrainingData,
    folder: Path,
) -> None:
    writer, curves, history = DirectWriter(client, run), direct_curves(client, run), list[Epoch]()
    take_up_run(client, run, owner_tag())
    settings = configuration.train
    total = settings.head_epochs + (0 if configuration.model.unfreeze == "none" else settings.finetune_epochs)
    try:
        with stop_signal() as stop, progress_bars() as on_progress:
            on_epoch = _epoch_printer(curves, history, on_progress, total)
            result = train(
                configuration, data, checkpoint_dir=folder, on_epoch=on_epoch, stop=stop, on_progress=on_progress
            )
    except Interrupted:
        curves.flush()
        writer.end(WAITING)
        raise
    except TrialFailed as failure:
        close_run(writer, configuration, history, curves, status="FAILED", tags={"reason": str(failure)})
        raise
    frame = history_frame(history)
    log_evidence(
        client,
        run,
        configuration,
        result.network,
        frame,
        result.val_probabilities,
        store=prepared.store,
        session=prepared.session,
    )
    numbers = result_numbers(result, store=prepared.store, session=prepared.session)
    tags = {"trunk_cache": result.trunk_cache}
    close_run(writer, configuration, history, curves, status="FINISHED", tags=tags, numbers=numbers)
    best = result.best
    out.print(
        f"Best epoch {best.step} ({best.phase}): validation AUC {best.val_auc:.4f}, accuracy {best.val_accuracy:.3f}, "
        f"loss {best.val_loss:.3f}."
    )
    next_commands(
        {
            f"satx promote --run-id {run.info.run_id}": "score it on the test tiles, register and export it",
            f"satx train --from-run {run.info.run_id}": "repeat it exactly",
            "make ui": "its curves",
        }
    )


def _epoch_printer(
    curves: CurveLogger, history: list[Epoch], on_progress: Callable[[str, int, int], None], total: int
) -> Callable[[Epoch, bool], None]:
    def on_epoch(epoch: Epoch, new: bool) -> None:
        history.append(epoch)
        curves.add(epoch)
        on_progress("epochs, at most", epoch.step, total)
        out.print(
            f"{'epoch' if new else 'before'} {epoch.step:3d} {epoch.phase}  loss {epoch.loss:.3f}  "
            f"val loss {epoch.val_loss:.3f}  val AUC {epoch.val_auc:.4f}  val accuracy {epoch.val_accuracy:.3f}  "
            f"rate {epoch.learning_rate:.1e}  {epoch.epoch_seconds:.1f} s"
        )

    return on_epoch


def _recorded(
    client: MlflowClient, run_id: str, request: SessionRequest, values: dict[str, object], on_progress: OnStage
) -> tuple[Configuration, PreparedSession]:
    """What a run was trained with: its settings under `values`, its session, and the same tiles and weights.

    Raises:
        ConfigError: It is no training's run, or what the caller named is not what it used.
    """
    run = get_run(client, run_id)
    threads = int(run.data.tags.get("threads", num_threads()))
    if threads != num_threads():
        banner(
            f"Run {run_id} was trained with {threads} threads, this process computes with {num_threads()}: last digits may "
            f"differ. Repeat it in a process of its own, `satx train --from-run {run_id}`."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_file(client, run_id, "config.json", Path(folder))
        if path is None:
            raise ConfigError(f"Run {run_id} has no config.json: expected a training's run. Pick one of `make ui`.")
        tree = json.loads(path.read_text())
    recorded = validated(Configuration, tree, source=f"config.json of run {run_id}")
    wanted = recorded.with_values(values, source="--set")
    backbone = wanted.model.backbone
    if backbone != recorded.model.backbone:
        raise ConfigError(
            f"--from-run: expected the run's backbone, {recorded.model.backbone}, got {backbone}. Train without --from-run."
        )
    if request.image_size_px not in (None, recorded.image_size_px):
        raise ConfigError(
            f"--from-run: expected the run's size, {recorded.image_size_px} px, got {request.image_size_px}. Leave it out."
        )
    session, store_folder, weights = recorded_inputs(run_id, run.data.tags)
    if request.data is None:
        store = open_store(store_folder)
    else:
        store = build_store(
            read_layout(request.data),
            image_size_px=recorded.image_size_px,
            cache_dir=satx_home() / "cache",
            on_progress=lambda done, total: on_progress("reading tiles", done, total),
        )
    if request.weights is not None:
        weights, _ = weights_for(request, (backbone,), store, recorded.train.seed)
    _refuse_other_inputs(store, weights[backbone], run.data.tags)
    return wanted, PreparedSession(session, wanted, store, {backbone: weights[backbone]}, ())


def _refuse_other_inputs(store: TileStore, weights: Weights, recorded: dict[str, str]) -> None:
    found = {"data_digest": store.digest, "weights_digest": weights.digest}
    what = {"data_digest": "tiles (DATA=DIR, --data)", "weights_digest": "weights (WEIGHTS=DIR, --weights)"}
    for name, value in found.items():
        if recorded.get(name, value) != value:
            raise ConfigError(
                f"--from-run: expected the {what[name]} that the run was trained on, digest {recorded[name][:12]}…, "
                f"got {value[:12]}…. Name the ones it used, or none: the run knows where they were."
            )


def _unfinished_run(client: MlflowClient, experiment: str, identity: dict[str, str]) -> Run | None:
    found = find_run(client, experiment, identity)
    return found if found is not None and found.info.status in ("RUNNING", WAITING) else None


def _print_plan(prepared: PreparedSession, configuration: Configuration) -> None:
    rows = [[name, str(value)] for name, value in run_params(configuration, len(prepared.store.classes)).items()]
    counts = ", ".join(f"{split} {len(prepared.store.rows(split))}" for split in ("train", "valid", "test"))
    table(f"{prepared.session.experiment_name}: {counts} tiles", ["setting", "value"], rows)
