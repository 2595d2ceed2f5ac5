"""Time that a finished sweep saved by sharing work and by pruning, compared with training its trials in plain Keras.

    make bench NAME=savings ARGS="--study session2-seed200-1a2b3c4d"

The seconds of a plain epoch come from `replay`'s measurements of the same sweep, for each backbone and cut, so run that
first, while the machine is equally fast. satx's time is the time during which at least one counted trial was running,
however many workers shared the machine, because plain training has the whole machine too. It includes caches that
trials filled and a trial's overhead besides its epochs.

Three totals are computed for the same configurations: plain Keras for all epochs (plain Optuna without a pruner), plain
Keras for the epochs that were trained (plain Optuna with the same pruner), and satx. The first divided by the second is
the gain of pruning and early stopping, the second divided by the third the gain of sharing work. Writes savings.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
from replay import kept_in
from report import publish

from satx.execution.job import read_job
from satx.search.space import BACKBONE, UNFREEZE, settings_of, value_of
from satx.study.database import open_storage, open_study
from satx.study.outcomes import counted
from satx.tracking.client import MlflowClient, open_tracker
from satx.tracking.runs import fetch_file, find_runs, runs_query


def main() -> None:
    """Add up the three totals."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", required=True)
    options = parser.parse_args()
    study = open_study(open_storage(), options.study)
    job, client = read_job(study), open_tracker()
    settings = settings_of(job.sweep, job.defaults).train
    plain = plain_seconds(kept_in(job.store, job.sweep.name, job.weights))
    query = runs_query({"study": options.study}, having=("configuration",))
    found = find_runs(client, job.experiment_id, query)
    runs = {run.data.tags["configuration"]: run for run in found if "kind" not in run.data.tags}
    trials = counted(study)
    took = {trial.number: (trial.datetime_complete - trial.datetime_start).total_seconds() for trial in trials}
    busy_seconds = under_way_seconds([(trial.datetime_start, trial.datetime_complete) for trial in trials])
    share = busy_seconds / sum(took.values())  # mean share of the machine that a running trial had
    bills: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(float))
    for trial in trials:
        run = runs[trial.user_attrs["configuration"]]
        name = f"{value_of(job.sweep, trial, BACKBONE)} {value_of(job.sweep, trial, UNFREEZE)}"
        head, tail = epochs_of(client, run.info.run_id)
        if name not in plain:
            raise SystemExit(
                f"Expected plain seconds of {name}, found none. Measure them with `make bench NAME=replay`."
            )
        at = plain[name]
        full = at["head"] * settings.head_epochs + at["tail"] * settings.finetune_epochs
        begun = {"configurations": 1, "to the end of the tail": int(tail == settings.finetune_epochs)}
        trained = {"plain, all epochs s": full, "plain, same epochs s": at["head"] * head + at["tail"] * tail}
        for key, value in (begun | {"tail epochs": tail} | trained | {"satx s": share * took[trial.number]}).items():
            bills[name][key] += value
    rows = [{"class": name, **bills[name]} for name in sorted(bills)]
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "class"}
    publish(
        "savings",
        [*rows, {"class": "all", **total}],
        satx_s=busy_seconds,
        gain_of_sharing=total["plain, same epochs s"] / busy_seconds,
        gain_of_pruning_and_early_stopping=total["plain, all epochs s"] / total["plain, same epochs s"],
        gain=total["plain, all epochs s"] / busy_seconds,
    )


def under_way_seconds(intervals: list[tuple[Any, Any]]) -> float:
    """Return for how long at least one of the intervals was running."""
    seconds, reached = 0.0, None
    for begin, end in sorted(intervals):
        begin = begin if reached is None else max(begin, reached)
        seconds += max(0.0, (end - begin).total_seconds())
        reached = end if reached is None else max(reached, end)
    return seconds


def epochs_of(client: MlflowClient, run_id: str) -> tuple[int, int]:
    """Return how many head epochs and tail epochs a run has trained."""
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_file(client, run_id, "history.csv", Path(folder))
        phases = pd.read_csv(path)["phase"].value_counts() if path else {}
    return int(phases.get("head", 0)), int(phases.get("tail", 0))


def plain_seconds(folder: Path) -> dict[str, dict[str, float]]:
    """Return the seconds of a head epoch and a tail epoch in plain Keras for every class that `replay` has measured."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("class-*.json"))]
    return {row["class"]: {"head": row["plain head epoch s"], "tail": row["plain tail epoch s"]} for row in rows}


if __name__ == "__main__":
    main()
