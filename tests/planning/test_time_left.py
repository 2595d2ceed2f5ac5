"""Estimates of the time left, compared at half way of a simulated search with the time that the rest of it took."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from satx.execution.worker import FILLED_SECONDS, FILLING
from satx.planning.plan import Kind, plan_sweep
from satx.planning.time_left import Ended, Left, seconds_left, sweep_seconds_left

CUTS = ("none", "block14", "block9", "all")
PLANNED = {"mobilenetv2": (1.0, 5.0, 12.0, 30.0), "xception": (1.5, 9.0, 50.0, 130.0)}
USUAL: dict[Kind, float] = {
    (backbone, cut): seconds for backbone, times in PLANNED.items() for cut, seconds in zip(CUTS, times, strict=True)
}


def dealt(draw: np.random.Generator, cards: Sequence[Any]) -> Iterator[Any]:
    """Yield the cards in random order, again and again: the order is random, but every card comes equally often."""
    while True:
        yield from (cards[place] for place in draw.permutation(len(cards)))


def record(seed: int, num_trials: int, *, leading: str, prefers: str | None = None) -> list[Ended]:
    """Simulate a search: ten trials of the cheap backbone, ten of the expensive one, then more of the leading one.

    The machine is up to twice as slow or fast as planned, with a further factor for each backbone and cut, and noise
    for each trial. Of three trials with a tail, one is pruned before the tail starts, one after one epoch, one never.
    With `prefers`, the search draws this cut more often after the first 20 trials.
    """
    draw = np.random.default_rng(seed)
    machine = 2 ** draw.uniform(-1, 1)
    pace = {kind: machine * 2 ** draw.uniform(-0.5, 0.5) for kind in USUAL}
    went = {kind: dealt(draw, [1.0] if kind[1] == "none" else [0.3, 0.5, 2.0]) for kind in USUAL}
    backbones = dealt(draw, [name for name in PLANNED for _ in range(7 if name == leading else 3)])
    first = {name: dealt(draw, CUTS) for name in PLANNED}
    later = {name: dealt(draw, [*CUTS, *[prefers] * 6] if prefers else CUTS) for name in PLANNED}
    trials = []
    for number in range(num_trials):
        backbone = next(backbones) if number >= 20 else "mobilenetv2" if number < 10 else "xception"
        kind = (backbone, next((first if number < 20 else later)[backbone]))
        trials.append((kind, USUAL[kind] * pace[kind] * next(went[kind]) * draw.lognormal(0, 0.2)))
    return trials


def estimated(trials: list[Ended], at: int) -> float:
    """Estimate the seconds left after `at` trials, given how many of the remaining trials each backbone gets."""
    counts = Counter(kind[0] for kind, _ in trials[at:])
    to_draw = {name: float(counts[name]) for name in PLANNED}
    return seconds_left(USUAL, trials[:at], Left(running=(), queued=(), to_draw=to_draw, other_seconds=0.0))


def half_of_the_time(trials: list[Ended]) -> int:
    spent = list(accumulate(seconds for _, seconds in trials))
    return next(number for number, seconds in enumerate(spent, start=1) if seconds >= spent[-1] / 2)


@pytest.mark.parametrize("leading", PLANNED)
@pytest.mark.parametrize("prefers", [None, "all"])
@pytest.mark.parametrize("half", [lambda trials: 100, half_of_the_time], ids=["of the trials", "of the time"])
def test_at_half_way_the_time_left_is_within_30_percent(leading: str, prefers: str | None, half: Any) -> None:
    ratios = []
    for seed in range(40):
        trials = record(seed, 200, leading=leading, prefers=prefers)
        at = half(trials)
        ratios.append(estimated(trials, at) / sum(seconds for _, seconds in trials[at:]))
    assert np.mean(np.abs(np.array(ratios) - 1) < 0.3) >= 0.95, sorted(ratios)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.1)


def test_an_expensive_backbone_without_ended_trials_is_not_estimated_like_a_cheap_one() -> None:
    ended = [(("mobilenetv2", "none"), 2.0), (("mobilenetv2", "block14"), 10.0)] * 5  # twice as long as planned
    left = Left(running=(), queued=[("xception", "all")] * 10, to_draw={}, other_seconds=0.0)
    as_planned = 10 * USUAL["xception", "all"]
    assert seconds_left(USUAL, ended, left) == pytest.approx(2 * as_planned, rel=0.3)
    assert 10 * sum(seconds for _, seconds in ended) / len(ended) < as_planned / 10, "unlike the mean of all trials"


def test_before_any_trial_has_ended_the_estimate_is_that_of_the_plan() -> None:
    left = Left(running=[(("xception", "all"), 0.5)], queued=(), to_draw={"mobilenetv2": 4.0}, other_seconds=100.0)
    planned = USUAL["xception", "all"] / 2 + sum(PLANNED["mobilenetv2"]) + 100.0
    assert seconds_left(USUAL, (), left) == pytest.approx(planned)
    assert seconds_left(USUAL, (), left, num_workers=2) == pytest.approx(planned / 2)


def test_a_cache_that_took_longer_than_planned_raises_the_estimate_of_the_trials() -> None:
    left = Left(running=(), queued=[("xception", "all")], to_draw={}, other_seconds=0.0)
    slow = seconds_left(USUAL, (), left, filled=(600.0, 1200.0))
    assert slow == pytest.approx(2 * seconds_left(USUAL, (), left), rel=0.1)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(USUAL)), st.floats(0.01, 1000.0)), max_size=40),
    st.dictionaries(st.sampled_from(list(PLANNED)), st.floats(0.0, 200.0)),
)
def test_the_estimate_is_never_negative_and_grows_with_the_remaining_work(
    ended: list[Ended], to_draw: dict[str, float]
) -> None:
    less, more = (
        seconds_left(USUAL, ended, Left(running=(), queued=queued, to_draw=to_draw, other_seconds=0.0))
        for queued in ([], [("xception", "all")])
    )
    assert 0.0 <= less < more


def trial_of(
    state: TrialState, number: int, seconds: float | None = None, **attributes: Any
) -> optuna.trial.FrozenTrial:
    began = datetime.datetime(2026, 1, 1)
    trial = create_trial(
        state=state,
        value=0.9 if state == TrialState.COMPLETE else None,
        params={"model.unfreeze": "none", "train.head_learning_rate": 0.001},
        distributions={
            "model.unfreeze": optuna.distributions.CategoricalDistribution(("none", "block16")),
            "train.head_learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        },
        user_attrs=attributes,
    )
    trial.number, trial.datetime_start = number, began
    trial.datetime_complete = None if seconds is None else began + datetime.timedelta(seconds=seconds)
    return trial


def test_the_time_for_filling_a_cache_is_not_part_of_the_duration_of_a_trial(open_tiny: Any, tiny_ready: Any) -> None:
    sweep = open_tiny(trials=4, start=[])
    plan = plan_sweep(tiny_ready, sweep.job.sweep.model_copy(update={"trials": 4}), 4)
    assert plan.filling_seconds["mobilenetv2"] > 0
    at_first = sweep_seconds_left(sweep, plan, [])
    assert at_first > 0
    waits = trial_of(TrialState.RUNNING, 0, **{FILLING: "mobilenetv2 trunk cache 50/100"})
    half_filled = sweep_seconds_left(sweep, plan, [waits])
    assert half_filled == pytest.approx(at_first - plan.filling_seconds["mobilenetv2"] / 2, rel=0.2)
    usual = next(one.usual_seconds for one in plan.trainings if one.unfreeze == "none")
    as_planned = plan.filling_seconds["mobilenetv2"]
    ended = trial_of(TrialState.COMPLETE, 0, seconds=as_planned + usual, **{FILLED_SECONDS: as_planned})
    assert sweep_seconds_left(sweep, plan, [ended]) < half_filled
    at_first_again = trial_of(TrialState.COMPLETE, 0, seconds=as_planned + usual)
    not_told_apart = sweep_seconds_left(sweep, plan, [at_first_again])
    assert not_told_apart > sweep_seconds_left(sweep, plan, [ended]), "filling is not part of the trial's own time"
