"""Training of one trial into its MLflow run; a configuration has one run, however many attempts it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from satx.config import Configuration
from satx.errors import OutOfMemory, TrialFailed
from satx.execution.engine import Engine
from satx.execution.job import Job
from satx.execution.sharing import checkpoints_uri, fetch_checkpoint, send_checkpoint
from satx.execution.training_run import TrainingRun, TrainInto, train_into_run
from satx.search.pruner import rung_step
from satx.search.space import BACKBONE
from satx.study.admission import attempts_at
from satx.study.outcomes import Outcome
from satx.study.run_recovery import keep_record
from satx.tracking.curves import CurveLogger
from satx.tracking.kept_models import log_trained
from satx.tracking.machine_load import machine_load
from satx.tracking.naming import COLOR, run_color, run_name
from satx.tracking.runs import Opening, dataset_fields
from satx.tracking.spooled_writer import SpooledRuns
from satx.training.checkpoint import Epoch
from satx.training.contract import TrainingResult, run_params

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
    """Train one configuration into its run, from the checkpoint of an earlier attempt if there is one.

    Args:
        trial: Receives the scores and decides about pruning.
        trials: The study's trials as they were when this one began.
        job: The study's job.
        spooled_runs: Writes the run.
        configuration: The configuration that the trial drew.
        engine: Trains the configuration.
        stop: Polled during training; if it returns True, the trial is handed back, to be resumed later.

    Returns:
        The best validation AUC of the configuration.

    Raises:
        TrialPruned: The pruner stopped the trial.
        TrialFailed: The configuration cannot be trained, or does not fit in memory.
        Interrupted: `stop` returned True.
    """
    digest = configuration.digest()
    before, folder = attempts_at(trials, trial, digest), job.checkpoint_dir(digest)
    fetch_checkpoint(before, checkpoints_uri(job.bucket, job.study_name, folder), folder)
    opening = _opening(trial, job, configuration, engine)
    writer = spooled_runs.open(opening, is_new=not before)
    history: list[Epoch] = []
    report, on_epoch, on_tail = _reports(trial, history, configuration.train.head_epochs)
    backbone, keep = configuration.model.backbone, job.sweep.keep_models_per_backbone

    def leads(result: TrainingResult) -> bool:
        return _rank_in_backbone(trials, result.best.val_auc, backbone) <= keep

    def keep_values(result: TrainingResult) -> None:
        if leads(result):
            log_trained(writer, result)

    run = TrainingRun(
        configuration,
        job.store,
        job.session,
        writer,
        CurveLogger(writer, params=opening.params, load=machine_load),
        report=report,
        on_epoch=_kept_in_bucket(on_epoch, trial, job, folder, history),
        on_result=keep_values,
        on_interrupt=partial(_hand_back, trial, job, folder, history),
        on_closed=partial(_keep_if_unsent, trial, spooled_runs, opening, configuration, history),
        extra_numbers=partial(_cost, engine),
        history=history,
    )
    train = partial(
        engine.train, configuration, job.data_for(backbone), checkpoint_dir=folder, on_tail=on_tail, stop=stop
    )
    result = _trained(trial, run, train)
    if leads(result):
        spooled_runs.drop_models(job.study_name, backbone, keep=keep)
    return result.best.val_auc


def _trained(trial: optuna.Trial, run: TrainingRun, train: TrainInto) -> TrainingResult:
    """Train into the run; record with the trial if the configuration fails."""
    try:
        return train_into_run(run, train)
    except TrialFailed as failure:
        trial.set_user_attr("outcome", Outcome.OUT_OF_MEMORY if isinstance(failure, OutOfMemory) else Outcome.FAILED)
        raise


def _keep_if_unsent(
    trial: optuna.Trial,
    spooled_runs: SpooledRuns,
    opening: Opening,
    configuration: Configuration,
    history: list[Epoch],
    status: str,
    tags: Mapping[str, str],
    numbers: Mapping[str, float],
) -> None:
    """Store the content of a closed run in the study if part of it still waits for MLflow."""
    if spooled_runs.spool.num_waiting and status != "FAILED":
        keep_record(trial, opening, configuration, history, status=status, tags=tags, numbers=numbers)


def _reports(
    trial: optuna.Trial, history: list[Epoch], head_epochs: int
) -> tuple[Callable[[Epoch], None], Callable[[Epoch, bool], None], Callable[[], None]]:
    """Return callbacks that report to the study and prune: before and after an epoch is logged, and before a tail."""

    def last_step() -> int:
        phase = history[-1].phase
        return rung_step(phase, sum(epoch.phase == phase for epoch in history), head_epochs)

    def prune_at(step: int) -> None:
        if trial.should_prune():
            raise optuna.TrialPruned(f"at step {step}")

    def report(epoch: Epoch) -> None:
        trial.report(epoch.val_auc, last_step())  # raises if another worker has taken over this trial

    def on_epoch(_epoch: Epoch, new: bool) -> None:
        if new:
            prune_at(last_step())

    def on_tail() -> None:
        if len(history) < head_epochs:  # the head stopped early: report at its rung
            trial.report(history[-1].val_auc, head_epochs)
        # reached again on a resume, if the earlier attempt was stopped between its last head epoch and this check
        prune_at(head_epochs)

    return report, on_epoch, on_tail


def _hand_back(trial: optuna.Trial, job: Job, folder: Path, history: list[Epoch]) -> None:
    """Mark the trial as interrupted and, with a bucket, upload the checkpoint from which another machine continues."""
    # first, since the upload may take longer than this process has left
    trial.set_user_attr("outcome", Outcome.INTERRUPTED)
    if job.bucket and history:
        send_checkpoint(trial, checkpoints_uri(job.bucket, job.study_name, folder), folder, len(history))


def _kept_in_bucket(
    on_epoch: Callable[[Epoch, bool], None], trial: optuna.Trial, job: Job, folder: Path, history: list[Epoch]
) -> Callable[[Epoch, bool], None]:
    """Wrap `on_epoch` so that it also uploads the checkpoint every `SEND_SECONDS`, if there is a bucket.

    A machine can disappear without notice.
    """
    sent_at = time.monotonic()

    def kept(epoch: Epoch, new: bool) -> None:
        nonlocal sent_at
        on_epoch(epoch, new)
        if job.bucket and new and time.monotonic() - sent_at >= SEND_SECONDS:
            send_checkpoint(trial, checkpoints_uri(job.bucket, job.study_name, folder), folder, len(history))
            sent_at = time.monotonic()

    return kept


def _opening(trial: optuna.Trial, job: Job, configuration: Configuration, engine: Engine) -> Opening:
    """Return the `Opening` of the configuration's run: its identity, tags and parameters."""
    digest = configuration.digest()
    backbone, unfreeze = configuration.model.backbone, configuration.model.unfreeze
    own = {
        "backbone": backbone,
        COLOR: run_color(backbone, trial.number),
        "weights": job.weights[backbone].source,
        "weights_digest": job.weights[backbone].digest,
    }
    own |= {"threads": str(engine.threads)} if engine.threads else {}
    return Opening(
        identity={"study": job.study_name, "configuration": digest},
        name=run_name(backbone, unfreeze, f"#{trial.number}"),
        tags=job.tags | own,
        params=run_params(configuration, len(job.store.classes)),
        parent=job.parent_run_id,
        dataset=dataset_fields(job.store, job.session.experiment_name),
        trial_number=trial.number,
        attempt_tags={"device": engine.device} | ({"machine": engine.machine} if engine.machine else {}),
    )


def _cost(engine: Engine, history: Sequence[Epoch]) -> dict[str, float]:
    """Return the cost of a configuration, over all its attempts."""
    seconds = sum(epoch.epoch_seconds for epoch in history)
    numbers = {"gpu_seconds": seconds} if engine.device == "gpu" else {}
    return numbers | ({"cost_usd": seconds / 3600 * engine.usd_per_hour} if engine.usd_per_hour else {})


def _rank_in_backbone(trials: list[FrozenTrial], value: float, backbone: str) -> int:
    """Return the rank of a value among the trials of its backbone that were finished when this trial began.

    `drop_models` takes later ones into account.
    """
    return 1 + sum(
        1
        for other in trials
        if other.state == TrialState.COMPLETE
        and other.value is not None
        and other.value > value
        and "duplicate_of" not in other.user_attrs
        and other.params.get(BACKBONE, backbone) == backbone
    )
