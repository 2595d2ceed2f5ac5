"""Links to views of runs in MLflow's UI."""

from __future__ import annotations

from urllib.parse import quote

from mlflow.entities import Run

from satx.reports.comparison import CONFIGURATIONS
from satx.tracking.client import MlflowClient
from satx.tracking.runs import best_first, find_runs, runs_query


def chart_link(base: str, experiment_id: str, *, query: str = CONFIGURATIONS) -> str:
    """Return the link to the chart view of runs, best first.

    Args:
        base: URL of the MLflow server.
        experiment_id: Experiment of the runs.
        query: Which runs; by default all configurations, without the sweep's parent run, under which MLflow would
            collapse them.
    """
    parameters = {
        "workflowType": "machine_learning",
        "compareRunsMode": "CHART",
        "orderByKey": "metrics.`best_val_auc`",
        "orderByAsc": "false",
        "searchFilter": query,
    }
    written = "&".join(f"{key}={quote(value)}" for key, value in parameters.items())
    return f"{base}/#/experiments/{experiment_id}/runs?{written}"


def curves_link(base: str, experiment_id: str, run_ids: list[str]) -> str:
    """Return the link to the chart view of these runs only, in which each run has its own color.

    MLflow's page of one metric (`#/metric`) is not used: it chooses colors by run id and may give two runs the same one.
    """
    written = ", ".join(f"'{run_id}'" for run_id in run_ids)
    return chart_link(base, experiment_id, query=f"attributes.run_id IN ({written})")


def best_runs(client: MlflowClient, experiment_id: str, study: str) -> dict[str, Run]:
    """Return the best finished run by backbone, best backbone first; confirmed scores count."""
    query = runs_query({"study": study}, having=("configuration",), status="FINISHED")
    scored = [run for run in find_runs(client, experiment_id, query) if "best_val_auc" in run.data.metrics]
    best: dict[str, Run] = {}
    for run in sorted(scored, key=best_first):
        best.setdefault(run.data.tags["backbone"], run)
    return best
