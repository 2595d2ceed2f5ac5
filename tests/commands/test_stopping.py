"""A stop signal is acknowledged at once, even while the main thread computes in a library."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import typer

from satx.cli_process import run_with_exit_code
from satx.commands.stopping import STOP_SIGNALS, stoppable
from satx.errors import Interrupted

# One call of a C function, which lasts for a minute and runs no handler of Python until it returns.
BUSY = """
import hashlib, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup inherit that it is ignored
from satx.commands.stopping import stoppable
sys.argv = ["satx", "sweep", "--trials", "3"]
with stoppable():
    print("ready", flush=True)
    try:
        hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
    finally:
        print("computed", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_is_acknowledged_while_a_library_computes(number: signal.Signals) -> None:
    command = [sys.executable, "-c", BUSY.format(rounds=100_000_000)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "Stopping …\n"
        assert process.poll() is None
        process.kill()


def test_it_ends_with_one_sentence_and_the_command_that_continues() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(Interrupted) as stopped, stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert str(stopped.value).count("\n  ") == 1 and "continue" in str(stopped.value)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_ctrl_c_in_any_command_says_that_it_stopped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    app.command()(lambda: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(sys, "argv", ["satx"])
    with pytest.raises(SystemExit) as stopped:
        run_with_exit_code(app)
    assert stopped.value.code == Interrupted.exit_code
    assert capsys.readouterr().err == "Stopped.\n"
    with pytest.raises(SystemExit) as refused:
        run_with_exit_code(lambda: sys.exit(2))
    assert refused.value.code == 2 and capsys.readouterr().err == ""
