"""`satx ui`: serve MLflow's UI for `SATX_HOME` on 127.0.0.1, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from satx.commands.console import err, lasting, out, stop_signals_raise
from satx.commands.links import print_link, shows_links
from satx.commands.progress import SILENCE_SECONDS
from satx.environment import environment
from satx.errors import TrackerUnavailable
from satx.reports.comparison import CONFIGURATIONS
from satx.reports.mlflow_links import best_runs, chart_link, curves_link
from satx.storage import home_in_use, satx_home, sqlite_uri
from satx.tracking.client import MlflowClient, open_tracker
from satx.tracking.server import refuse_busy_port, running_server


def ui_command(port: int, *, wait_minutes: float) -> None:
    """Serve MLflow's UI until Ctrl-C or SIGTERM, which end the server and return.

    If `MLFLOW_TRACKING_URI` is the URL of a server, print links to that server instead.

    Args:
        port: Port on 127.0.0.1.
        wait_minutes: How long to wait for the server's first answer.

    Raises:
        ConfigError: The port is in use.
        TrackerUnavailable: The server did not answer in time, or exited.
    """
    shared = environment().tracking_uri or ""
    if shared.startswith(("http://", "https://")):
        print(f"MLFLOW_TRACKING_URI is set, so runs go to {shared} and no server is started.")
        _print_links(open_tracker(), shared.rstrip("/"))
        return
    refuse_busy_port(port)
    log = satx_home() / "logs" / "mlflow-ui.log"
    try:
        out.print("Starting MLflow …")
        with stop_signals_raise(), home_in_use("ui"), ExitStack() as served:
            limit_seconds, remedy = wait_minutes * 60, f"`satx ui --wait {3 * wait_minutes:g}` waits longer."
            with _waiting(limit_seconds) as on_wait:
                starting = running_server(port, log, wait_seconds=limit_seconds, on_wait=on_wait, remedy=remedy)
                process = served.enter_context(starting)
            base = f"http://127.0.0.1:{port}"
            print(f"MLflow: {base}   (Ctrl-C stops it)")
            _print_links(open_tracker(sqlite_uri(satx_home() / "mlflow.db")), base)
            process.wait()
    except KeyboardInterrupt:
        out.print("\nStopped.")
        return
    raise TrackerUnavailable(f"MLflow's server exited with code {process.returncode}. See {log}.")


@contextmanager
def _waiting(limit_seconds: float) -> Iterator[Callable[[float], None]]:
    """Show how long MLflow has been starting; yields a callback that takes the seconds waited so far.

    Without a terminal, print a line after `SILENCE_SECONDS` without one.
    """
    with err.status("Starting MLflow.") as status:

        def on_wait(seconds: float) -> None:
            line = (
                f"Starting MLflow: {lasting(seconds)} of at most {lasting(limit_seconds)}. While a sweep uses the "
                f"processors, this may take minutes."
            )
            status.update(line)
            if not err.is_terminal and out.silent_seconds() >= SILENCE_SECONDS:
                out.print(line, highlight=False)

        yield on_wait


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
        print("There are no runs of a sweep yet: `make sweep SESSION=2` starts one.")
        return
    run = newest[0]
    names = {experiment.experiment_id: experiment.name for experiment in experiments}
    print(f"\nExperiment {names[run.info.experiment_id]}, every configuration in charts, best first:")
    print_link(chart_link(base, run.info.experiment_id), "charts of all configurations")
    print("  (Group by > backbone draws one line per backbone)")
    best = best_runs(client, run.info.experiment_id, run.data.tags["study"])
    if best:
        print(f"\nThe best of {' and '.join(best)} in one chart:")
        link = curves_link(base, run.info.experiment_id, [one.info.run_id for one in best.values()])
        print_link(link, f"curves of {' and '.join(best)}")
    if shows_links():
        print("\nYour terminal opens these links; `satx ui | cat` prints their addresses.")
