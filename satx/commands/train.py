"""`satx train`: one training, from the session's defaults and `--set`, or repeating a run exactly."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from satx.commands.console import banner, git_commit, next_commands, out, progress_bars, stop_signal, table
from satx.config import Configuration, load_session, validated
from satx.errors import ConfigError, Interrupted, TrialFailed
from satx.evaluation.style import backbone_colour
from satx.search.broken import breaks_explained
from satx.search.prepare import Ready, Request, prepare
from satx.storage import digest_of, locked, satx_home
from satx.tracking.results import close_run, log_configuration, log_evidence, log_result
from satx.tracking.runs import WAITING, CurveLogger, fetch_file, find_run, get_run, log_dataset, start_run
from satx.tracking.tracker import MlflowClient, experiment_id, open_tracker
from satx.training.checkpoint import Epoch, remove_checkpoint
from satx.training.devices import device_name
from satx.training.trainer import TrainingData, train


def train_command(request: Request, *, values: dict[str, object], from_run: str | None) -> str:
    """Train one configuration into a run of its own; an interrupted one continues. Returns the run's id."""
    with breaks_explained():
        return _train(request, values, from_run)


def _train(request: Request, values: dict[str, object], from_run: str | None) -> str:
    client = open_tracker()
    repeated, recorded = _recorded(client, from_run) if from_run else (None, {})
    base = repeated or load_session(request.session).defaults
    wanted = base.with_values(values, source="--set")
    if repeated is not None:
        request = Request(request.session, request.data, request.weights, repeated.image_size_px)
    with progress_bars() as notify:
        ready = prepare(request, (wanted.model.backbone,), notify=notify)
    for notice in ready.notices:
        banner(notice)
    _refuse_other_inputs(ready, wanted.model.backbone, recorded)
    configuration = wanted.with_values({"image_size_px": ready.store.image_size_px}, source="SIZE")
    _print_plan(ready, configuration)
    extra = {"repeats": from_run} if from_run else {}
    return train_ready(client, ready, configuration, extra_tags=extra)


def train_ready(client: MlflowClient, ready: Ready, configuration: Configuration, *, extra_tags: dict[str, str]) -> str:
    """Train on what was prepared; returns the run's id."""
    store, session, digest = ready.store, ready.session, configuration.digest()
    weights = ready.weights[configuration.model.backbone]
    name = f"{configuration.model.backbone}-{configuration.model.unfreeze}-{digest[:8]}"
    identity = {"kind": "train", "configuration": digest, "data_digest": store.digest, "weights_digest": weights.digest}
    identity |= extra_tags
    folder = satx_home() / "cache" / "checkpoints" / "train" / digest_of(identity)[:16]
    with locked(folder):  # a second call of the same command waits, then finds the result or goes on
        experiment = experiment_id(client, session.experiment_name)
        run_id = _unfinished_run(client, experiment, identity)
        if run_id is None:
            remove_checkpoint(folder)
            tags = identity | {
                "session": session.experiment_name,
                "task": session.task,
                "backbone": configuration.model.backbone,
                "mlflow.runColor": backbone_colour(configuration.model.backbone),
                "weights": weights.source,
                "git_commit": git_commit(),
                "device": device_name(),
                "sample": str(store.sample).lower(),
                "store": str(store.folder),
                "session_config": session.model_dump_json(),
            }
            run_id = start_run(client, experiment, name=name, tags=tags, params=configuration.flat(), parent=None)
            log_dataset(client, run_id, store, session.experiment_name)
            log_configuration(client, run_id, configuration)
        data = TrainingData(store, weights, store.classes.index(session.positive_class), satx_home() / "cache")
        _train_into(client, run_id, ready, configuration, data, folder)
        remove_checkpoint(folder)
    return run_id


def _train_into(
    client: MlflowClient, run_id: str, ready: Ready, configuration: Configuration, data: TrainingData, folder: Path
) -> None:
    client.update_run(run_id, status="RUNNING")
    curves, history = CurveLogger(client, run_id), list[Epoch]()
    settings = configuration.train
    total = settings.head_epochs + (0 if configuration.model.unfreeze == "none" else settings.finetune_epochs)
    try:
        with stop_signal() as stop, progress_bars() as notify:
            on_epoch = _epoch_printer(curves, history, notify, total)
            result = train(configuration, data, checkpoint_dir=folder, on_epoch=on_epoch, stop=stop)
    except Interrupted:
        curves.flush()
        client.update_run(run_id, status=WAITING)
        raise
    except TrialFailed as failure:
        close_run(client, run_id, history, curves, status="FAILED", tags={"reason": str(failure)})
        raise
    log_result(client, run_id, result, store=ready.store, session=ready.session)
    log_evidence(client, run_id, configuration, result, store=ready.store, session=ready.session)
    close_run(client, run_id, history, curves, status="FINISHED", tags={})
    best = result.best
    out.print(
        f"Best epoch {best.step} ({best.phase}): validation AUC {best.val_auc:.4f}, accuracy {best.val_accuracy:.3f}, "
        f"loss {best.val_loss:.3f}."
    )
    next_commands(
        {
            f"satx promote --run-id {run_id}": "score it on the test tiles, register and export it",
            f"satx train --from-run {run_id}": "repeat it exactly",
            "make ui": "its curves",
        }
    )


def _epoch_printer(
    curves: CurveLogger, history: list[Epoch], notify: Callable[[str, int, int], None], total: int
) -> Callable[[Epoch, bool], None]:
    def on_epoch(epoch: Epoch, new: bool) -> None:
        history.append(epoch)
        curves.add(epoch)
        notify("epochs, at most", epoch.step, total)
        out.print(
            f"{'epoch' if new else 'before'} {epoch.step:3d} {epoch.phase}  loss {epoch.loss:.3f}  "
            f"val loss {epoch.val_loss:.3f}  val AUC {epoch.val_auc:.4f}  val accuracy {epoch.val_accuracy:.3f}  "
            f"rate {epoch.learning_rate:.1e}  {epoch.epoch_seconds:.1f} s"
        )

    return on_epoch


def _recorded(client: MlflowClient, run_id: str) -> tuple[Configuration, dict[str, str]]:
    run = get_run(client, run_id)
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_file(client, run_id, "config.json", Path(folder))
        if path is None:
            raise ConfigError(f"Run {run_id} has no config.json: expected a training's run. Pick one of `make ui`.")
        tree = json.loads(path.read_text())
    return validated(Configuration, tree, source=f"config.json of run {run_id}"), dict(run.data.tags)


def _refuse_other_inputs(ready: Ready, backbone: str, recorded: dict[str, str]) -> None:
    found = {"data_digest": ready.store.digest, "weights_digest": ready.weights[backbone].digest}
    what = {"data_digest": "tiles (DATA=DIR, --data)", "weights_digest": "weights (WEIGHTS=DIR, --weights)"}
    for name, value in found.items():
        if recorded.get(name, value) != value:
            raise ConfigError(
                f"--from-run: expected the {what[name]} that the run was trained on, digest {recorded[name][:12]}…, "
                f"got {value[:12]}…. Name the ones it used."
            )


def _unfinished_run(client: MlflowClient, experiment: str, identity: dict[str, str]) -> str | None:
    found = find_run(client, experiment, identity)
    unfinished = found is not None and found.info.status in ("RUNNING", WAITING)
    return str(found.info.run_id) if found is not None and unfinished else None


def _print_plan(ready: Ready, configuration: Configuration) -> None:
    rows = [[name, str(value)] for name, value in configuration.flat().items()]
    counts = ", ".join(f"{split} {len(ready.store.rows(split))}" for split in ("train", "valid", "test"))
    table(f"{ready.session.experiment_name}: {counts} tiles", ["setting", "value"], rows)
