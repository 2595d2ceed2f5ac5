"""`satx ui`: serve MLflow's UI for `SATX_HOME` on 127.0.0.1, until Ctrl-C."""

from __future__ import annotations

import json
import os
from urllib.parse import quote

from satx.commands.console import out, stop_signals_raise
from satx.errors import TrackerUnavailable
from satx.reports.comparison import CONFIGURATIONS
from satx.storage import satx_home
from satx.tracking.client import MlflowClient, open_tracker
from satx.tracking.runs import find_runs, own_score_first, runs_query
from satx.tracking.server import refuse_busy_port, running_server

CURVES = ("val_auc", "val_accuracy")


def ui_command(port: int) -> None:
    """Serve MLflow's UI until Ctrl-C or SIGTERM, which end the server and return.

    If `MLFLOW_TRACKING_URI` is the URL of a server, print links to that server instead.
    """
    shared = os.environ.get("MLFLOW_TRACKING_URI", "")
    if shared.startswith(("http://", "https://")):
        print(f"MLFLOW_TRACKING_URI is set, so runs go to {shared} and nothing is started here.")
        _print_links(open_tracker(), shared.rstrip("/"))
        return
    refuse_busy_port(port)
    log = satx_home() / "logs" / "mlflow-ui.log"
    try:
        out.print("Starting MLflow …")
        with stop_signals_raise(), running_server(port, log) as process:
            base = f"http://127.0.0.1:{port}"
            print(f"MLflow: {base}   (Ctrl-C ends it)")
            _print_links(open_tracker(f"sqlite:///{satx_home() / 'mlflow.db'}"), base)
            process.wait()
    except KeyboardInterrupt:
        out.print("\nStopped.")
        return
    raise TrackerUnavailable(f"MLflow's server ended by itself (exit {process.returncode}). See {log}.")


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


def _print_links(client: MlflowClient, base: str) -> None:
    """Print links to two views of the experiment with the newest configuration."""
    experiments = client.search_experiments()
    newest = client.search_runs(
        [experiment.experiment_id for experiment in experiments],
        CONFIGURATIONS,
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not newest:
        print("No sweep has left runs here yet: `make sweep SESSION=2` starts one.")
        return
    run = newest[0]
    names = {experiment.experiment_id: experiment.name for experiment in experiments}
    print(f"\nExperiment {names[run.info.experiment_id]}, every configuration in charts, best first:")
    print(f"  {chart_link(base, run.info.experiment_id)}")
    print("  (Group by > backbone draws one line a backbone)")
    best = _best_run_ids(client, run.info.experiment_id, run.data.tags["study"])
    if best:
        print(f"\nThe best of {' and '.join(best)} in one chart:")
        print(f"  {curves_link(base, run.info.experiment_id, list(best.values()))}")


def _best_run_ids(client: MlflowClient, experiment_id: str, study: str) -> dict[str, str]:
    """Return the id of the best finished run by backbone, best backbone first."""
    query = runs_query({"study": study}, having=("configuration",), status="FINISHED")
    best: dict[str, str] = {}
    for run in sorted(find_runs(client, experiment_id, query), key=own_score_first):
        best.setdefault(run.data.tags["backbone"], str(run.info.run_id))
    return best
