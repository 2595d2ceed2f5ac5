"""The worker: takes trials from the study, trains them, and writes what came of each into its run.

One configuration is one run: an attempt after a crash goes on with the run and the checkpoint of the one before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from satx.config import Configuration
from satx.errors import Interrupted, OutOfMemory, SweepStopped, TrialFailed
from satx.evaluation.style import backbone_colour
from satx.search.broken import BREAKS
from satx.search.job import Job, read_job
from satx.search.pruning import rung_step
from satx.search.reconcile import MAX_FAILURES_IN_A_ROW, Outcome, num_failures_in_a_row
from satx.search.refusals import (
    TOO_MUCH,
    attempts_at,
    known_value,
    num_duplicates_in_a_row,
    once_earlier_have_drawn,
    refuse_surplus,
    refuse_too_large,
)
from satx.search.sampling import BackboneSampler
from satx.search.space import BACKBONE, suggest
from satx.search.study import (
    DONE,
    counted_of,
    open_storage,
    open_study,
    owner_of_this_process,
    pruner_for,
)
from satx.search.trunks import fill_trunk
from satx.tracking.results import close_run, result_numbers
from satx.tracking.runs import (
    WAITING,
    CurveLogger,
    find_run,
    log_dataset,
    start_run,
)
from satx.tracking.tracker import MlflowClient, open_tracker
from satx.tracking.trained import drop_models, log_trained
from satx.training.checkpoint import Epoch, remove_checkpoint
from satx.training.devices import device_name, out_of_memory_fails_the_trial
from satx.training.trainer import train

logger = logging.getLogger(__name__)

MAX_DUPLICATES_IN_A_ROW = 25  # then the space has nothing new to offer
FILLING = "filling"  # of a trial: how far the cache is that it waits for
TELL_EVERY_SECONDS = 2.0
MAX_GROWTH_GB = 1.0  # a guard: 180 trials on compiled steps grew by 0.05 GB, where Keras leaked 30 MB a training
Shape = tuple[str, str]  # backbone and cut: what steps are compiled for


def run_worker(name: str, *, stop: Callable[[], bool]) -> None:
    """Train trials of a study until enough configurations are done, or this process has grown: the driver starts another.

    Args:
        name: The study.
        stop: Asked between epochs; True hands the trial back and ends the worker.

    Raises:
        Interrupted: `stop` said so.
        SweepStopped: Five failures in a row, counted in the study.
    """
    study = open_study(open_storage(), name)
    job = read_job(study)
    study.sampler = BackboneSampler(job.sweep, job.defaults)
    study.pruner = pruner_for(job.sweep, job.defaults)
    client = open_tracker()
    compiled: set[Shape] = set()
    objective = _objective(study, job, client, stop, compiled)
    num_compiled, base_gb = 0, 0.0  # when something was last compiled, which takes memory once
    while not stop():
        trials = study.get_trials(deepcopy=False)
        num_running = sum(trial.state == TrialState.RUNNING for trial in trials)
        if len(counted_of(trials)) + num_running >= job.trials:
            return
        if num_failures_in_a_row(study, trials) >= MAX_FAILURES_IN_A_ROW:
            raise SweepStopped(
                f"Expected at most {MAX_FAILURES_IN_A_ROW - 1} failures in a row, got {MAX_FAILURES_IN_A_ROW}; the sweep "
                f"stopped itself. See the tag `reason` of the failed runs, mend what they share, and run the same command."
            )
        if num_duplicates_in_a_row(study, trials) >= MAX_DUPLICATES_IN_A_ROW:
            logger.warning("the space seems exhausted: %d draws in a row were trained before", MAX_DUPLICATES_IN_A_ROW)
            return
        study.optimize(objective, n_trials=1, catch=(TrialFailed,), callbacks=[_forget_checkpoint(job)])
        if len(compiled) > num_compiled:
            num_compiled, base_gb = len(compiled), _own_memory_gb()
        elif _own_memory_gb() - base_gb > MAX_GROWTH_GB:
            logger.warning("grown from %.1f to %.1f GB; another worker goes on", base_gb, _own_memory_gb())
            return
    raise Interrupted("Stopped between trials; the same command continues.")


def _own_memory_gb() -> float:
    """Resident, without the mapped files of the caches, which the kernel takes back when it likes."""
    memory = psutil.Process().memory_info()
    return float(memory.rss - getattr(memory, "shared", 0)) / 1e9  # Linux alone says what is mapped


def _objective(
    study: optuna.Study, job: Job, client: MlflowClient, stop: Callable[[], bool], compiled: set[Shape]
) -> Callable[[optuna.Trial], float]:
    filled: set[str] = set()  # backbones whose trunk cache this worker has seen full

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("owner", owner_of_this_process())
        configuration = suggest(trial, job.sweep, job.defaults)
        digest = configuration.digest()
        trial.set_user_attr("configuration", digest)
        trials = once_earlier_have_drawn(study, trial)
        known = known_value(trials, trial, digest)
        if known is not None:
            return known
        refuse_surplus(trials, trial, job.trials)
        refuse_too_large(trials, trial, configuration)
        is_new, backbone = len(attempts_at(trials, digest)) == 1, configuration.model.backbone
        try:
            if backbone not in filled:
                _fill(trial, job, backbone, stop)
                filled.add(backbone)
            compiled.add((backbone, configuration.model.unfreeze))
            return _attempt(trial, job, client, configuration, stop, is_new=is_new)
        except (*BREAKS, Interrupted):
            trial.set_user_attr("outcome", Outcome.INTERRUPTED)
            raise

    return objective


def _fill(trial: optuna.Trial, job: Job, backbone: str, stop: Callable[[], bool]) -> None:
    try:
        with out_of_memory_fails_the_trial(kind=TrialFailed):  # no fault of the trial's batch size
            fill_trunk(job, backbone, on_progress=_filling(trial, backbone, stop))
    except TrialFailed:
        trial.set_user_attr("outcome", Outcome.FAILED)
        raise


def _filling(trial: optuna.Trial, backbone: str, stop: Callable[[], bool]) -> Callable[[int, int], None]:
    """Lets the driver see how far the trunk cache is that a trial waits for, and the trial be stopped while it waits."""
    told_at = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal told_at
        if stop():
            raise Interrupted("Stopped while the trunk cache was being filled; what is there of it is kept.")
        if time.monotonic() - told_at > TELL_EVERY_SECONDS:
            told_at = time.monotonic()
            trial.set_user_attr(FILLING, f"{backbone} trunk cache {done}/{total}")

    return on_progress


def _attempt(
    trial: optuna.Trial,
    job: Job,
    client: MlflowClient,
    configuration: Configuration,
    stop: Callable[[], bool],
    *,
    is_new: bool,
) -> float:
    """Train one configuration into its run; returns its best validation AUC."""
    digest = configuration.digest()
    curves = _open_run(trial, job, client, configuration, is_new=is_new)
    run_id = curves.run_id
    history: list[Epoch] = []
    on_epoch, on_tail = _reports(trial, curves, history, configuration.train.head_epochs)
    data, said = job.data_for(configuration.model.backbone), dict[str, str]()
    try:
        result = train(
            configuration,
            data,
            checkpoint_dir=job.checkpoint_dir(digest),
            on_epoch=on_epoch,
            on_tail=on_tail,
            on_cache=lambda reading: said.update(trunk_cache=reading),
            stop=stop,
        )
    except optuna.TrialPruned:
        close_run(client, run_id, configuration, history, curves, status="KILLED", tags=said | {"pruned": "true"})
        raise
    except TrialFailed as failure:
        trial.set_user_attr("outcome", Outcome.FAILED)
        if isinstance(failure, OutOfMemory):
            model, size = configuration.model, configuration.train.batch_size
            trial.set_user_attr(TOO_MUCH, [model.backbone, model.unfreeze, size])
        close_run(client, run_id, configuration, history, curves, status="FAILED", tags=said | {"reason": str(failure)})
        raise
    except Interrupted:
        curves.flush()
        client.update_run(run_id, status=WAITING)
        raise
    backbone, keep = configuration.model.backbone, job.sweep.keep_models_per_backbone
    leads = _rank_in_backbone(trial, result.best.val_auc, backbone) <= keep
    if leads:
        log_trained(client, run_id, result)
    numbers = result_numbers(result, store=job.store, session=job.session)
    close_run(client, run_id, configuration, history, curves, status="FINISHED", tags=said, numbers=numbers)
    if leads:
        drop_models(client, job.experiment_id, job.study_name, backbone, keep=keep)
    return result.best.val_auc


def _reports(
    trial: optuna.Trial, curves: CurveLogger, history: list[Epoch], head_epochs: int
) -> tuple[Callable[[Epoch, bool], None], Callable[[], None]]:
    """What the trainer calls after an epoch and before a tail: curves are sent, and the pruner is asked."""

    def report(value: float, step: int, *, may_prune: bool) -> None:
        trial.report(value, step=step)
        if may_prune and trial.should_prune():
            raise optuna.TrialPruned(f"at step {step}")

    def on_epoch(epoch: Epoch, new: bool) -> None:
        history.append(epoch)
        curves.add(epoch)
        num_in_phase = sum(before.phase == epoch.phase for before in history)
        report(epoch.val_auc, rung_step(epoch.phase, num_in_phase, head_epochs), may_prune=new)

    def on_tail() -> None:
        if len(history) < head_epochs:  # the head stopped early: its rung is now
            report(history[-1].val_auc, head_epochs, may_prune=True)

    return on_epoch, on_tail


def _open_run(
    trial: optuna.Trial, job: Job, client: MlflowClient, configuration: Configuration, *, is_new: bool
) -> CurveLogger:
    """The configuration's run, taken up again if an earlier attempt made it."""
    digest = configuration.digest()
    identity = {"study": job.study_name, "configuration": digest}
    found = None if is_new else find_run(client, job.experiment_id, identity)
    if found is not None:
        run_id = str(found.info.run_id)
        numbers = f"{found.data.tags.get('trial_numbers', '')},{trial.number}"
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "trial_numbers", numbers)
        return CurveLogger(client, run_id, params=configuration.flat())
    backbone, unfreeze = configuration.model.backbone, configuration.model.unfreeze
    tags = job.tags | identity
    tags |= {
        "backbone": backbone,
        "mlflow.runColor": backbone_colour(backbone),
        "trial_numbers": str(trial.number),
        "device": device_name(),
        "weights": job.weights[backbone].source,
        "weights_digest": job.weights[backbone].digest,
    }
    name = f"{backbone}-{unfreeze}-{digest[:8]}"
    run_id = start_run(client, job.experiment_id, name=name, tags=tags, params={}, parent=job.parent_run_id)
    log_dataset(client, run_id, job.store, job.session.experiment_name)
    return CurveLogger(client, run_id, params=configuration.flat(), is_new=True)


def _rank_in_backbone(trial: optuna.Trial, value: float, backbone: str) -> int:
    done = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return 1 + sum(
        1
        for other in done
        if other.value is not None
        and other.value > value
        and "duplicate_of" not in other.user_attrs
        and other.params.get(BACKBONE, backbone) == backbone
    )


def _forget_checkpoint(job: Job) -> Callable[[optuna.Study, FrozenTrial], None]:
    def forget(_study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state in DONE and "configuration" in trial.user_attrs:
            remove_checkpoint(job.checkpoint_dir(trial.user_attrs["configuration"]))

    return forget
