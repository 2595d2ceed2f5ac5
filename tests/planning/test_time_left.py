"""Estimates of the time left, compared at half way of a simulated search with the time that the rest of it took."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, zip_longest
from pathlib import Path
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

RECORDED = Path(__file__).parents[2] / "experiments" / "benchmarks" / "results" / "savings-folded.json"
PLANNED_THEN: dict[Kind, float] = {  # by `plan_sweep` for `seed200` on its 732 tiles of 160 px
    ("mobilenetv2", "none"): 0.8,
    ("mobilenetv2", "block16"): 3.3,
    ("mobilenetv2", "block14"): 4.6,
    ("mobilenetv2", "block11"): 6.7,
    ("mobilenetv2", "block7"): 8.1,
    ("mobilenetv2", "all"): 21.2,
    ("xception", "none"): 0.8,
    ("xception", "block14"): 5.7,
    ("xception", "block13"): 9.7,
    ("xception", "block12"): 13.5,
    ("xception", "block9"): 23.2,
    ("xception", "all"): 87.2,
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


def seconds_of(row: Mapping[str, Any]) -> list[float]:
    """Return the seconds of the trials of a recorded class, the longest first.

    Two workers shared the machine. Known are their sum, the number of tail epochs, and how many tails had all eight; the
    others end after three epochs or after one, where the pruner decides, or before the tail.
    """
    num, ends, epochs = (int(row[key]) for key in ("configurations", "to the end of the tail", "tail epochs"))
    trained, left = [8] * ends, epochs - 8 * ends
    for others in range(num - ends, 0, -1):
        trained.append(min(left, 3 if left > others else 1))
        left -= trained[-1]
    seconds = 2 * row["satx s"]
    head = min(1.5, seconds / num) if epochs else seconds / num
    return [head + (seconds - num * head) / max(epochs, 1) * count for count in trained]


def replayed(seed: int) -> list[Ended]:
    """Return a sequence like the recorded 200 trials of `seed200`, whose totals by backbone and cut are known.

    Each backbone draws its cuts in turn: random draws come first, and later ones prefer the cuts that have most trials.
    The first trial of a whole backbone is the longest, since the pruner has no scores to compare its own with.
    """
    draw = np.random.default_rng(seed)
    kinds: dict[str, list[list[Ended]]] = defaultdict(list)
    for row in json.loads(RECORDED.read_text())["rows"][:-1]:
        backbone, cut = row["class"].split()
        seconds = seconds_of(row)
        num_first = int(cut == "all")
        order = [*seconds[:num_first], *draw.permutation(seconds[num_first:])]
        kinds[backbone].append([((backbone, cut), float(one)) for one in order])
    own = {name: [one for turn in zip_longest(*of_cuts) for one in turn if one] for name, of_cuts in kinds.items()}
    first = [one for name in ("mobilenetv2", "xception") for one in own[name][:10]]
    later = [(place / len(ended), one) for ended in own.values() for place, one in enumerate(ended[10:])]
    return first + [one for _, one in sorted(later, key=lambda pair: pair[0])]


def estimated(trials: list[Ended], at: int, usual: Mapping[Kind, float] = USUAL) -> float:
    """Estimate the seconds left after `at` trials, given how many of the remaining trials each backbone gets."""
    counts = Counter(kind[0] for kind, _ in trials[at:])
    to_draw = {name: float(counts[name]) for name in PLANNED}
    return seconds_left(usual, trials[:at], Left(running=(), queued=(), to_draw=to_draw, other_seconds=0.0))


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


def test_the_recorded_sweep_gets_cheaper_and_its_time_left_is_within_30_percent_at_half_way() -> None:
    ratios = []
    for seed in range(40):
        trials = replayed(seed)
        assert len(trials) == 200
        first, second = sum(seconds for _, seconds in trials[:100]), sum(seconds for _, seconds in trials[100:])
        assert first > 1.5 * second, "unlike the other simulated searches"
        ratios.append(estimated(trials, 100, PLANNED_THEN) / second)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.15)
    assert np.mean(np.abs(np.array(ratios) - 1) < 0.3) >= 0.9, sorted(ratios)


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
    state: TrialState, number: int, seconds: float | None = None, *, value: float = 0.9, **attributes: Any
) -> optuna.trial.FrozenTrial:
    began = datetime.datetime(2026, 1, 1)
    trial = create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
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


def test_from_half_way_on_confirming_is_expected_to_last_as_long_as_the_best_trials(
    open_tiny: Any, tiny_ready: Any
) -> None:
    confirm = {"num_configurations": 2, "num_seeds": 3}
    sweep = open_tiny(trials=8, start=[], confirm=confirm, keep_models_per_backbone=2)
    other = open_tiny(trials=8, start=[], keep_models_per_backbone=2)
    plan = plan_sweep(tiny_ready, sweep.job.sweep.model_copy(update={"trials": 8}), 8)
    planned = plan.confirming_hours * 3600
    assert planned > 0
    without = dataclasses.replace(plan, confirming_hours=0.0)

    def confirming(trials: list[optuna.trial.FrozenTrial]) -> float:
        return sweep_seconds_left(sweep, plan, trials) - sweep_seconds_left(other, without, trials)

    assert confirming([]) == pytest.approx(planned)
    best = [trial_of(TrialState.COMPLETE, number, 1000.0, value=0.9) for number in (0, 1)]
    worse = [trial_of(TrialState.COMPLETE, number, 10.0, value=0.8) for number in (2, 3)]
    pruned = [trial_of(TrialState.PRUNED, number, 5000.0) for number in (4, 5)]
    assert confirming([*best, *worse]) == pytest.approx(3 * 2 * 1000.0)
    assert confirming([*best, *worse, *pruned]) == pytest.approx(3 * 2 * 1000.0)
    of_one = confirming(best[:1])
    assert of_one > 3 * 1000.0 * 2 / 8, "the best of few trials counts a little"
    assert of_one < 3 * 2 * 1000.0
    under_way = [trial_of(TrialState.RUNNING, number) for number in (6, 7)]
    assert confirming([*best, *worse, *under_way]) == pytest.approx(3 * 1000.0), "two workers slow each other down"
