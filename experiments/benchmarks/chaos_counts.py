"""Counts of a disturbed study's trials and runs; those named `wrong: …` are 0 if nothing was lost or duplicated."""

from __future__ import annotations

from collections import Counter
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from satx.execution.driver import Sweep
from satx.study.outcomes import counted_of
from satx.tracking.runs import find_runs, runs_query


def runs_of(sweep: Sweep) -> list[Any]:
    """Return the MLflow runs of a study's configurations."""
    query = runs_query({"study": sweep.job.study_name}, having=("configuration",))
    return find_runs(sweep.client, sweep.job.experiment_id, query)


def finished_trials(sweep: Sweep) -> dict[str, FrozenTrial]:
    """Return the trial that finished each configuration, by the configuration's digest."""
    done = counted_of(sweep.study.get_trials(deepcopy=False))
    return {trial.user_attrs["configuration"]: trial for trial in done}


def counts_on_record(sweep: Sweep) -> dict[str, int]:
    """Count the trials and runs, and those that are wrong."""
    trials, runs = sweep.study.get_trials(deepcopy=False), runs_of(sweep)
    done, wanted = counted_of(trials), finished_trials(sweep)
    by_configuration = Counter(run.data.tags["configuration"] for run in runs)
    interrupted = Counter(
        trial.user_attrs.get("outcome", "vanished") for trial in trials if trial.state == TrialState.FAIL
    )
    return {
        "trials finished": len(done),
        "attempts": len(trials),
        **{f"attempts {outcome}": number for outcome, number in sorted(interrupted.items())},
        "wrong: trials that are not over": sum(not trial.state.is_finished() for trial in trials),
        "wrong: configurations finished twice": len(done) - len(wanted),
        "wrong: finished without a run": len(set(wanted) - set(by_configuration)),
        "wrong: runs of one configuration beyond the first": sum(by_configuration.values()) - len(by_configuration),
        "wrong: runs without a trial": len(
            set(by_configuration) - {trial.user_attrs.get("configuration") for trial in trials}
        ),
        "wrong: runs that are not over": sum(run.info.status in ("RUNNING", "SCHEDULED") for run in runs),
        "wrong: finished trials whose run is not": sum(
            run.info.status != "FINISHED" for run in runs if run.data.tags["configuration"] in wanted
        ),
    }
