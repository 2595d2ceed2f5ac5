"""Links to views of runs in MLflow's UI."""

from __future__ import annotations

import json
from urllib.parse import quote

from satx.reports.comparison import CONFIGURATIONS
from satx.tracking.client import MlflowClient
from satx.tracking.runs import find_runs, own_score_first, runs_query

CURVES = ("val_auc", "val_accuracy")


def chart_link(base: str, experiment_id: str) -> str:
    """Return the link to the chart view of an experiment's configurations, best first.

    The link filters out the sweep's parent run, under which MLflow would collapse the configurations.
    """
    query = {
        "workflowType": "machine_learning",
        "compareRunsMode": "CHART",
        "orderByKey": "metrics.`best_val_auc`",
        "orderByAsc": "false",
        "searchFilter": CONFIGURATIONS,
    }
    return f"{base}/#/experiments/{experiment_id}/runs?" + "&".join(f"{key}={quote(query[key])}" for key in query)


def curves_link(base: str, experiment_id: str, run_ids: list[str]) -> str:
    """Return the link to one chart with the validation curves of these runs."""
    query = {
        "runs": run_ids,
        "metric": CURVES[0],
        "experiments": [experiment_id],
        "plot_metric_keys": list(CURVES),
        "plot_layout": {},
        "deselected_curves": [],
        "last_linear_y_axis_range": [],
    }
    written = [f"{key}={quote(json.dumps(value, separators=(',', ':')))}" for key, value in query.items()]
    return f"{base}/#/metric?" + "&".join([*written, "x_axis=step", "y_axis_scale=linear", "line_smoothness=1"])


def best_run_ids(client: MlflowClient, experiment_id: str, study: str) -> dict[str, str]:
    """Return the id of the best finished run by backbone, best backbone first."""
    query = runs_query({"study": study}, having=("configuration",), status="FINISHED")
    best: dict[str, str] = {}
    for run in sorted(find_runs(client, experiment_id, query), key=own_score_first):
        best.setdefault(run.data.tags["backbone"], str(run.info.run_id))
    return best
