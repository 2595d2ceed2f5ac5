"""Read a session's runs and curves from MLflow, as the frames that `figure.py` and `page.py` draw.

Writes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Run

from satx.errors import ConfigError, DataError
from satx.evaluation.style import backbone_order
from satx.reports.best_run import best_run_of_each_backbone
from satx.reports.doubts import doubts
from satx.reports.pace import paces, with_paces
from satx.session_config import SessionConfig
from satx.tracking.client import MlflowClient
from satx.tracking.runs import CONFIRMED, WAITING, curve_of, find_runs, runs_query

DRAWN = ("val_accuracy", "val_loss", "val_auc", "epoch_seconds")  # each additional curve costs one request per run
SCORES = tuple(f"test_{name}{end}" for name in ("auc", "accuracy") for end in ("", "_low", "_high"))
CONFIGURATIONS = runs_query(having=("study", "configuration"))
# runs of `satx tune` have no starting weights from satx and no test scores
OF_SWEEPS = runs_query(having=("study", "configuration", "weights_digest"))
NUM_READERS = 4


@dataclass(frozen=True)
class SessionRuns:
    """One study of a session.

    Attributes:
        experiment: Name of the MLflow experiment, `session2` or `session2-sample`.
        experiment_id: Its id.
        study: Name of the study.
        runs: One row per configuration: `run_id run_name backbone status val_auc val_accuracy val_loss
            confirmed_val_auc hours`, test scores with their intervals, then the parameters.
        histories: One row per epoch: `run_id step` and the curves.
        baselines: One row per baseline: `run_id run_name backbone val_auc val_accuracy` and test scores with their
            intervals.
        shared_seconds: Per backbone: a run's share of the computation shared by all runs, which `hours` leaves out.
        usd: Per backbone with runs on rented machines: their total cost in US dollars.
        doubts: Notes on runs whose tails an older satx may have trained only partly.
    """

    experiment: str
    experiment_id: str
    study: str
    runs: pd.DataFrame
    histories: pd.DataFrame
    baselines: pd.DataFrame
    shared_seconds: dict[str, float]
    usd: dict[str, float]
    doubts: tuple[str, ...] = ()

    @property
    def best(self) -> pd.DataFrame:
        """Best run of each backbone, best backbone first, with the backbone's `depth epoch_seconds time_ratio`."""
        return with_paces(best_run_of_each_backbone(self.runs), self.paces)

    @property
    def paces(self) -> pd.DataFrame:
        """Seconds of an epoch by depth and backbone, from `pace.paces`."""
        return paces(self.runs, self.histories)


def newest_study(client: MlflowClient, experiment: str) -> tuple[str, str] | None:
    """Return experiment id and study name of an experiment's newest configuration, or None.

    Configurations of sweeps are preferred to those of `satx tune`.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None or found.lifecycle_stage == "deleted":
        return None
    for query in (OF_SWEEPS, CONFIGURATIONS):
        newest = client.search_runs(
            [found.experiment_id], query, order_by=["attributes.start_time DESC"], max_results=1
        )
        if newest:
            return str(found.experiment_id), newest[0].data.tags["study"]
    return None


def choose_experiment(client: MlflowClient, session: SessionConfig, *, sample: bool) -> tuple[str, str | None]:
    """Return the experiment to read, and a notice if it is not the one that was asked for.

    Raises:
        ConfigError: The session has no runs on its own tiles or on sample tiles.
    """
    real = session.experiment_name
    rendered = f"{real}-sample"
    if not sample and newest_study(client, real) is not None:
        return real, None
    if newest_study(client, rendered) is not None:
        notice = f"{real} has no runs yet, so these are the runs on its SAMPLE tiles ({rendered}), which satx rendered."
        return rendered, None if sample else notice
    name = rendered if sample else real
    raise ConfigError(
        f"{name}: expected runs of a sweep, found none. Run `make sweep SESSION={session.session}` first."
    )


def read_session(client: MlflowClient, experiment: str, *, study: str | None = None) -> SessionRuns:
    """Return the configurations of a study with their curves; by default of the newest study.

    Raises:
        ConfigError: There is no such study, or it has no configuration.
    """
    found = newest_study(client, experiment)
    if found is None:
        raise ConfigError(
            f"{experiment}: expected runs of a sweep, found none. Run `make sweep` for this session first."
        )
    experiment_id, newest = found
    name = study or newest
    found_runs = find_runs(client, experiment_id, runs_query({"study": name}, having=("configuration",)))
    if not found_runs:
        raise ConfigError(
            f"{experiment}: expected a study with configurations, got {name!r}. The newest one is {newest}; `make ui` "
            f"lists all of them."
        )
    baselines = find_runs(client, experiment_id, runs_query({"study": name, "kind": "baseline"}))
    histories = _histories(client, [str(run.info.run_id) for run in found_runs])
    return SessionRuns(
        experiment=experiment,
        experiment_id=experiment_id,
        study=name,
        runs=_runs_frame(found_runs, histories),
        histories=histories,
        baselines=_baselines_frame(baselines),
        shared_seconds={
            run.data.tags["backbone"]: run.data.metrics["shared_seconds"]
            for run in found_runs
            if "shared_seconds" in run.data.metrics
        },
        usd=_dollars(found_runs),
        doubts=tuple(doubts(found_runs)),
    )


def _dollars(found: list[Run]) -> dict[str, float]:
    usd: dict[str, float] = defaultdict(float)
    for run in found:
        if "cost_usd" in run.data.metrics:
            usd[run.data.tags["backbone"]] += run.data.metrics["cost_usd"]
    return dict(sorted(usd.items(), key=lambda item: backbone_order(item[0])))


def _histories(client: MlflowClient, run_ids: list[str]) -> pd.DataFrame:
    """Return one row per epoch of every run."""
    wanted = [(run_id, name) for run_id in run_ids for name in DRAWN]
    with ThreadPoolExecutor(NUM_READERS) as readers:
        curves = readers.map(lambda pair: curve_of(client, *pair), wanted)
        points = [
            (run_id, metric.step, name, metric.value)
            for (run_id, name), curve in zip(wanted, curves, strict=True)
            for metric in curve
        ]
    long = pd.DataFrame(points, columns=["run_id", "step", "name", "value"])
    wide = long.pivot_table(index=["run_id", "step"], columns="name", values="value", aggfunc="last")
    wide = wide.reindex(columns=list(DRAWN)).astype(np.float64)
    return wide.reset_index().rename_axis(columns=None)


def _runs_frame(found: list[Run], histories: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run with the scores of its best epoch.

    The scores come from the curves if the run ended before it logged them.
    """
    seconds = histories.groupby("run_id")["epoch_seconds"].sum()
    ranked = histories.sort_values(["val_auc", "val_loss"], ascending=[False, True], kind="stable")
    best_epoch = ranked.dropna(subset=["val_auc"]).drop_duplicates("run_id").set_index("run_id")
    rows = []
    for run in found:
        run_id, metrics = str(run.info.run_id), run.data.metrics
        scores = {
            name: metrics.get(f"best_{name}", float(best_epoch[name].get(run_id, np.nan)))
            for name in ("val_auc", "val_accuracy", "val_loss")
        }
        rows.append(
            {
                "run_id": run_id,
                "run_name": run.info.run_name,
                "backbone": run.data.tags["backbone"],
                "status": _status(run),
                **scores,
                CONFIRMED: metrics.get(CONFIRMED, np.nan),
                "hours": float(seconds.get(run_id, 0.0)) / 3600,
                **{name: metrics.get(name, np.nan) for name in SCORES},
                **{name: _typed(text) for name, text in sorted(run.data.params.items()) if name != "model.backbone"},
            }
        )
    return pd.DataFrame(rows)


def _status(run: Run) -> str:
    """Return a run's status as a key of `figure.STATUSES`.

    This is MLflow's status with two exceptions. A waiting run is RUNNING. A run that was killed but not pruned is
    STOPPED: it was no longer needed.
    """
    if run.info.status == WAITING:
        return "RUNNING"
    return "STOPPED" if run.info.status == "KILLED" and "pruned" not in run.data.tags else str(run.info.status)


def _baselines_frame(found: list[Run]) -> pd.DataFrame:
    rows = [
        {
            "run_id": str(run.info.run_id),
            "run_name": run.info.run_name,
            "backbone": run.data.tags["backbone"],
            "val_auc": run.data.metrics.get("best_val_auc", np.nan),
            "val_accuracy": run.data.metrics.get("best_val_accuracy", np.nan),
            **{name: run.data.metrics.get(name, np.nan) for name in SCORES},
        }
        for run in found
        if run.info.status == "FINISHED"
    ]
    columns = ["run_id", "run_name", "backbone", "val_auc", "val_accuracy", *SCORES]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values("backbone", key=lambda names: names.map(backbone_order), ignore_index=True)


def _typed(text: str) -> Any:
    """Return a parameter as the number it was, so that tables sort it numerically."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def best_tested_run(session: SessionRuns) -> pd.Series:
    """Return the finished run with the highest validation AUC, over all backbones, of those scored on test tiles.

    Raises:
        DataError: No run was scored on test tiles.
    """
    tested = session.runs[session.runs["test_auc"].notna()]
    best = best_run_of_each_backbone(tested)
    if best.empty:
        raise DataError(
            f"{session.experiment}: expected a run that was scored on test tiles, found none in {session.study}. Finish "
            f"its sweep (repeat its `make sweep` command), on tiles that have a test split."
        )
    return best.iloc[0]


def unscored_leader(session: SessionRuns, tested: pd.Series) -> list[str]:
    """Return a notice if the run that leads on the validation tiles is not the one whose test scores are shown."""
    leads = session.best.iloc[0]
    if leads["run_id"] == tested["run_id"]:
        return []
    return [
        f"{session.experiment}: {leads['run_name']} is the best run on the validation tiles but has no test scores yet. The test "
        f"scores shown are those of {tested['run_name']}. To finish the sweep, repeat its `make sweep` command."
    ]
