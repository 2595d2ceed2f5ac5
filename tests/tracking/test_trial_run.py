from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param

from satx.tracking.trial_run import legal_name, returned_numbers


@pytest.mark.parametrize("name", ["units", "layer0/units", "learning rate", "a:b", "a-b.c", "größe"])
def test_a_name_that_mlflow_accepts_stays(name: str) -> None:
    assert legal_name(name) == name


@pytest.mark.parametrize("name", ["units#1", "units[0]", "a,b", "", ".", "..", "../a", "/a", "a//b", "a/", "x" * 300])
def test_another_name_is_written_in_a_way_that_mlflow_accepts(name: str) -> None:
    _validate_param(legal_name(name), "1")
    _validate_metric_name(legal_name(name))


@given(st.text(), st.text())
def test_different_names_stay_different(one: str, other: str) -> None:
    _validate_param(legal_name(one), "1")
    assert (legal_name(one) == legal_name(other)) == (one == other)


def test_only_a_dictionary_that_fit_returns_is_tracked() -> None:
    assert returned_numbers({"loss": 1, "score": 0.5, "confusion": [[1, 2]]}) == {"fit.loss": 1.0, "fit.score": 0.5}
    assert returned_numbers(None) == returned_numbers(0.5) == {}
