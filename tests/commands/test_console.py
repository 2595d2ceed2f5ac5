"""Tests of the console: progress of long stages and of sweeps, mostly without a terminal."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from projects import TINY_SWEEP, furnish

from satx.commands import console
from satx.commands.console import lasting
from satx.commands.progress import progress_bars
from satx.commands.sweep_progress import sweep_progress
from satx.execution.driver import open_sweep
from satx.execution.worker import FILLED_SECONDS, FILLING
from satx.planning.plan import plan_sweep
from satx.search.space import SweepConfig


class Heard(threading.Event):
    """Event that is set when a line with this text is printed."""

    def __init__(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.lines: list[str] = []
        printed = console.out.print

        def hear(*objects: Any, **options: Any) -> None:
            self.lines.append(" ".join(map(str, objects)))
            printed(*objects, **options)
            if text in self.lines[-1]:
                self.set()

        monkeypatch.setattr(console.out, "print", hear)


def test_durations_are_printed_in_seconds_minutes_or_hours() -> None:
    assert [lasting(seconds) for seconds in (0.2, 89, 200, 5000, 7200)] == [
        "1 s",
        "89 s",
        "3 min",
        "83 min",
        "2.0 hours",
    ]


def test_a_silent_stage_prints_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard("confirming: 1 of 4 after", monkeypatch)
    with progress_bars(silence_seconds=0.05) as on_progress:
        on_progress("confirming", 0, 4)
        on_progress("confirming", 1, 4)
        assert heard.wait(60), heard.lines
    assert "left" in next(line for line in heard.lines if "1 of 4" in line)
    assert heard.lines[0] == "confirming (4)"


def test_a_finished_stage_and_one_that_just_printed_print_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard("reading: ", monkeypatch)
    with progress_bars(silence_seconds=0.02) as on_progress:
        on_progress("reading", 2, 2)
        assert not heard.wait(0.2)
    with progress_bars(silence_seconds=3600) as on_progress:
        on_progress("writing", 0, 2)
    assert heard.lines == ["reading (2)", "writing (2)"]


def test_a_sweep_prints_what_is_running_while_no_trial_ends(
    home: Any, tiny_tiles: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = furnish(home, tiny_tiles)
    config = SweepConfig.model_validate(TINY_SWEEP)
    sweep = open_sweep(prepared, config, 2, git_commit="0" * 40)
    plan = plan_sweep(prepared, config, 2)
    waits = Heard("trunk cache: 40 of 94", monkeypatch)
    trains = Heard("[0/2] trial 0: mobilenetv2 head only, head epoch 2 of 2 · about", monkeypatch)
    with sweep_progress(sweep, plan, silence_seconds=0.0) as on_tick:
        assert waits.lines[0].startswith("[0/2] starting 1 worker: ") and waits.lines[0].endswith(" left")
        trial = sweep.study.ask()
        trial.suggest_categorical("model.unfreeze", ["none", "block16"])
        trial.set_user_attr(FILLING, "mobilenetv2 trunk cache 40/94")
        on_tick(sweep)
        assert waits.wait(60), waits.lines
        trial.set_user_attr(FILLED_SECONDS, 3.0)
        trial.report(0.5, 1)
        on_tick(sweep)
        assert trains.wait(60), trains.lines
        sweep.study.tell(trial, 0.5)
        on_tick(sweep)
        assert "[1/2] trial 0: mobilenetv2 head only, finished, val AUC 0.5000 · about" in capsys.readouterr().out
    with sweep_progress(sweep, plan, silence_seconds=3600.0) as on_tick:
        on_tick(sweep)
        on_tick(sweep)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("[1/2] "), "the cache and the trial of an earlier call are not told again"


def test_a_stop_signal_is_answered_by_a_line_while_the_driver_is_busy(
    open_tiny: Any, tiny_ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_tiny()
    first, second = Heard("Stopping: waiting for 1 trial", monkeypatch), Heard("Stopping at once", monkeypatch)
    with sweep_progress(sweep, plan_sweep(tiny_ready, sweep.job.sweep, 2)) as on_tick:
        sweep.study.ask().report(0.5, 1)
        on_tick(sweep)
        sweep.interrupts = 1  # and `on_tick` is not called again
        assert first.wait(60), first.lines
        sweep.interrupts = 2
        assert second.wait(60), second.lines
    assert sum(line.startswith("Stopping") for line in first.lines) == 2


def test_the_table_on_a_terminal_shows_the_time_left(
    home: Any, tiny_tiles: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = furnish(home, tiny_tiles)
    config = SweepConfig.model_validate(TINY_SWEEP)
    sweep = open_sweep(prepared, config, 2, git_commit="0" * 40)
    assert [trial.state for trial in sweep.study.get_trials()] == [TrialState.WAITING]
    monkeypatch.setattr(console.out, "_force_terminal", True)
    monkeypatch.setattr(console.out, "_width", 80)
    with sweep_progress(sweep, plan_sweep(prepared, config, 2)) as on_tick:
        on_tick(sweep)
    said = capsys.readouterr().out
    assert re.search(r"0 of 2 configurations done · \d+ s, about \d+ s left", said)
    assert "starting 1 worker" in said and "running" not in said


def test_names_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "[bold]a[/bold] [red]b \\[c]"
    console.out.print(odd)
    console.table(odd, [odd], [[odd]])
    console.banner(odd)
    console.next_commands({"satx show": odd})
    console.err.print(odd)
    captured = capsys.readouterr()
    assert captured.out.count(odd) == 6 and captured.err.count(odd) == 1


@pytest.mark.parametrize("handling", [console.stop_signals_raise, console.stop_signal])
def test_a_stop_signal_that_is_ignored_stays_ignored(handling: Callable[[], AbstractContextManager[Any]]) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        with handling():
            assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("handling", [console.stop_signals_raise, console.stop_signal])
def test_the_handlers_of_stop_signals_are_restored(handling: Callable[[], AbstractContextManager[Any]]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with handling():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_word_of_a_table_is_broken_and_no_cell_is_lost(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "_width", width)
    columns = ["backbone", "trained", "parameters", "cached", "full", "expected", "trials"]
    rows = [
        ["efficientnetv2b0", "whole backbone", "5,858,704", "yes", "1234 s", "330 s", "12.5"],
        ["mobilenetv2", "head only", "0", "no", "3 s", "2 s", "7.25"],
    ]
    console.table("Trainings, with all epochs, and with pruning", columns, rows, right=(2, 4, 5, 6))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    words = set(re.split(r"[\s│┃,:]+", printed.replace("5,858,704", "5858704")))
    cells = " ".join(" ".join(row) for row in [columns, *rows]).replace("5,858,704", "5858704")
    assert set(cells.split()) <= words


def test_an_id_is_never_broken_into_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    row = ["mobilenetv2", "0" * 32, "0.9 (0.8 to 1.0) " * 4]
    for width in (60, 50):  # as a table, and as a paragraph
        monkeypatch.setattr(console.out, "_width", width)
        console.table("Runs", ["backbone", "run", "scores"], [row], whole=(1,))
        assert "0" * 32 in capsys.readouterr().out


def test_a_progress_bar_shows_whole_numbers_at_60_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "_force_terminal", True)
    monkeypatch.setattr(console.out, "_width", 60)
    with progress_bars() as on_progress:
        on_progress("confirming the best 3 with 2 more seeds", 2, 6)
        on_progress("reading tiles", 12_345, 20_000)
    last = capsys.readouterr().out.rpartition("reading tiles")[2]
    assert "12345/20000" in last and re.search(r"\d:\d\d:\d\d", last) and "…" not in last


def test_the_command_to_continue_can_be_typed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["/anywhere/satx/__main__.py", "sweep", "--data", "my tiles"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert console.this_command() == "satx sweep --data 'my tiles'"
    (tmp_path / "bin").mkdir()
    for name in ("satx", "sat_xception"):
        (tmp_path / "bin" / name).touch()
    monkeypatch.chdir(tmp_path)
    assert console.this_command() == "bin/satx sweep --data 'my tiles'"
    monkeypatch.setattr(sys, "argv", ["bin/sat_xception", "train", "-trials=4"])
    assert console.this_command() == "bin/sat_xception train -trials=4"


def test_warnings_go_to_the_standard_error_of_the_moment_which_a_board_replaces() -> None:
    script = (
        "import io, logging, sys\nfrom satx.commands.console import quiet_libraries\nquiet_libraries()\n"
        "sys.stderr = io.StringIO()\nlogging.getLogger('satx.x').warning('a server is away')\nprint(sys.stderr.getvalue())\n"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert (process.stdout.strip(), process.stderr) == ("WARNING satx.x: a server is away", "")


def test_in_a_narrow_terminal_the_next_commands_have_lines_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "_force_terminal", True)
    monkeypatch.setattr(console.out, "_width", 60)
    console.next_commands(
        {"unzip tiles.zip": "the tiles", "sort names.txt --output sorted.txt": "the names, sorted by name"}
    )
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert [line.strip() for line in printed if "#" not in line][-2:] == [
        "unzip tiles.zip",
        "sort names.txt --output sorted.txt",
    ]
    assert max(map(len, printed)) <= 60
