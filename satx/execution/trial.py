"""One trial's training, written into its run: one configuration is one run, whatever attempts it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from satx.config import Configuration
from satx.errors import Interrupted, OutOfMemory, TrialFailed
from satx.evaluation.style import backbone_color
from satx.execution.engine import Engine
from satx.execution.job import Job
from satx.execution.sharing import fetch_checkpoint, send_checkpoint
from satx.search.pruner import rung_step
from satx.search.space import BACKBONE
from satx.study.admission import attempts_at
from satx.study.outcomes import Outcome
from satx.study.run_recovery import keep_record
from satx.tracking.curves import CurveLogger
from satx.tracking.finish_run import close_run, result_numbers
from satx.tracking.kept_models import log_trained
from satx.tracking.runs import WAITING, dataset_fields
from satx.tracking.spooled_writer import Opening, SpooledRuns
from satx.training.checkpoint import Epoch
from satx.training.contract import run_params

SEND_SECONDS = 300.0


def run_trial(
    trial: optuna.Trial,
    trials: list[FrozenTrial],
    job: Job,
    spooled_runs: SpooledRuns,
    configuration: Configuration,
    engine: Engine,
    stop: Callable[[], bool],
) -> float:
    """Train one configuration into its run, from the checkpoint of the attempt before if there is one.

    Args:
        trial: Gets the scores, and is asked whether to go on.
        trials: The study's, as they were when this one began.
        job: What the study is about.
        spooled_runs: Writes the run.
        configuration: What the trial drew.
        engine: What trains it.
        stop: Asked all the time; True hands the trial back.

    Returns:
        Its best validation AUC.

    Raises:
        TrialPruned: It was not worth its next epochs.
        TrialFailed: It cannot be trained, or does not fit in memory.
        Interrupted: `stop` said so.
    """
    digest = configuration.digest()
    before, folder = attempts_at(trials, trial, digest), job.checkpoint_dir(digest)
    fetch_checkpoint(before, folder)
    opening = _opening(trial, job, configuration, engine)
    writer = spooled_runs.open(opening, is_new=not before)
    curves = CurveLogger(writer, params=opening.params)
    history: list[Epoch] = []
    on_epoch, on_tail = _reports(trial, curves, history, configuration.train.head_epochs)
    on_epoch = _kept_in_bucket(on_epoch, trial, job, folder, history)
    data, said = job.data_for(configuration.model.backbone), dict[str, str]()
    on_cache = partial(said.__setitem__, "trunk_cache")

    def close(status: str, tags: dict[str, str], numbers: dict[str, float]) -> None:
        numbers = numbers | _cost(engine, history)
        close_run(writer, configuration, history, curves, status=status, tags=tags, numbers=numbers)
        if spooled_runs.spool.num_waiting and status != "FAILED":
            keep_record(trial, opening, configuration, history, status=status, tags=tags, numbers=numbers)

    try:
        result = engine.train(
            configuration, data, checkpoint_dir=folder, on_epoch=on_epoch, on_tail=on_tail, on_cache=on_cache, stop=stop
        )
    except optuna.TrialPruned:
        close("KILLED", said | {"pruned": "true"}, {})
        raise
    except TrialFailed as failure:
        trial.set_user_attr("outcome", Outcome.OUT_OF_MEMORY if isinstance(failure, OutOfMemory) else Outcome.FAILED)
        close("FAILED", said | {"reason": str(failure)}, {})
        raise
    except Interrupted:
        _hand_back(trial, job, folder, history, curves)
        writer.end(WAITING)
        raise
    backbone, keep = configuration.model.backbone, job.sweep.keep_models_per_backbone
    leads = _rank_in_backbone(trials, result.best.val_auc, backbone) <= keep
    if leads:
        log_trained(writer, result)
    close("FINISHED", said, result_numbers(result, store=job.store, session=job.session))
    if leads:
        spooled_runs.drop_models(job.study_name, backbone, keep=keep)
    return result.best.val_auc


def _reports(
    trial: optuna.Trial, curves: CurveLogger, history: list[Epoch], head_epochs: int
) -> tuple[Callable[[Epoch, bool], None], Callable[[], None]]:
    """What the trainer calls after an epoch and before a tail: curves are sent, and the pruner is asked."""

    def prune_at(step: int) -> None:
        if trial.should_prune():
            raise optuna.TrialPruned(f"at step {step}")

    def on_epoch(epoch: Epoch, new: bool) -> None:
        history.append(epoch)
        num_in_phase = sum(before.phase == epoch.phase for before in history)
        step = rung_step(epoch.phase, num_in_phase, head_epochs)
        trial.report(
            epoch.val_auc, step
        )  # refused, before the run is written to, if another worker has this trial by now
        curves.add(epoch)
        if new:
            prune_at(step)

    def on_tail() -> None:
        if len(history) < head_epochs:  # the head stopped early: its rung is now
            trial.report(history[-1].val_auc, head_epochs)
        prune_at(head_epochs)  # also where an earlier attempt was stopped between its last head epoch and this question

    return on_epoch, on_tail


def _hand_back(trial: optuna.Trial, job: Job, folder: Path, history: list[Epoch], curves: CurveLogger) -> None:
    """What was done is sent, and with a bucket the state from which another machine goes on."""
    # first, since what follows may take longer than this process is given
    trial.set_user_attr("outcome", Outcome.INTERRUPTED)
    if job.bucket and history:
        send_checkpoint(trial, job.bucket, job.study_name, folder, len(history))
    curves.flush()


def _kept_in_bucket(
    on_epoch: Callable[[Epoch, bool], None], trial: optuna.Trial, job: Job, folder: Path, history: list[Epoch]
) -> Callable[[Epoch, bool], None]:
    """The same, and where there is a bucket the training's state goes there: a machine can be gone without notice."""
    sent_at = time.monotonic()

    def kept(epoch: Epoch, new: bool) -> None:
        nonlocal sent_at
        on_epoch(epoch, new)
        if job.bucket and new and time.monotonic() - sent_at >= SEND_SECONDS:
            send_checkpoint(trial, job.bucket, job.study_name, folder, len(history))
            sent_at = time.monotonic()

    return kept


def _opening(trial: optuna.Trial, job: Job, configuration: Configuration, engine: Engine) -> Opening:
    """What the configuration's run begins with."""
    digest = configuration.digest()
    backbone, unfreeze = configuration.model.backbone, configuration.model.unfreeze
    own = {
        "backbone": backbone,
        "mlflow.runColor": backbone_color(backbone),
        "device": engine.device,
        "weights": job.weights[backbone].source,
        "weights_digest": job.weights[backbone].digest,
    }
    own |= {"machine": engine.machine} if engine.machine else {}
    own |= {"threads": str(engine.threads)} if engine.threads else {}
    return Opening(
        identity={"study": job.study_name, "configuration": digest},
        name=f"{backbone}-{unfreeze}-{digest[:8]}",
        tags=job.tags | own,
        params=run_params(configuration, len(job.store.classes)),
        parent=job.parent_run_id,
        dataset=dataset_fields(job.store, job.session.experiment_name),
        trial_number=trial.number,
    )


def _cost(engine: Engine, history: list[Epoch]) -> dict[str, float]:
    """What a configuration has cost, whatever attempts it took."""
    seconds = sum(epoch.epoch_seconds for epoch in history)
    numbers = {"gpu_seconds": seconds} if engine.device == "gpu" else {}
    return numbers | ({"cost_usd": seconds / 3600 * engine.usd_per_hour} if engine.usd_per_hour else {})


def _rank_in_backbone(trials: list[FrozenTrial], value: float, backbone: str) -> int:
    """Among those that were finished when this trial began; `drop_models` sees the others."""
    return 1 + sum(
        1
        for other in trials
        if other.state == TrialState.COMPLETE
        and other.value is not None
        and other.value > value
        and "duplicate_of" not in other.user_attrs
        and other.params.get(BACKBONE, backbone) == backbone
    )
