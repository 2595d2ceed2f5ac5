"""A study knows what its machines cost, and from its own trials what the rest will take."""

from __future__ import annotations

import datetime

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from satx.fleet.money import Forecast, forecast
from satx.search.database import open_storage

NOW = datetime.datetime(2026, 1, 1)


@pytest.fixture
def study(home: object) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(), direction="maximize")


def took(study: optuna.Study, minutes: float, state: TrialState = TrialState.COMPLETE, **attributes: object) -> None:
    value = 0.9 if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, user_attrs=attributes)
    trial.datetime_start, trial.datetime_complete = NOW, NOW + datetime.timedelta(minutes=minutes)
    study.add_trial(trial)


def test_the_rest_is_foretold_from_what_is_done_pruned_trials_included(study: optuna.Study) -> None:
    assert forecast(study, 10) is None
    took(study, 50)
    took(study, 10, TrialState.PRUNED)
    took(study, 0, duplicate_of=0)  # it took no time, and is none of those wanted
    took(study, 500, TrialState.FAIL)
    found = forecast(study, 11)
    assert found == Forecast(num_done=2, num_left=9, hours_each=pytest.approx(0.5))
    assert found.hours(1) == pytest.approx(4.5)
    assert found.hours(8) == pytest.approx(1.0), "the ninth is trained alone"
    done = forecast(study, 2)
    assert done is not None and done.hours(8) == 0.0
