"""Tests of `satx ui` with the real server, started and stopped as a user does it."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote

import httpx
import psutil
import pytest
from logged_runs import log_session
from projects import command, environment, make_project, with_databases

from satx.commands.console import err, out
from satx.commands.ui import ui_command
from satx.errors import TrackerUnavailable
from satx.reports.mlflow_links import chart_link, curves_link
from satx.tracking.server import local_server, running_server


def start(port: int, home: Path, project: Path) -> "subprocess.Popen[str]":
    """Start `satx ui` in a folder with modules that no process of satx may import."""
    return subprocess.Popen(
        command("ui", "--port", str(port)),
        cwd=make_project(project),
        env=environment(home, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_ui_serves_the_runs_prints_links_and_ends_cleanly_on_ctrl_c(home: Path, tmp_path: Path) -> None:
    with_databases(home, home.parents[1])
    made = log_session("session2", built_up=3)
    port = free_port()
    process = start(port, home, tmp_path / "project")
    try:
        lines: list[str] = []
        while not lines or made["mobilenetv2-best"] not in lines[-1]:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "\n".join(lines)
            lines.append(line)
        printed = "".join(lines)
        assert f"MLflow: http://127.0.0.1:{port}" in printed
        assert "Experiment session2" in printed and "compareRunsMode=CHART" in printed
        assert made["xception-best"] in lines[-1]
        assert httpx.get(f"http://127.0.0.1:{port}/health").text == "OK"
        family = psutil.Process(process.pid).children(recursive=True)
        assert {item.laddr.ip for one in family for item in one.net_connections() if item.status == "LISTEN"} == {
            "127.0.0.1"
        }
        busy = subprocess.run(
            [sys.executable, "-m", "satx", "ui", "--port", str(port)], capture_output=True, text=True, check=False
        )
        assert busy.returncode == 2
        assert f"Port {port}" in busy.stderr and "Traceback" not in busy.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        deadline = time.monotonic() + 30
        while any(one.is_running() for one in family) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(one.is_running() for one in family)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_an_empty_home_is_served_too_and_sigterm_ends_it(home: Path, tmp_path: Path) -> None:
    process = start(free_port(), home, tmp_path / "project")
    try:
        assert process.stdout is not None
        while "make sweep SESSION=2" not in (line := process.stdout.readline()):
            assert line, "the server exited before it was ready"
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert (home / "mlflow.db").is_file()


def test_the_links_have_their_query_after_the_hash() -> None:
    link = chart_link("http://127.0.0.1:5000", "7")
    assert link.startswith("http://127.0.0.1:5000/#/experiments/7/runs?")
    query = parse_qs(link.partition("?")[2])
    assert query["compareRunsMode"] == ["CHART"] and query["orderByKey"] == ["metrics.`best_val_auc`"]
    both = unquote(curves_link("http://127.0.0.1:5000", "7", ["a", "b"]))
    assert "/#/experiments/7/runs?" in both and "IN ('a', 'b')" in both
    assert " " not in curves_link("http://127.0.0.1:5000", "7", ["a", "b"])


@pytest.mark.parametrize("port", ["80", "70000", "http"])
def test_an_invalid_port_is_refused(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from satx.cli import main

    monkeypatch.setattr(sys, "argv", ["satx", "ui", "--port", port])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2


@pytest.fixture
def slow_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make MLflow's server a process that never answers."""
    with_databases(home, home.parents[1])
    never = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr("satx.tracking.server.server_command", lambda port: never)
    monkeypatch.setattr(out, "_file", None)
    monkeypatch.setattr(err, "_file", None)


@pytest.mark.usefixtures("slow_start")
def test_ui_says_how_long_it_has_waited_and_how_to_wait_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from satx.cli import main

    monkeypatch.setattr("satx.commands.ui.SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", ["satx", "ui", "--port", str(free_port()), "--wait", "0.02"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    assert stopped.value.code == TrackerUnavailable.exit_code
    assert "Starting MLflow: 1 s of at most 1 s" in said.out
    assert "within 0.02 minutes" in said.err and "`satx ui --wait 0.06` waits longer" in said.err


@pytest.mark.usefixtures("slow_start")
def test_waiting_for_mlflow_prints_nothing_more_while_a_line_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrackerUnavailable):
        ui_command(free_port(), wait_minutes=0.01)
    assert capsys.readouterr().out == "Starting MLflow …\n"


@pytest.mark.usefixtures("slow_start")
def test_a_server_that_exits_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "satx.tracking.server.server_command", lambda port: [sys.executable, "-c", "raise SystemExit(7)"]
    )
    waited: list[float] = []
    with (
        pytest.raises(TrackerUnavailable, match="exited with code 7"),
        running_server(free_port(), tmp_path / "log", on_wait=waited.append),
    ):
        pass
    assert waited == sorted(waited)


def test_ui_waits_for_five_minutes_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from satx.cli import main

    waits: list[float] = []
    monkeypatch.setattr("satx.commands.ui.ui_command", lambda port, *, wait_minutes: waits.append(wait_minutes))
    for arguments in ([], ["--wait", "12"], ["--wait", "-1"]):
        monkeypatch.setattr(sys, "argv", ["satx", "ui", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert waits == [5, 12]
    assert stopped.value.code == 2


@pytest.mark.slow
def test_the_server_ends_when_satx_is_killed(home: Path) -> None:
    script = (
        "import os, time\nfrom satx.tracking.server import local_server\n"
        "with local_server() as uri:\n    print(uri, flush=True)\n    time.sleep(600)\n"
    )
    started = [sys.executable, "-c", script]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True, env=environment(home)) as owner:
        assert owner.stdout is not None
        uri = owner.stdout.readline().strip()
        assert httpx.get(f"{uri}/health").text == "OK"
        owner.kill()
    deadline = time.monotonic() + 60
    with pytest.raises(httpx.TransportError):
        while time.monotonic() < deadline:
            httpx.get(f"{uri}/health", timeout=2)
            time.sleep(0.2)


@pytest.mark.slow
def test_if_mlflow_tracking_uri_is_set_its_link_is_printed_and_no_server_is_started(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with local_server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        ui_command(5000, wait_minutes=5)
    said = capsys.readouterr().out
    assert uri in said and "Ctrl-C" not in said
