"""What a finished sweep saved: by sharing work, by pruning, and by both, against the same configurations trained plainly.

    make bench NAME=savings ARGS="--study session2-seed200-1a2b3c4d"

Plain seconds of an epoch come from what `replay` measured of the same sweep, class by class, so run that first, on a day on
which the machine is as fast; what satx took comes from the sweep's own records, its caches and its overhead included. Three
bills for the same configurations: every epoch plainly (plain Optuna without a pruner), the epochs that were trained, plainly
(plain Optuna with the same pruner), and satx. The first over the second is what pruning and early stopping gave, the second
over the third what sharing work gave. Writes savings.json.
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

from satx.search.database import open_storage
from satx.search.job import read_job
from satx.search.space import BACKBONE, UNFREEZE, settings_of, value_of
from satx.search.study import counted, open_study
from satx.search.worker import FILLING
from satx.tracking.runs import fetch_file
from satx.tracking.tracker import MlflowClient, open_tracker


def main() -> None:
    """Add up the three bills."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", required=True)
    options = parser.parse_args()
    study = open_study(open_storage(), options.study)
    job, client = read_job(study), open_tracker()
    settings = settings_of(job.sweep, job.defaults).train
    plain = plain_seconds(kept_in(job.store, job.sweep.name, job.weights))
    query = f"tags.study = '{options.study}' and tags.configuration LIKE '%'"
    found = client.search_runs([job.experiment_id], filter_string=query, max_results=1000)
    runs = {run.data.tags["configuration"]: run for run in found if "kind" not in run.data.tags}
    bills: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(float))
    shared_seconds = fixed_seconds = 0.0
    for trial in counted(study):
        run = runs[trial.user_attrs["configuration"]]
        name = f"{value_of(job.sweep, trial, BACKBONE)} {value_of(job.sweep, trial, UNFREEZE)}"
        head, tail = epochs_of(client, run.info.run_id)
        if name not in plain:
            raise SystemExit(
                f"Expected plain seconds of {name}, found none; measure them with `make bench NAME=replay`."
            )
        at, computed = plain[name], run.data.metrics["compute_seconds"]
        full = at["head"] * settings.head_epochs + at["tail"] * settings.finetune_epochs
        begun = {"configurations": 1, "to the end of the tail": int(tail == settings.finetune_epochs)}
        trained = {"plain, all epochs s": full, "plain, same epochs s": at["head"] * head + at["tail"] * tail}
        for key, value in (begun | {"tail epochs": tail} | trained | {"satx epochs s": computed}).items():
            bills[name][key] += value
        shared_seconds += run.data.metrics.get("shared_seconds", 0.0)
        if FILLING not in trial.user_attrs and trial.datetime_complete and trial.datetime_start:
            fixed_seconds += max(0.0, (trial.datetime_complete - trial.datetime_start).total_seconds() - computed)
    rows = [{"class": name, **bills[name]} for name in sorted(bills)]
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "class"}
    satx_seconds = total["satx epochs s"] + shared_seconds + fixed_seconds
    publish(
        "savings",
        [*rows, {"class": "all", **total}],
        trunk_cache_s=shared_seconds,
        beside_epochs_s=fixed_seconds,
        satx_s=satx_seconds,
        gain_of_sharing=total["plain, same epochs s"] / satx_seconds,
        gain_of_pruning_and_early_stopping=total["plain, all epochs s"] / total["plain, same epochs s"],
        gain=total["plain, all epochs s"] / satx_seconds,
    )


def epochs_of(client: MlflowClient, run_id: str) -> tuple[int, int]:
    """How many of its head and of its tail a run has trained."""
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_file(client, run_id, "history.csv", Path(folder))
        phases = pd.read_csv(path)["phase"].value_counts() if path else {}
    return int(phases.get("head", 0)), int(phases.get("tail", 0))


def plain_seconds(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds of a plain head and tail epoch of every class that `replay` has measured."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("class-*.json"))]
    return {row["class"]: {"head": row["plain head epoch s"], "tail": row["plain tail epoch s"]} for row in rows}


if __name__ == "__main__":
    main()
