"""The cost of a study's machines, and the time that the rest of the study will take, from its own trials."""

from __future__ import annotations

import datetime

import optuna
import psutil
import pytest
from optuna.trial import TrialState, create_trial

from satx.fleet.metadata import Identity
from satx.fleet.prices import Price
from satx.fleet.spending import WATCHED, Forecast, forecast, ledger, note_spent, price_key, write_prices
from satx.study.database import open_storage

NOW = datetime.datetime(2026, 1, 1)


@pytest.fixture
def study(home: object) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(), direction="maximize")


def took(study: optuna.Study, minutes: float, state: TrialState = TrialState.COMPLETE, **attributes: object) -> None:
    value = 0.9 if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, user_attrs=attributes)
    trial.datetime_start, trial.datetime_complete = NOW, NOW + datetime.timedelta(minutes=minutes)
    study.add_trial(trial)


def test_the_forecast_uses_finished_and_pruned_trials(study: optuna.Study) -> None:
    assert forecast(study, 10) is None
    took(study, 50)
    took(study, 10, TrialState.PRUNED)
    took(study, 0, duplicate_of=0)  # a duplicate takes no time and does not count as done
    took(study, 500, TrialState.FAIL)
    found = forecast(study, 11)
    assert found == Forecast(num_done=2, num_left=9, hours_each=pytest.approx(0.5))
    assert found.hours(1) == pytest.approx(4.5)
    assert found.hours(8) == pytest.approx(1.0), "the ninth is trained alone"
    done = forecast(study, 2)
    assert done is not None and done.hours(8) == 0.0


def machine(instance_id: str, *, spot: bool = True) -> Identity:
    return Identity(instance_id, "g6.xlarge", "us-east-1", spot=spot)


def test_the_total_is_the_sum_over_machines_of_the_larger_of_their_recorded_costs(
    study: optuna.Study,
) -> None:
    write_prices(study, {price_key("g6.xlarge", spot=True): Price(0.5, "test")}, budget_usd=2.0)
    booted = datetime.datetime.fromtimestamp(psutil.boot_time(), datetime.UTC)
    for hours, instance_id in ((1, "i-1"), (2, "i-2")):
        found = note_spent(study, machine(instance_id), now=booted + datetime.timedelta(hours=hours))
    assert found.spent_usd == {"i-1": pytest.approx(0.5), "i-2": pytest.approx(1.0)}
    assert found.total_usd == pytest.approx(1.5) and not found.is_spent
    study.set_user_attr(f"{WATCHED}i-1", 0.7)  # its worker hangs; the process that watches the fleet keeps counting
    study.set_user_attr(f"{WATCHED}i-2", 0.2)  # recorded less often by the watching process than by its worker
    study.set_user_attr(f"{WATCHED}i-3", 0.3)  # its worker never started
    found = ledger(study)
    assert found.spent_usd == {"i-1": pytest.approx(0.7), "i-2": pytest.approx(1.0), "i-3": pytest.approx(0.3)}
    assert found.total_usd == pytest.approx(2.0) and found.is_spent


def test_without_a_budget_no_cost_exceeds_it(study: optuna.Study) -> None:
    study.set_user_attr(f"{WATCHED}i-1", 1000.0)
    assert ledger(study).total_usd == 1000.0 and not ledger(study).is_spent
