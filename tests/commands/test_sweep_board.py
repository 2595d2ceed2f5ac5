"""The board of a sweep on a terminal, and its words: what runs, what ended, and what a stop waits for."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from satx.catalogue import BACKBONES, part_label
from satx.commands.console import out
from satx.commands.sweep_progress import board
from satx.commands.sweep_words import View, doing, stopping
from satx.execution.driver import Sweep
from satx.execution.worker import FILLED_SECONDS, FILLING

BEGAN = datetime.datetime(2026, 1, 1)
NAMES = ("mobilenetv2", "efficientnetv2b0")
CUTS = ("none", "block14", "all")
SPACE: dict[str, Any] = {
    "space": {
        "model.backbone": {"choices": list(NAMES)},
        "model.unfreeze": {name: {"choices": ["none", "all"]} for name in NAMES},
    },
    "set": {"train.head_epochs": 4, "train.finetune_epochs": 8},
    "start": [],
}
SPACE["space"]["model.unfreeze"]["mobilenetv2"] = {"choices": list(CUTS)}


@pytest.fixture
def wide(open_tiny: Callable[..., Sweep]) -> Sweep:
    """Open a sweep of 16 configurations over two backbones."""
    return open_tiny(trials=16, **SPACE)


def trial_of(
    number: int, backbone: str, cut: str, state: TrialState, *, step: int = 0, attributes: dict[str, Any] | None = None
) -> FrozenTrial:
    """Return a trial of the sweep `wide` that has reported `step` epochs."""
    ended = state.is_finished()
    choices = optuna.distributions.CategoricalDistribution
    trial = create_trial(
        state=state,
        value=0.9 + number / 1000 if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        params={"model.backbone": backbone, f"model.unfreeze@{backbone}": cut},
        distributions={"model.backbone": choices(NAMES), f"model.unfreeze@{backbone}": choices(CUTS)},
        intermediate_values={epoch: 0.5 for epoch in range(1, step + 1)},
        user_attrs=attributes or {},
    )
    trial.number, trial.datetime_start = number, BEGAN
    trial.datetime_complete = BEGAN + datetime.timedelta(minutes=number) if ended else None
    return trial


def view_of(sweep: Sweep, *trials: FrozenTrial, **parts: Any) -> View:
    return View(sweep, list(trials), **{"num_before": 0, "seconds_left": 720.0, **parts})


def drawn(view: View, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines of the board on a terminal of this width."""
    monkeypatch.setattr(out, "_width", width)
    with out.capture() as captured:
        out.print(board(view, 360.0))
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_board_is_whole_at_every_width(wide: Sweep, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    running, done, filled = TrialState.RUNNING, TrialState.COMPLETE, {FILLED_SECONDS: 3.0}
    view = view_of(
        wide,
        trial_of(0, "mobilenetv2", "none", done),
        trial_of(1, "mobilenetv2", "block14", TrialState.PRUNED),
        trial_of(2, "mobilenetv2", "none", TrialState.FAIL, attributes={"outcome": "out of memory"}),
        trial_of(3, "mobilenetv2", "block14", running, step=6, attributes=filled),
        trial_of(4, "efficientnetv2b0", "all", running, attributes={FILLING: "efficientnetv2b0 trunk cache 1024/5640"}),
    )
    lines = drawn(view, width, monkeypatch)
    assert max(map(len, lines)) <= width - 4, "the terminal writes ^C at the end of the last line"
    # without colors only the part of the bar that is done is drawn: 2 of 16
    assert lines[0].strip("━╸") == "" and len(lines[0]) == pytest.approx((width - 4) / 8, abs=1)
    said = " ".join(" ".join(lines[1:]).split())
    for sentence in (
        "2 of 16 configurations done, 1 pruned, 1 failed · 6 min, about 12 min left",
        "best mobilenetv2 head only: val AUC 0.9000 (trial 0; 2 done)",
        "efficientnetv2b0: none finished yet",
        "now trial 3: mobilenetv2 from block14, tail epoch 3 of 8",
        "trial 4: efficientnetv2b0 whole backbone, filling the trunk cache: 1,024 of 5,640 tile views",
        "last trial 2: mobilenetv2 head only, out of memory",
    ):
        assert sentence in said, f"expected {sentence!r}, with spaces or line ends between its words, in\n" + "\n".join(
            lines
        )


def test_the_board_of_many_workers_and_backbones_fits_into_24_lines(
    open_tiny: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(BACKBONES)
    sweep = open_tiny(trials=100, **SPACE | {"space": {"model.backbone": {"choices": names}}})
    sweep.interrupts = 1
    trials = [trial_of(0, "mobilenetv2", "none", TrialState.FAIL, attributes={"outcome": "failed"})]
    trials += [trial_of(n, "efficientnetv2b0", "all", TrialState.RUNNING, step=5) for n in range(1, 65)]
    lines = drawn(view_of(sweep, *trials), 60, monkeypatch)
    assert len(lines) <= 24
    assert "and 59 more" in lines[-2] and "64 trials to finish the epoch" in " ".join(lines)


@pytest.mark.parametrize(
    ("cut", "step", "attributes", "words"),
    [
        ("block14", 0, {}, "starting, or in its first epoch"),
        ("block14", 0, {FILLING: "mobilenetv2 trunk cache 40/94"}, "filling the trunk cache: 40 of 94 tile views"),
        ("block14", 0, {FILLING: "mobilenetv2 trunk cache 94/94", FILLED_SECONDS: 2.0}, "head epoch 1 of 4"),
        ("block14", 3, {}, "head epoch 4 of 4"),
        ("block14", 4, {}, "tail epoch 1 of 8"),
        ("block14", 12, {}, "writing its results"),
        ("none", 4, {}, "writing its results"),
    ],
)
def test_a_running_trial_is_described_by_the_epoch_in_progress(
    wide: Sweep, cut: str, step: int, attributes: dict[str, Any], words: str
) -> None:
    trial = trial_of(7, "mobilenetv2", cut, TrialState.RUNNING, step=step, attributes=attributes)
    assert doing(view_of(wide, trial)) == [f"trial 7: mobilenetv2 {part_label(cut)}, {words}"]


def test_the_epochs_of_a_trial_that_drew_their_number_are_its_own(open_tiny: Callable[..., Sweep]) -> None:
    space = {"model.unfreeze": {"choices": ["block16"]}, "train.finetune_epochs": {"low": 2, "high": 9}}
    sweep = open_tiny(space=space, start=[], set={"model.backbone": "mobilenetv2", "train.head_epochs": 2})
    trial = sweep.study.ask()
    assert doing(view_of(sweep, *sweep.study.get_trials())) == ["trial 0: drawing its configuration"]
    trial.suggest_categorical("model.unfreeze", ["block16"])
    num = trial.suggest_int("train.finetune_epochs", 2, 9)
    trial.report(0.5, 2)
    assert doing(view_of(sweep, *sweep.study.get_trials())) == [
        f"trial 0: mobilenetv2 from block16, tail epoch 1 of {num}"
    ]


def test_while_nothing_runs_the_board_says_what_is_awaited(wide: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    done = [trial_of(number, "mobilenetv2", "none", TrialState.COMPLETE) for number in range(16)]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as first:
        wide.workers = {0: first, 1: first}
        (starting,) = doing(view_of(wide, *done[:3], num_before=3))
        assert "2 workers" in starting and "Keras" in starting
        assert "starting 2 workers" in " ".join(drawn(view_of(wide), 80, monkeypatch))
        (next_one,) = doing(view_of(wide, *done[:4], num_before=3))
        assert "configuration" in next_one and "workers" not in next_one
        (ending,) = doing(view_of(wide, *done, num_before=3))
        assert "write" in ending
        assert first.stdin is not None
        first.stdin.close()
    wide.workers = {}
    assert "machines" in doing(view_of(wide, on_fleet=True))[0]
    assert doing(view_of(wide, *done)) == [], "the sweep is over"


def test_a_stop_says_what_it_waits_for_and_what_the_next_ctrl_c_does(wide: Sweep) -> None:
    training = trial_of(0, "mobilenetv2", "none", TrialState.RUNNING, step=1)
    filling = trial_of(
        1, "efficientnetv2b0", "none", TrialState.RUNNING, attributes={FILLING: "efficientnetv2b0 trunk cache 4/9"}
    )
    both = view_of(wide, training, filling)
    assert stopping(both) == ""
    wide.timed_out = True
    assert "limit" in stopping(both) and "Ctrl-C" not in stopping(both)
    wide.interrupts = 1
    assert "1 trial to finish the epoch, 20 s" in stopping(both) and "1 trial to leave the trunk cache" in stopping(
        both
    )
    assert "Ctrl-C again" in stopping(both)
    wide.interrupts = 2
    assert "at once" in stopping(both) and "waiting" not in stopping(both)
    assert stopping(view_of(wide)) == "", "all have ended"
