"""`satx sweep`: prepare, print the plan, run the workers with progress, score the finalists, print next commands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mlflow.entities import Run

from satx.commands.console import (
    banner,
    banners,
    git_commit,
    next_commands,
    out,
    print_json,
    table,
    talk_on_stderr,
)
from satx.commands.fleet_up import Fleet, ordered, planned_fleet
from satx.commands.progress import progress_bars
from satx.commands.stopping import stoppable, stopped
from satx.commands.sweep_plan import print_plan
from satx.commands.sweep_progress import sweep_progress
from satx.config import validated
from satx.environment import environment
from satx.errors import ConfigError, Interrupted, SatxError
from satx.execution.confirm import confirm_best, unconfirmed_leaders
from satx.execution.driver import Sweep, close_sweep, name_of_study, num_done, only_driver, open_sweep
from satx.execution.finalists import log_baselines, log_finalists, log_shared_seconds, versus_baselines
from satx.execution.summary import log_curves, log_summary, log_sweep, test_auc_text, val_auc_text
from satx.execution.worker_pool import run_workers
from satx.fleet.settings import load_fleet, shared_databases
from satx.fleet.watch import Order, watch_fleet
from satx.planning.plan import Plan, plan_sweep
from satx.search.space import SweepConfig
from satx.sessions.prepare import OnStage, PreparedSession, SessionRequest, notices_ahead, prepare, sweep_for
from satx.study.admission import why_exhausted
from satx.study.database import do_not_wait
from satx.study.outages import BREAKS
from satx.study.outcomes import counted
from satx.study.run_recovery import write_missing_records
from satx.tracking.client import waiting_longer
from satx.tracking.server import local_server
from satx.training.speed import machine_factor


@stoppable()
def sweep_command(
    request: SessionRequest,
    *,
    sweep_name: str | None,
    trials: int | None,
    minutes: float | None,
    workers: int,
    order: Order | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a session's sweep, or continue it, on this machine or on a fleet."""
    if as_json:
        talk_on_stderr()
    if order is not None:
        load_fleet()  # an error in its settings is reported before any work
        shared_databases()
    config = sweep_for(request, sweep_name)
    if trials is not None:
        config = validated(SweepConfig, config.model_dump() | {"trials": trials}, source="TRIALS")
    banners(notices_ahead(request))
    with progress_bars() as on_progress:
        prepared = prepare(request, config.backbones, on_progress=on_progress)
    run_sweep(prepared, config, minutes=minutes, workers=workers, order=order, dry_run=dry_run, as_json=as_json)


@stoppable()
def run_sweep(
    prepared: PreparedSession,
    config: SweepConfig,
    *,
    minutes: float | None,
    workers: int,
    order: Order | None = None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Print the plan of a prepared sweep and, unless it is a dry run, run it."""
    banners(prepared.notices)
    name, _ = name_of_study(prepared, config)
    done = num_done(name)
    num_left = max(0, config.trials - done)
    is_here = order is None and (num_left or config.confirm.num_configurations)  # else the trials are not trained here
    plan = plan_sweep(prepared, config, num_left, machine_factor=machine_factor() if is_here else 1.0)
    print_plan(name, prepared, config, plan, done, minutes)
    if plan.num_configurations and plan.model_gb > plan.free_gb:
        raise ConfigError(
            f"Expected {plan.model_gb:.1f} GB free for this sweep's models and checkpoints, found {plan.free_gb:.1f}. "
            f"Free some, or set SATX_HOME to another disk."
        )
    fleet = planned_fleet(load_fleet(), order, name, config.trials) if order is not None else None
    if fleet is not None and plan.num_confirming:
        banner(
            f"Confirming follows when the fleet has finished: {plan.num_confirming} trainings on this machine. If it has no GPU, "
            f"remove `confirm` from sweeps/{config.name}.yaml."
        )
    if dry_run:
        if as_json:
            print_json({"study": name, "done": done, **plan.as_dict()})
        return
    out.print("Opening the study …")  # the first time, the tables of two databases are created
    started = time.monotonic()
    bucket = environment().bucket if fleet is None else fleet.config.bucket
    with waiting_longer(), only_driver(name), _server_for(workers) as uri:
        sweep = open_sweep(prepared, config, config.trials, git_commit=git_commit(), bucket=bucket, tracking_uri=uri)
        if sweep.changed:
            banner(f"A new study, {name}: {sweep.changed}. Scores of the two are never mixed.")
        finished, finalists = _run(sweep, plan, workers, minutes, fleet)
        ended = _ended(sweep, finished, time.monotonic() - started, minutes, fleet)
        compared = [*versus_baselines(sweep, finalists), *unconfirmed_leaders(sweep, finalists)]
    _print_results(finalists, compared)
    out.print(f"Sweep {name} {ended}", highlight=False)
    _print_next(sweep, finalists)
    if as_json:
        print_json({"study": name, "finished": finished, "runs": [_as_row(run) for run in finalists]})


def _run(sweep: Sweep, plan: Plan, workers: int, minutes: float | None, fleet: Fleet | None) -> tuple[bool, list[Run]]:
    ends_at = time.monotonic() + minutes * 60 if minutes else float("inf")
    status = "KILLED"
    try:
        with suppress(*BREAKS):  # a sweep does not depend on what its run shows
            log_sweep(sweep)
        with sweep_progress(sweep, plan, on_fleet=fleet is not None) as on_tick:
            if fleet is None:
                finished = run_workers(sweep, num_workers=workers, ends_at=ends_at, on_tick=on_tick)
            else:
                launch, num = ordered(fleet, sweep), fleet.order.num_machines
                finished = watch_fleet(sweep, fleet.amazon, fleet.config, launch, num, on_tick=on_tick)
        write_missing_records(sweep.study, sweep.client, sweep.job.experiment_id)
        with progress_bars() as on_progress:
            log_baselines(sweep, on_progress=on_progress)
            log_shared_seconds(sweep)
            if finished and sweep.job.sweep.confirm.num_configurations:
                finished = _confirm(sweep, ends_at, on_progress)
            finalists = log_finalists(sweep, on_progress=on_progress)
            with suppress(*BREAKS):
                log_curves(sweep.client, sweep.study, sweep.job.parent_run_id)
        status = "FINISHED" if finished else "KILLED"
        return finished, finalists
    except (KeyboardInterrupt, Interrupted) as error:
        if fleet is not None and isinstance(error, Interrupted):
            raise  # `satx fleet down` was called; the message says what follows
        machines = "" if fleet is None else "Its machines keep running; `satx fleet down` terminates them."
        raise Interrupted(stopped(machines)) from error
    except SatxError:
        status = "FAILED"
        raise
    finally:
        close_sweep(sweep, status)
        do_not_wait(sweep.study)
        with suppress(*BREAKS):  # what ended the sweep may make its summary impossible too
            log_summary(sweep.client, sweep.study, sweep.job.parent_run_id, wanted=sweep.job.trials)


def _confirm(sweep: Sweep, ends_at: float, on_progress: OnStage) -> bool:
    """Confirm the best configurations; return whether all wanted ones are confirmed."""
    settings = sweep.job.sweep.confirm
    found = confirm_best(sweep, ends_at=ends_at, on_progress=on_progress)
    out.print(
        f"Confirmed the best {found.num_confirmed} with {settings.num_seeds} more seeds each: "
        f"{found.compute_seconds / 60:.1f} minutes of training in addition to the sweep's own.",
        highlight=False,
    )
    return found.num_confirmed == found.num_wanted


@contextmanager
def _server_for(workers: int) -> Iterator[str | None]:
    """Run a local MLflow server if there are several workers, so that one process owns MLflow's database.

    Yields its URI, or None where the environment or the one worker needs no server.
    """
    if workers == 1 or environment().tracking_uri:
        yield None
        return
    with local_server() as uri:
        yield uri


def _print_results(finalists: list[Run], compared: list[str]) -> None:
    rows = [list(_as_row(run).values()) for run in finalists]
    if rows:
        table(
            "Best of each backbone (chosen on valid, scored on test)",
            list(_as_row(finalists[0])),
            rows,
            right=(2, 3, 4, 5),
            whole=(1,),
        )
    for line in compared:
        out.print(line, highlight=False)


def _print_next(sweep: Sweep, finalists: list[Run]) -> None:
    session = sweep.job.session.experiment_name.removeprefix("session").removesuffix("-sample")
    session += " --sample" if sweep.job.store.sample else ""
    commands = {
        "make ui": "MLflow on 127.0.0.1: the backbones' curves side by side",
        f"satx compare --session {session}": "the figure of all curves, and a page",
    }
    if finalists:
        untested = not len(sweep.job.store.rows("test"))  # without test scores the gate refuses every run
        promote = f"satx promote --run-id {finalists[0].info.run_id}" + (" --force 'no test tiles'" if untested else "")
        commands[promote] = "make the best run the champion and export it"
    next_commands(commands)


def _ended(sweep: Sweep, finished: bool, seconds: float, minutes: float | None, fleet: Fleet | None) -> str:
    """Return how the sweep ended, after how long, and what is left to do."""
    done, wanted = len(counted(sweep.study)), sweep.job.trials
    after = f"after {seconds / 60:.1f} minutes"
    if finished and done < wanted:
        return f"finished {after} with {done} of {wanted} configurations: {why_exhausted(sweep.study)}."
    if finished:
        return f"finished {after}."
    if fleet is not None:
        why = "because its budget is spent (--budget-usd)"
    else:
        why = "at its time limit" if minutes else "while workers on another machine train its last configurations"
    left = "before its best were confirmed" if done >= wanted else f"with {done} of {wanted} configurations"
    return f"stopped {after} {why}, {left}. The same command continues it."


def _as_row(run: Run) -> dict[str, str]:
    metrics = run.data.metrics
    test = (
        f"{metrics['test_accuracy']:.3f} ({metrics['test_accuracy_low']:.3f} to {metrics['test_accuracy_high']:.3f})"
        if "test_accuracy" in metrics
        else "no test split"
    )
    return {
        "backbone": run.data.tags["backbone"],
        "run": run.info.run_id,
        "val AUC": val_auc_text(metrics),
        "val accuracy": f"{metrics['best_val_accuracy']:.3f}",
        "test AUC": test_auc_text(metrics),
        "test accuracy": test,
    }
