"""Kill real trainings repeatedly, and check that each finished curve equals that of an undisturbed training.

    make chaos TRAIN=1 SEED=1

24 small trainings (rendered tiles of 96 px, two head epochs and two tail epochs) cover every cut of MobileNetV2 and
Xception, tails from short to long and back, in real worker processes, so that each process trains many cuts. Workers are
killed with SIGKILL in the middle of an epoch, at most once per configuration, because satx gives a configuration up
after a second crash. The driver is stopped once with SIGINT and killed once with SIGKILL, and the same command is run
again until the sweep is complete. Then every cut is trained once more in a fresh process with the same number of
threads, and the curves are compared bit for bit. Writes chaos-train.json; exits with 1 if anything was lost,
duplicated, given up or differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import optuna
import pandas as pd
import psutil
from chaos_counts import counts_on_record, finished_trials, runs_of
from optuna.trial import FrozenTrial, TrialState
from report import publish

from satx.execution.driver import Sweep
from satx.execution.job import read_job
from satx.execution.worker_pool import worker_environment
from satx.storage import satx_home
from satx.study.database import open_storage
from satx.study.outcomes import counted_of
from satx.testing.changed_environment import changed_environment
from satx.tracking.client import open_tracker, tracking_uri
from satx.tracking.runs import CURVES, curve_of, fetch_file

STEPS = Path(__file__).with_name("chaos_steps.py")
KILLED_SHARE = 0.4  # of the configurations
MAX_KILLS_IN_A_ROW = 2  # five failures without a finished configuration stop a sweep
MAX_CALLS = 8
STOPPED = 130  # the exit code after a stop signal


@dataclass
class Plan:
    """Schedule of stops and kills; every decision follows from the seed.

    Attributes:
        seed: Seed of the decisions.
        stop_driver_at: Number of finished configurations at which the driver gets SIGINT.
        kill_driver_at: Number of finished configurations at which the driver gets SIGKILL.
        aims: By trial number, the epochs after which to kill its worker and a delay in seconds; None spares it.
        due: By trial number, when to kill its worker, on `time.monotonic`'s clock.
        kills_at: Number of finished configurations at each kill.
        hits: Count of each kind of stop and kill.
    """

    seed: int
    stop_driver_at: int
    kill_driver_at: int
    aims: dict[int, tuple[int, float] | None] = field(default_factory=dict)
    due: dict[int, float] = field(default_factory=dict)
    kills_at: list[int] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)


def main() -> None:
    """Run the disturbed sweep, compare its curves, and publish the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backbones", default="mobilenetv2,xception", help="comma-separated; fewer make it shorter")
    parser.add_argument("--minutes", type=float, default=30.0, help="time limit of the disturbed sweep")
    options = parser.parse_args()
    started = time.monotonic()
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="satx-chaos-")))
        held.enter_context(changed_environment(SATX_HOME=str(folder / "home")))
        chance = random.Random(options.seed)
        num_trainings = 12 * len(options.backbones.split(","))
        stop_at, kill_at = (int(num_trainings * chance.uniform(*shares)) for shares in ((0.1, 0.35), (0.4, 0.75)))
        plan = Plan(options.seed, stop_driver_at=stop_at, kill_driver_at=kill_at)
        sweep, num_calls = disturbed(folder, plan, options)
        disturbed_minutes = (time.monotonic() - started) / 60
        counts = counts_on_record(sweep) | compared(folder, sweep, options.workers)
    counts |= {"calls of the command": num_calls} | dict(plan.hits)
    rows = [{"what": what, "count": count} for what, count in counts.items()]
    minutes = (time.monotonic() - started) / 60
    more = {"seed": options.seed, "backbones": options.backbones, "workers": options.workers}
    publish("chaos-train", rows, **more, disturbed_minutes=disturbed_minutes, minutes=minutes)
    wrong = {what: number for what, number in counts.items() if number and what.startswith("wrong: ")}
    if wrong or counts["trials finished"] != sweep.job.trials or not plan.hits["workers killed"]:
        sys.exit(
            f"Expected {sweep.job.trials} finished trainings, at least one killed worker, and nothing wrong; got "
            f"{counts['trials finished']}, {plan.hits['workers killed']} and {wrong}."
        )


def disturbed(folder: Path, plan: Plan, options: Any) -> tuple[Sweep, int]:
    """Run and disturb the sweep until it is complete; return the sweep and the number of calls it took."""
    command = [sys.executable, str(STEPS), "sweep", str(folder), "--workers", str(options.workers)]
    command += ["--backbones", options.backbones]
    ends_at = time.monotonic() + options.minutes * 60
    for number in range(1, MAX_CALLS + 1):
        with (folder / "driver.log").open("ab") as log:
            driver = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            watch(driver, plan, ends_at)
        finally:
            if driver.poll() is None:
                driver.terminate()
                driver.wait()
        print(f"call {number} of the command ended with {driver.returncode}: {dict(plan.hits)}", flush=True)
        if driver.returncode == 0:
            study = opened_study()
            return Sweep(read_job(study), study, open_tracker(), None), number
        if driver.returncode not in (STOPPED, -signal.SIGKILL) or time.monotonic() > ends_at:
            break
    sys.exit(
        f"Expected the sweep to be complete after {MAX_CALLS} calls and {options.minutes:g} minutes, got exit code "
        f"{driver.returncode} from the last call. Its log ends with:\n"
        + (folder / "driver.log").read_text(errors="replace")[-3000:]
    )


def opened_study() -> optuna.Study:
    """Open the only study in this `SATX_HOME`."""
    storage = open_storage()
    (name,) = optuna.get_all_study_names(storage=storage)
    return optuna.load_study(study_name=name, storage=storage)


def watch(driver: subprocess.Popen[bytes], plan: Plan, ends_at: float) -> None:
    """Stop and kill workers and the driver as planned, until the driver ends."""
    study, told = None, -1
    while driver.poll() is None and time.monotonic() < ends_at:
        time.sleep(0.25)
        if study is None:
            if not list((satx_home() / "logs").glob("*/worker-*.log")):
                continue  # the driver is still creating the database
            study = opened_study()
        trials = study.get_trials(deepcopy=False)
        num_done = len(counted_of(trials))
        if num_done != told:
            told = num_done
            print(f"{num_done} trainings finished, {dict(plan.hits)}", flush=True)
        for trial in trials:
            if trial.state == TrialState.RUNNING and "configuration" in trial.user_attrs:
                hit_worker(trial, trials, num_done, plan)
        if not plan.hits["driver stopped"] and num_done >= plan.stop_driver_at:
            driver.send_signal(signal.SIGINT)
            plan.hits["driver stopped"] += 1
        if not plan.hits["driver killed"] and num_done >= plan.kill_driver_at:
            driver.kill()
            plan.hits["driver killed"] += 1


def hit_worker(trial: FrozenTrial, trials: list[FrozenTrial], num_done: int, plan: Plan) -> None:
    """Kill the process of a running trial if the plan says so and its time has come."""
    if trial.number not in plan.aims:
        plan.aims[trial.number] = aim(trial, trials, plan.seed)
    wanted = plan.aims[trial.number]
    if wanted is None or len(trial.intermediate_values) < wanted[0]:
        return
    due = plan.due.setdefault(trial.number, time.monotonic() + wanted[1])
    too_many = plan.kills_at[-MAX_KILLS_IN_A_ROW:] == [num_done] * MAX_KILLS_IN_A_ROW
    if time.monotonic() < due or too_many:
        return
    plan.aims[trial.number] = None
    owner = trial.user_attrs["owner"]
    try:
        worker = psutil.Process(owner["pid"])
        if abs(worker.create_time() - psutil.boot_time() - owner["started"]) < 1.0:
            worker.kill()
            plan.kills_at.append(num_done)
            plan.hits["workers killed"] += 1
            plan.hits[f"workers killed in epoch {len(trial.intermediate_values) + 1}"] += 1
    except psutil.NoSuchProcess:
        return


def aim(trial: FrozenTrial, trials: list[FrozenTrial], seed: int) -> tuple[int, float] | None:
    """Return the epochs after which to kill a trial's worker and a delay in seconds, or None to spare it."""
    digest = trial.user_attrs["configuration"]
    chance = random.Random(f"{seed} {digest}")
    others = [other for other in trials if other.user_attrs.get("configuration") == digest]
    if len(others) > 1 or chance.random() > KILLED_SHARE:
        return None
    return chance.choice((0, 2, 2, 3)), chance.uniform(0.0, 2.0)


def compared(folder: Path, sweep: Sweep, num_workers: int) -> dict[str, int]:
    """Train every cut once more in a separate process, and compare the finished curves with these."""
    wanted = finished_trials(sweep)
    by_cut: dict[tuple[str, str], list[str]] = defaultdict(list)
    for digest, trial in sorted(wanted.items(), key=lambda item: item[1].number):
        model = sweep.job.configuration_of(trial).model
        by_cut[model.backbone, model.unfreeze].append(digest)
    commands = [
        [sys.executable, str(STEPS), "alone", str(folder), sweep.job.study_name, *digests]
        for digests in by_cut.values()
    ]
    print(f"training {len(commands)} cuts undisturbed", flush=True)
    with (folder / "alone.log").open("ab") as log:
        together(commands, num_workers, log)
    runs = [run for run in runs_of(sweep) if run.data.tags["configuration"] in wanted]
    differ = [run for run in runs if not is_curve_of(sweep, run, folder)]
    for run in differ:
        print(f"differs: {run.info.run_name}", flush=True)
    return {
        "curves compared": len(runs),
        "fresh processes for comparison": len(commands),
        "wrong: configurations given up": sweep.job.trials - len(wanted),
        "wrong: curves that differ": len(differ),
        "wrong: curves that MLflow has with gaps or twice": sum(not is_logged_once(sweep, run) for run in runs),
    }


def together(commands: list[list[str]], num_processes: int, log: IO[bytes]) -> None:
    """Run commands, `num_processes` at a time, with the environment of that many workers."""
    environment, running = worker_environment(num_processes, tracking_uri()), list[subprocess.Popen[bytes]]()
    for command in commands:
        running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        if len(running) == num_processes:
            wait_for(running.pop(0), log)
    for process in running:
        wait_for(process, log)


def wait_for(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Wait until an undisturbed training has ended."""
    if process.wait():
        said = Path(log.name).read_text(errors="replace")[-3000:]
        sys.exit(
            f"Expected an undisturbed training to succeed, got exit code {process.returncode}. Its log ends with:\n{said}"
        )


def is_curve_of(sweep: Sweep, run: Any, folder: Path) -> bool:
    """Return whether a run's `history.csv` equals that of the undisturbed training, except for epoch durations."""
    with tempfile.TemporaryDirectory() as temporary:
        path = fetch_file(sweep.client, run.info.run_id, "history.csv", Path(temporary))
        if path is None:
            return False
        found, expected = (
            pd.read_csv(each, dtype=str).drop(columns="epoch_seconds")
            for each in (path, folder / "alone" / f"{run.data.tags['configuration']}.csv")
        )
    return bool(found.equals(expected))


def is_logged_once(sweep: Sweep, run: Any) -> bool:
    """Return whether MLflow has each epoch of each curve exactly once."""
    num_epochs = int(max(metric.step for metric in curve_of(sweep.client, run.info.run_id, "val_auc")))
    expected = list(range(1, num_epochs + 1))
    histories = (curve_of(sweep.client, run.info.run_id, name) for name in CURVES)
    return all(sorted(metric.step for metric in history) == expected for history in histories)


if __name__ == "__main__":
    main()
