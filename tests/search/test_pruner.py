from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from satx.catalogue import BACKBONES
from satx.config import Configuration
from satx.search.costs import epoch_cost, epoch_factor
from satx.search.pruner import MAX_SHARE, RungPruner, rung_step
from satx.search.space import SweepConfig

CUTS: dict[str, list[str]] = {"xception": ["none", "block14", "all"], "mobilenetv2": ["none", "block16", "all"]}
SWEEP: dict[str, Any] = {
    "name": "rungs",
    "trials": 50,
    "pruner": {"name": "rungs", "num_startup_trials": 3, "keep": 0.5},
    "set": {"train.head_epochs": 2, "train.finetune_epochs": 6},
    "space": {
        "model.backbone": {"choices": list(CUTS)},
        "model.unfreeze": {name: {"choices": cuts} for name, cuts in CUTS.items()},
    },
}


def trial_of(
    backbone: str, unfreeze: str, values: dict[int, float], state: TrialState = TrialState.RUNNING
) -> optuna.trial.FrozenTrial:
    sweep = SweepConfig.model_validate(SWEEP)
    dimension: Any = sweep.space["model.unfreeze"]
    return create_trial(
        state=state,
        value=max(values.values()) if state == TrialState.COMPLETE else None,
        params={"model.backbone": backbone, f"model.unfreeze@{backbone}": unfreeze},
        distributions={
            "model.backbone": sweep.space["model.backbone"].distribution(),
            f"model.unfreeze@{backbone}": dimension[backbone].distribution(),
        },
        intermediate_values=values,
    )


def pruned(own: optuna.trial.FrozenTrial, *others: optuna.trial.FrozenTrial) -> bool:
    study = optuna.create_study(direction="maximize")
    study.add_trials([*others, own])
    return pruner().prune(study, study.get_trials()[-1])


def pruner() -> RungPruner:
    return RungPruner(SweepConfig.model_validate(SWEEP), Configuration())


def heads(backbone: str, *values: float) -> list[optuna.trial.FrozenTrial]:
    return [trial_of(backbone, "none", {1: 0.5, 2: value}, TrialState.COMPLETE) for value in values]


def test_the_more_expensive_the_tail_the_better_its_head_must_be() -> None:
    others = heads("xception", *[0.5 + 0.01 * number for number in range(20)])
    sixth = {1: 0.5, 2: 0.645}
    assert not pruned(trial_of("xception", "block14", sixth), *others)
    assert pruned(trial_of("xception", "all", sixth), *others)
    assert not pruned(trial_of("xception", "all", {1: 0.5, 2: 0.665}), *others)
    assert pruned(trial_of("xception", "block14", {1: 0.5, 2: 0.52}), *others)


@settings(deadline=None)
@given(st.sampled_from(list(CUTS)), st.lists(st.floats(0.5, 0.99), min_size=3, max_size=30))
def test_the_trial_with_the_best_head_is_never_pruned(backbone: str, values: list[float]) -> None:
    for unfreeze in CUTS[backbone][1:]:
        assert not pruned(trial_of(backbone, unfreeze, {1: 0.5, 2: 1.0}), *heads(backbone, *values))


def test_heads_are_compared_within_their_backbone() -> None:
    bad = trial_of("xception", "all", {1: 0.5, 2: 0.6})
    assert not pruned(bad, *heads("mobilenetv2", 0.9, 0.9, 0.9, 0.9), *heads("xception", 0.5, 0.5, 0.5))
    assert pruned(bad, *heads("xception", 0.9, 0.9, 0.9, 0.9))


def test_tails_are_compared_with_all_others_at_the_same_epoch() -> None:
    others = [trial_of("mobilenetv2", "block16", {2: 0.6, 3: 0.9, 4: 0.9}, TrialState.COMPLETE) for _ in range(4)]
    assert pruned(trial_of("xception", "all", {2: 0.6, 3: 0.8}), *others)
    assert not pruned(trial_of("xception", "all", {2: 0.95, 3: 0.8}), *others), "the best epoch so far is compared"
    assert not pruned(trial_of("xception", "all", {2: 0.6, 3: 0.8, 4: 0.8}), *others), "there is no rung here"


def test_nothing_is_pruned_with_too_few_trials_to_compare_with_or_without_a_tail() -> None:
    assert not pruned(trial_of("xception", "all", {2: 0.1}), *heads("xception", 0.9, 0.9))
    assert not pruned(trial_of("xception", "none", {2: 0.1}), *heads("xception", 0.9, 0.9, 0.9, 0.9))


def test_trials_that_have_not_reached_the_rung_are_not_compared_with() -> None:
    unfinished = [trial_of("xception", "all", {1: 0.9}) for _ in range(5)]
    assert not pruned(trial_of("xception", "all", {1: 0.1, 2: 0.1}), *unfinished)
    stopped = [trial_of("xception", "none", {1: 0.9}, TrialState.COMPLETE) for _ in range(5)]
    assert pruned(trial_of("xception", "all", {1: 0.1, 2: 0.1}), *stopped), "a head that stopped early is compared too"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_deeper_cuts_cost_more_and_let_fewer_pass(backbone: str) -> None:
    names = ["all", *BACKBONES[backbone].cuts]
    costs = [epoch_cost(backbone, name) for name in names]
    assert costs == sorted(costs, reverse=True) and costs[-1] > 0 == epoch_cost(backbone, "none")
    shares = [pruner().share(cost) for cost in costs]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] <= MAX_SHARE


@pytest.mark.parametrize(("unfreeze", "share"), [("block14", 0.051), ("block9", 0.3914), ("all", 1.0)])
def test_the_cost_of_an_epoch_follows_from_the_multiply_adds_of_its_tail(unfreeze: str, share: float) -> None:
    assert epoch_factor("xception", unfreeze, cached=True) == pytest.approx(3 * share)
    assert epoch_factor("xception", unfreeze, cached=False) == pytest.approx(1 + 2 * share)


def test_a_tails_epochs_are_counted_from_the_end_of_the_head_phase() -> None:
    assert [rung_step("head", epoch, 6) for epoch in (1, 6)] == [1, 6]
    assert [rung_step("tail", epoch, 6) for epoch in (1, 4)] == [7, 10]


def test_interrupted_attempts_are_not_compared_with() -> None:
    once_more = trial_of("xception", "all", {1: 0.5, 2: 0.6})
    handed_back = [trial_of("xception", "all", {1: 0.5, 2: 0.9}, TrialState.FAIL) for _ in range(9)]
    assert not pruned(once_more, *handed_back), "all attempts of a configuration count once"
    assert pruned(once_more, *heads("xception", 0.9, 0.9, 0.9))
