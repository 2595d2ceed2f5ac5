"""`satx train`: train one configuration, from the session's defaults and `--set`, or repeat a run exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from mlflow.entities import Run

from satx.catalogue import NONE
from satx.commands.console import banners, git_commit, next_commands, out, stop_signal, table
from satx.commands.progress import progress_bars
from satx.commands.stopping import stoppable
from satx.config import Configuration
from satx.environment import num_threads
from satx.execution.training_run import TrainingRun, train_into_run
from satx.search.identity import keras_backend
from satx.search.space import IMAGE_SIZE
from satx.session_config import load_session
from satx.sessions.prepare import OnStage, PreparedSession, SessionRequest, notices_ahead, prepare
from satx.sessions.repeated import prepare_repetition
from satx.storage import digest_of, home_in_use, locked, satx_home
from satx.study.database import open_storage
from satx.study.owner import owner_tag
from satx.study.reconcile import settle_leftovers
from satx.study.run_recovery import record_inputs
from satx.tracking.client import MlflowClient, experiment_id, open_tracker, waiting_longer
from satx.tracking.curves import direct_curves
from satx.tracking.machine_load import machine_load
from satx.tracking.naming import COLOR, run_color, run_name
from satx.tracking.provenance import INPUTS, inputs_tag, recorded_configuration
from satx.tracking.results import log_evidence
from satx.tracking.runs import Opening, dataset_fields, get_run, history_frame, open_run
from satx.tracking.writer import DirectWriter
from satx.training.checkpoint import Epoch, remove_checkpoint
from satx.training.contract import TRAINER_VERSION, TrainingData, TrainingResult, run_params
from satx.training.devices import device_name
from satx.training.trainer import train


@stoppable()
def train_command(request: SessionRequest, *, values: dict[str, object], from_run: str | None) -> str:
    """Train one configuration into its own run, or continue an interrupted one; return the run's id.

    Args:
        request: Session, tiles, weights and size; omitted values come from the YAML, or from the repeated run.
        values: Dotted settings that override those.
        from_run: Run to repeat, on the tiles and weights that it was trained on.
    """
    client = open_tracker()
    values = dict(values)
    if IMAGE_SIZE in values:  # tiles are decoded at this size, so `request` needs it too
        asked = Configuration().with_values({IMAGE_SIZE: values.pop(IMAGE_SIZE)}, source="--set")
        request = replace(request, image_size_px=asked.image_size_px)
    if from_run is None:
        banners(notices_ahead(request))
    with progress_bars() as on_progress:
        if from_run is None:
            wanted = load_session(request.session).defaults.with_values(values, source="--set")
            prepared = prepare(request, (wanted.model.backbone,), on_progress=on_progress)
            wanted = wanted.with_values({IMAGE_SIZE: prepared.store.image_size_px}, source="SIZE")
        else:
            run, recorded = get_run(client, from_run), recorded_configuration(client, from_run)
            if INPUTS not in run.data.tags:
                run = record_inputs(client, run)
            wanted, prepared = prepare_repetition(run, recorded, request, values, on_progress=on_progress)
    banners(prepared.notices)
    _print_plan(prepared, wanted)
    return train_ready(client, prepared, wanted, repeats=from_run or "none")


def train_ready(
    client: MlflowClient, prepared: PreparedSession, configuration: Configuration, *, repeats: str = "none"
) -> str:
    """Train one configuration on a prepared session; return the run's id."""
    store, session, digest = prepared.store, prepared.session, configuration.digest()
    weights = prepared.weights[configuration.model.backbone]
    name = run_name(configuration.model.backbone, configuration.model.unfreeze, digest[:8])
    identity = {"kind": "train", "configuration": digest, "data_digest": store.digest, "weights_digest": weights.digest}
    identity |= {"repeats": repeats, "trainer": str(TRAINER_VERSION), "backend": keras_backend()}
    folder = satx_home() / "cache" / "checkpoints" / "train" / digest_of(identity)[:16]
    with (
        waiting_longer(),
        home_in_use("train"),
        locked(folder),
    ):  # a second call of the same command waits for the first one
        experiment = experiment_id(client, session.experiment_name)
        settle_leftovers(client, experiment, open_storage())
        opening = Opening(
            identity=identity,
            name=name,
            tags={
                "session": session.experiment_name,
                "task": session.task,
                "backbone": configuration.model.backbone,
                COLOR: run_color(configuration.model.backbone, int(digest[:8], 16)),
                "weights": weights.source,
                "git_commit": git_commit(),
                "sample": str(store.sample).lower(),
                **inputs_tag(session, store.folder, {weights.backbone: weights}),
            },
            params=run_params(configuration, len(store.classes)),
            parent=None,
            dataset=dataset_fields(store, session.experiment_name),
            attempt_tags={"device": device_name(), "threads": str(num_threads()), **owner_tag()},
        )
        run, resumed = open_run(client, experiment, opening, resume_ended=False)
        if not resumed:
            remove_checkpoint(folder)
        result = _train_into(client, run, prepared, configuration, folder)
        remove_checkpoint(folder)
    _print_result(result, str(run.info.run_id), is_tested=bool(len(store.rows("test"))))
    return str(run.info.run_id)


def _train_into(
    client: MlflowClient, run: Run, prepared: PreparedSession, configuration: Configuration, folder: Path
) -> TrainingResult:
    store, session = prepared.store, prepared.session
    weights = prepared.weights[configuration.model.backbone]
    data = TrainingData(store, weights, store.classes.index(session.positive_class), satx_home() / "cache")
    settings = configuration.train
    total = settings.head_epochs + (0 if configuration.model.unfreeze == NONE else settings.finetune_epochs)
    history: list[Epoch] = []

    def keep_model(result: TrainingResult) -> None:
        frame, probabilities = history_frame(history), result.val_probabilities
        log_evidence(client, run, configuration, result.network, frame, probabilities, store=store, session=session)

    with stop_signal() as stop, progress_bars() as on_progress:
        into = TrainingRun(
            configuration,
            store,
            session,
            DirectWriter(client, run),
            direct_curves(client, run, load=machine_load),
            on_epoch=_epoch_printer(on_progress, total),
            on_result=keep_model,
            history=history,
        )
        return train_into_run(
            into, partial(train, configuration, data, checkpoint_dir=folder, stop=stop, on_progress=on_progress)
        )


def _print_result(result: TrainingResult, run_id: str, *, is_tested: bool) -> None:
    """Print the best epoch and the next commands; without test tiles the gate refuses every run that is not forced."""
    best = result.best
    out.print(
        f"Best epoch {best.step} ({best.phase}): validation AUC {best.val_auc:.4f}, accuracy {best.val_accuracy:.3f}, "
        f"loss {best.val_loss:.3f}."
    )
    next_commands(
        {
            f"satx promote --run-id {run_id}" + ("" if is_tested else " --force 'no test tiles'"): (
                "score it on the test tiles, register and export it" if is_tested else "register and export it"
            ),
            f"satx train --from-run {run_id}": "repeat it exactly",
            "make ui": "its curves",
        }
    )


def _epoch_printer(on_progress: OnStage, total: int) -> Callable[[Epoch, bool], None]:
    def on_epoch(epoch: Epoch, new: bool) -> None:
        on_progress("epochs, at most", epoch.step, total)
        out.print(
            f"epoch {epoch.step:3d} {epoch.phase}  loss {epoch.loss:.3f}  "
            f"val loss {epoch.val_loss:.3f}  val AUC {epoch.val_auc:.4f}  val accuracy {epoch.val_accuracy:.3f}  "
            f"learning rate {epoch.learning_rate:.1e}  {epoch.epoch_seconds:.1f} s{'' if new else '  (from the checkpoint)'}"
        )

    return on_epoch


def _print_plan(prepared: PreparedSession, configuration: Configuration) -> None:
    rows = [[name, str(value)] for name, value in run_params(configuration, len(prepared.store.classes)).items()]
    counts = ", ".join(f"{split} {len(prepared.store.rows(split))}" for split in ("train", "valid", "test"))
    table(f"{prepared.session.experiment_name}: {counts} tiles", ["setting", "value"], rows)
