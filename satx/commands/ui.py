"""`satx ui`: MLflow's own pages over `SATX_HOME`, on 127.0.0.1, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import httpx

from satx.commands.console import out
from satx.errors import TrackerUnavailable
from satx.storage import satx_home
from satx.tracking.comparison import CONFIGURATIONS
from satx.tracking.server import START_SECONDS, refuse_busy_port, server_command, server_environment
from satx.tracking.tracker import MlflowClient, open_tracker

STOP_SECONDS = 20
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CURVES = ("val_auc", "val_accuracy")


def ui_command(port: int) -> None:
    """Serve until Ctrl-C or SIGTERM; both end the server and return."""
    refuse_busy_port(port)
    home = satx_home()
    client = open_tracker(f"sqlite:///{home / 'mlflow.db'}")  # creates the tables, so that the server finds them
    base = f"http://127.0.0.1:{port}"
    log = home / "logs" / "mlflow-ui.log"
    try:
        with _stop_signals_raise(), _server(port, log) as process:
            out.print("Starting MLflow …")
            _wait_until_it_answers(base, process, log)
            _print_links(client, base)
            process.wait()
    except KeyboardInterrupt:
        out.print("\nStopped.")
        return
    raise TrackerUnavailable(f"MLflow's server ended by itself (exit {process.returncode}). See {log}.")


def chart_link(base: str, experiment_id: str) -> str:
    """The chart view of an experiment's configurations, best first; the sweep's own run would fold them away."""
    query = {
        "workflowType": "machine_learning",
        "compareRunsMode": "CHART",
        "orderByKey": "metrics.`best_val_auc`",
        "orderByAsc": "false",
        "searchFilter": CONFIGURATIONS,
    }
    return f"{base}/#/experiments/{experiment_id}/runs?" + "&".join(f"{key}={quote(query[key])}" for key in query)


def curves_link(base: str, experiment_id: str, run_ids: list[str]) -> str:
    """These runs' validation curves in one chart."""
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


@contextmanager
def _stop_signals_raise() -> Iterator[None]:
    """SIGTERM, or closing the terminal, ends a foreground server as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _server(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server as a session of its own, so that Ctrl-C reaches it through us and it leaves no process behind."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            server_command(port),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=server_environment(),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{base}/health", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TrackerUnavailable(f"MLflow's server did not start within {START_SECONDS} seconds. See {log}.")


def _print_links(client: MlflowClient, base: str) -> None:
    """The address, and for the experiment with the newest configuration the two views worth opening."""
    print(f"MLflow: {base}   (Ctrl-C ends it)")
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
    """The best finished run of each backbone, best backbone first."""
    query = f"tags.study = '{study}' and tags.configuration LIKE '%' and attributes.status = 'FINISHED'"
    best: dict[str, str] = {}
    for run in client.search_runs([experiment_id], query, order_by=["metrics.best_val_auc DESC"]):
        best.setdefault(run.data.tags["backbone"], str(run.info.run_id))
    return best
