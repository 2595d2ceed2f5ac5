from __future__ import annotations

import math
from collections import Counter
from statistics import median
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from satx.config import Configuration
from satx.execution.worker import MAX_DUPLICATES_IN_A_ROW
from satx.search.sampler import BackboneSampler, next_backbone
from satx.search.space import SweepConfig, suggest, value_of
from satx.study.outcomes import num_duplicates_in_a_row

BEST_RATE = {"xception": 3e-3, "mobilenetv2": 3e-4}
LEVEL = {"xception": 0.93, "mobilenetv2": 0.96}
SWEEP: dict[str, Any] = {
    "name": "shares",
    "trials": 100,
    "sampler": {"name": "tpe", "num_startup_trials": 10, "seed": 3},
    "space": {
        "model.backbone": {"choices": list(LEVEL)},
        "model.unfreeze": {
            "xception": {"choices": ["none", "block14"]},
            "mobilenetv2": {"choices": ["none", "block16"]},
        },
        "train.head_learning_rate": {"low": 0.00001, "high": 0.1, "log": True},
        "train.finetune_learning_rate": {"low": 0.00001, "high": 0.001, "log": True},
    },
}


def sweep_with(**changes: Any) -> SweepConfig:
    return SweepConfig.model_validate(SWEEP | changes)


def backbone_of(trial: FrozenTrial) -> str:
    return str(value_of(sweep_with(), trial, "model.backbone"))


def distance(trial: FrozenTrial) -> float:
    """Return the decades between a trial's learning rate and the best one of its backbone."""
    return abs(math.log10(trial.params["train.head_learning_rate"] / BEST_RATE[backbone_of(trial)]))


def searched(num_trials: int, sweep: SweepConfig) -> list[FrozenTrial]:
    study = optuna.create_study(direction="maximize", sampler=BackboneSampler(sweep, Configuration()))
    for _ in range(num_trials):
        trial = study.ask()
        drawn = suggest(trial, sweep, Configuration())
        off = abs(math.log10(drawn.train.head_learning_rate / BEST_RATE[drawn.model.backbone]))
        study.tell(trial, LEVEL[drawn.model.backbone] - 0.01 * off)
    return study.get_trials()


def finished(backbone: str, value: float | None) -> FrozenTrial:
    """Return a trial that finished with this value, or that is running if the value is None."""
    dimension: Any = sweep_with().space["model.backbone"]
    return create_trial(
        state=TrialState.RUNNING if value is None else TrialState.COMPLETE,
        value=value,
        params={"model.backbone": backbone},
        distributions={"model.backbone": dimension.distribution()},
    )


def test_the_leading_backbone_gets_most_draws_and_each_at_least_half_an_equal_share() -> None:
    trials = searched(100, sweep_with())
    first, rest = (Counter(map(backbone_of, part)) for part in (trials[:20], trials))
    assert first == {"xception": 10, "mobilenetv2": 10}
    assert rest == {"xception": 25, "mobilenetv2": 75}


def test_the_search_finds_good_settings_for_each_backbone_separately() -> None:
    by_chance: dict[str, list[float]] = {backbone: [] for backbone in LEVEL}
    at_the_end: dict[str, list[float]] = {backbone: [] for backbone in LEVEL}
    for seed in (1, 2, 3):
        trials = searched(120, sweep_with(trials=120, sampler=SWEEP["sampler"] | {"seed": seed}))
        for backbone in LEVEL:
            own = [distance(trial) for trial in trials if backbone_of(trial) == backbone]
            by_chance[backbone] += own[:10]
            at_the_end[backbone] += own[-10:]
    for backbone in LEVEL:
        assert median(at_the_end[backbone]) < 0.7 * median(by_chance[backbone]), backbone


def test_a_draw_depends_only_on_the_recorded_trials() -> None:
    trials, sweep = searched(30, sweep_with()), sweep_with()

    def drawn_by_another_worker() -> dict[str, Any]:
        study = optuna.create_study(direction="maximize", sampler=BackboneSampler(sweep, Configuration()))
        study.add_trials(trials)
        trial = study.ask()
        suggest(trial, sweep, Configuration())
        return trial.params

    assert drawn_by_another_worker() == drawn_by_another_worker()
    assert searched(31, sweep)[-1].params == drawn_by_another_worker()


def test_workers_that_draw_at_the_same_time_draw_different_configurations() -> None:
    sweep = sweep_with()
    study = optuna.create_study(direction="maximize", sampler=BackboneSampler(sweep, Configuration()))
    study.add_trials(searched(40, sweep))
    asked = [study.ask() for _ in range(8)]
    rates = {suggest(trial, sweep, Configuration()).train.head_learning_rate for trial in asked}
    assert len(rates) == len(asked)
    assert {"xception", "mobilenetv2"} == {trial.params["model.backbone"] for trial in asked}


def test_the_random_sampler_draws_every_backbone_equally_often() -> None:
    trials = searched(60, sweep_with(sampler={"name": "random", "seed": 1}))
    assert Counter(map(backbone_of, trials)) == {"xception": 30, "mobilenetv2": 30}
    assert len({trial.params["train.head_learning_rate"] for trial in trials}) == 60


def test_a_sweep_over_one_backbone_draws_only_its_other_settings() -> None:
    space = {name: value for name, value in SWEEP["space"].items() if name != "model.backbone"}
    space["model.unfreeze"] = {"mobilenetv2": {"choices": ["none", "block16"]}}
    sweep = sweep_with(space=space, set={"model.backbone": "mobilenetv2"})
    trials = searched(40, sweep)
    assert all("model.backbone" not in trial.params for trial in trials)
    assert min(abs(math.log10(trial.params["train.head_learning_rate"] / 3e-4)) for trial in trials) < 0.1


@pytest.mark.parametrize("backbone", list(LEVEL))
def test_settings_that_a_start_leaves_out_are_drawn(backbone: str) -> None:
    sweep = sweep_with()
    study = optuna.create_study(direction="maximize", sampler=BackboneSampler(sweep, Configuration()))
    study.enqueue_trial({"model.backbone": backbone, "train.head_learning_rate": 0.001})
    drawn = suggest(study.ask(), sweep, Configuration())
    assert (drawn.model.backbone, drawn.train.head_learning_rate) == (backbone, 0.001)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(LEVEL)), st.none() | st.floats(0, 1)),
        max_size=40,
    )
)
def test_a_backbone_behind_half_an_equal_share_of_the_draws_is_next(drawn: list[tuple[str, float | None]]) -> None:
    trials = [finished(backbone, value) for backbone, value in drawn]
    num_drawn = Counter(backbone for backbone, _ in drawn)
    behind = [name for name in LEVEL if num_drawn[name] < 0.25 * (len(drawn) + 1) - 1]
    chosen = next_backbone(sweep_with(), trials)
    begun = [name for name in ("mobilenetv2", "xception") if num_drawn[name] >= 10]
    if len(begun) < 2:
        assert chosen == ("xception" if begun[:1] == ["mobilenetv2"] else "mobilenetv2"), (
            "the cheap backbone is drawn first"
        )
    else:
        assert not behind or chosen in behind


def test_a_short_sweep_begins_with_its_cheapest_backbone_and_still_draws_all() -> None:
    drawn = [backbone_of(trial) for trial in searched(8, sweep_with(trials=8))]
    assert drawn == ["mobilenetv2"] * 4 + ["xception"] * 4


def test_a_backbone_whose_trials_all_fail_does_not_get_all_draws() -> None:
    sweep = sweep_with()
    study = optuna.create_study(direction="maximize", sampler=BackboneSampler(sweep, Configuration()))
    for _ in range(60):
        trial = study.ask()
        backbone = suggest(trial, sweep, Configuration()).model.backbone
        study.tell(trial, *([0.9] if backbone == "xception" else [None, TrialState.FAIL]))
    assert Counter(map(backbone_of, study.get_trials()))["xception"] >= 30


def test_a_trial_and_its_retries_count_as_one_draw() -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trials([finished("mobilenetv2", 0.7) for _ in range(10)])
    settings: dict[str, Any] = {
        "params": {"model.backbone": "xception"},
        "distributions": finished("xception", 0.9).distributions,
    }
    for _ in range(10):
        assert next_backbone(sweep_with(), study.trials) == "xception", "its ten startup trials are drawn first"
        study.add_trial(create_trial(state=TrialState.FAIL, **settings))
        last = study.trials[-1].number
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"retry_of": last}, **settings))
        study.add_trial(create_trial(value=0.9, user_attrs={"retry_of": last + 1}, **settings))
    assert next_backbone(sweep_with(), study.trials) == "xception", (
        "the best of the finished are its own, tried again or not"
    )


def test_nearly_all_configurations_of_a_small_space_are_drawn() -> None:
    space = {
        "model.unfreeze": {"choices": ["none", "block16", "block14"]},
        "train.batch_size": {"choices": [8, 16, 32, 64]},
        "train.optimizer": {"choices": ["adam", "rmsprop", "sgd"]},
    }
    sweep = sweep_with(space=space, set={"model.backbone": "mobilenetv2"}, trials=36)
    study = optuna.create_study(direction="maximize", sampler=BackboneSampler(sweep, Configuration()))
    known: dict[str, float] = {}
    for _ in range(400):
        trial = study.ask()
        drawn = suggest(trial, sweep, Configuration())
        if drawn.digest() in known:
            trial.set_user_attr("duplicate_of", 0)
        known[drawn.digest()] = 0.9 if drawn.train.batch_size == 8 and drawn.train.optimizer == "adam" else 0.5
        study.tell(trial, known[drawn.digest()])
        if num_duplicates_in_a_row(study) >= MAX_DUPLICATES_IN_A_ROW:
            break
    assert len(known) >= 30, "of 36; without random draws, TPE repeats the best"
