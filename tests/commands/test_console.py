"""Tests of the console: progress of long stages and of sweeps, mostly without a terminal."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from optuna.trial import TrialState
from projects import TINY_SWEEP, furnish

from satx.commands import console
from satx.commands import sweep_progress as progress_module
from satx.commands.console import lasting, progress_bars
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
    with sweep_progress(sweep, plan, silence_seconds=0.0) as on_tick:
        on_tick(sweep)
        assert "[0/2] a worker is starting · about" in capsys.readouterr().out
        trial = sweep.study.ask()
        trial.suggest_categorical("model.unfreeze", ["none", "block16"])
        trial.set_user_attr(FILLING, "mobilenetv2 trunk cache 40/94")
        on_tick(sweep)
        assert "waits for the mobilenetv2 trunk cache 40/94 · about" in capsys.readouterr().out
        trial.set_user_attr(FILLED_SECONDS, 3.0)
        trial.report(0.5, 1)
        on_tick(sweep)
        assert "[0/2] trial 0 none epoch 1 of at most 2 · about" in capsys.readouterr().out
        sweep.study.tell(trial, 0.5)
        on_tick(sweep)
        assert "[1/2] trial 0 none: complete validation AUC 0.5000 · about" in capsys.readouterr().out
    with sweep_progress(sweep, plan, silence_seconds=3600.0) as on_tick:
        on_tick(sweep)
        on_tick(sweep)
    assert capsys.readouterr().out.count("\n") == 2, "one line for the cache and one for the trial"


def test_the_table_on_a_terminal_shows_the_time_left(home: Any, tiny_tiles: Any) -> None:
    prepared = furnish(home, tiny_tiles)
    config = SweepConfig.model_validate(TINY_SWEEP)
    sweep = open_sweep(prepared, config, 2, git_commit="0" * 40)
    assert [trial.state for trial in sweep.study.get_trials()] == [TrialState.WAITING]
    title = str(progress_module._board(sweep, plan_sweep(prepared, config, 2), started=0.0).title)
    assert title.startswith("0/2 done (0 pruned), 0 running, 0 failed · ") and title.endswith(" left")


def test_names_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "[bold]a[/bold] [red]b \\[c]"
    console.out.print(odd)
    console.table(odd, [odd], [[odd]])
    console.banner(odd)
    console.next_commands({"satx show": odd})
    console.err.print(odd)
    captured = capsys.readouterr()
    assert captured.out.count(odd) == 6 and captured.err.count(odd) == 1


def test_an_id_is_never_broken_into_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "_width", 60)
    console.table(
        "Runs", ["backbone", "run", "scores"], [["mobilenetv2", "0" * 32, "0.9 (0.8 to 1.0) " * 4]], whole=(1,)
    )
    assert "0" * 32 in capsys.readouterr().out
