"""Sweep plans: the expected draws, the chances that epochs are trained, and the expected seconds."""

from __future__ import annotations

from typing import Any

import pytest

from satx.catalogue import BACKBONES
from satx.config import Configuration
from satx.planning.chances import Chances
from satx.planning.plan import Plan, expected_draws, plan_sweep
from satx.search.space import SweepConfig

FIRST: dict[str, Any] = {"model.backbone": "mobilenetv2", "model.unfreeze": "all"}
SWEEP: dict[str, Any] = {
    "name": "planned",
    "trials": 40,
    "pruner": {"name": "rungs", "num_startup_trials": 0, "keep": 0.25},
    "set": {"train.head_epochs": 2, "train.finetune_epochs": 6, "train.early_stopping_patience_epochs": 6},
    "start": [FIRST, {"model.backbone": "xception"}],
    "space": {
        "model.backbone": {"choices": ["xception", "mobilenetv2"]},
        "model.unfreeze": {
            "xception": {"choices": ["none", "block14", "all"]},
            "mobilenetv2": {"choices": ["none", "block16", "all"]},
        },
    },
}


def sweep_with(**parts: Any) -> SweepConfig:
    return SweepConfig.model_validate(SWEEP | parts)


def chances(num_done: int = 0, **parts: Any) -> Chances:
    sweep = sweep_with(**parts)
    draws = expected_draws(sweep, Configuration(), sweep.trials - num_done)
    return Chances(sweep, Configuration(), draws, num_done=num_done)


def test_queued_starts_count_as_they_are_and_backbones_share_the_remaining_draws() -> None:
    assert expected_draws(sweep_with(trials=1), Configuration(), 1)["mobilenetv2", "all"] == 1
    two = expected_draws(sweep_with(trials=2), Configuration(), 2)
    assert two["xception", "block14"] == pytest.approx(1 / 3) and two["mobilenetv2", "none"] == 0
    for num_left in (40, 39, 7):
        draws = expected_draws(sweep_with(), Configuration(), num_left)
        assert sum(draws.values()) == pytest.approx(num_left)
        of_xception = sum(num for (backbone, _), num in draws.items() if backbone == "xception")
        assert of_xception == pytest.approx(num_left / 2, abs=1)


def test_expensive_tails_start_less_often_and_rungs_lower_the_chances_of_later_epochs() -> None:
    cheap, dear = chances().of(("xception", "block14")), chances().of(("xception", "all"))
    assert cheap[:2] == dear[:2] == [1.0, 1.0]
    assert 1 > cheap[2] > 2 * dear[2] > 0
    assert cheap[3] == cheap[4] == pytest.approx(cheap[2] / 2), "a search passes the square root of `keep`"
    assert cheap[5] == cheap[-1] == pytest.approx(cheap[2] / 4)
    by_chance = chances(sampler={"name": "random"}).of(("xception", "block14"))
    assert by_chance[3] == pytest.approx(by_chance[2] / 4), "random draws pass `keep`"


def test_nothing_is_pruned_without_a_pruner_or_without_trials_to_compare_with() -> None:
    assert chances(pruner={"name": "none"}).of(("xception", "all")) == [1.0] * 8
    assert chances(pruner=SWEEP["pruner"] | {"num_startup_trials": 40}).of(("xception", "all")) == [1.0] * 8
    later = chances(num_done=39, pruner=SWEEP["pruner"] | {"num_startup_trials": 10}).of(("xception", "all"))
    assert later == chances().of(("xception", "all")), "earlier trials count for the comparison"


def test_a_long_phase_is_expected_to_stop_early() -> None:
    settings = SWEEP["set"] | {"train.finetune_epochs": 40}
    epochs = chances(pruner={"name": "none"}, set=settings).of(("xception", "all"))
    assert sum(epochs) == 2 + 20 + 6


def planned(prepared: Any, num_left: int = 40, machine_factor: float = 1.0, **parts: Any) -> Plan:
    sweep = sweep_with(
        set=SWEEP["set"] | {"model.backbone": "mobilenetv2"},
        space={"model.unfreeze": {"choices": ["none", "block16", "all"]}},
        start=[],
        **parts,
    )
    return plan_sweep(prepared, sweep, num_left, machine_factor=machine_factor)


def test_a_plan_gives_the_trained_parameters_and_the_seconds_of_each_cut(tiny_ready: Any) -> None:
    head, cut, everything = planned(tiny_ready).trainings
    assert [one.cached for one in (head, cut, everything)] == [True, True, False]
    assert (head.trainable_parameters, everything.trainable_parameters) == (0, 2_223_872)
    assert cut.trainable_parameters == BACKBONES["mobilenetv2"].cuts["block16"].trainable_parameters
    assert head.full_seconds < cut.full_seconds < everything.full_seconds
    assert everything.usual_seconds < everything.full_seconds == pytest.approx(everything.finished_seconds)
    assert head.usual_seconds == pytest.approx(head.full_seconds)


def test_pruning_makes_a_plan_shorter_and_a_slow_machine_longer(tiny_ready: Any) -> None:
    pruned, whole = planned(tiny_ready), planned(tiny_ready, pruner={"name": "none"})
    slow = planned(tiny_ready, machine_factor=2.0)
    assert pruned.hours < whole.hours and pruned.hours < slow.hours
    assert slow.filling_seconds["mobilenetv2"] == pytest.approx(2 * pruned.filling_seconds["mobilenetv2"])
    done = planned(tiny_ready, num_left=0)
    assert (done.hours, done.filling_seconds) == (0.0, {"mobilenetv2": 0.0})


def test_the_expected_remaining_seconds_depend_on_the_rungs_that_a_trial_passed(tiny_ready: Any) -> None:
    everything = planned(tiny_ready).trainings[-1]
    assert everything.seconds_after(0) == pytest.approx(everything.usual_seconds, abs=0.3)
    started, passed = everything.seconds_after(3), everything.seconds_after(5)
    tail = everything.epochs[-1][0]
    assert passed == pytest.approx(3 * tail), "trials that pass the last rung train to the end"
    assert started == pytest.approx(tail * (1 + 1 + 3 / 2)), "half of them pass the second rung"
    assert everything.seconds_after(8) == everything.seconds_after(99) == 0.0


def test_the_expected_confirming_time_gives_deeper_tails_more_weight(tiny_ready: Any) -> None:
    unpruned = planned(tiny_ready, pruner={"name": "none"}, confirm={"num_configurations": 2, "num_seeds": 3})
    _, cut, everything = unpruned.trainings
    assert unpruned.num_confirming == 6
    each = unpruned.confirming_hours * 3600 / 6
    share = BACKBONES["mobilenetv2"].tail_share("block16")
    assert each == pytest.approx((everything.finished_seconds + share * cut.finished_seconds) / (1 + share))
