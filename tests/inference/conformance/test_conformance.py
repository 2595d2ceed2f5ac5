"""Each case of TensorFlow Serving's REST contract, and three programs that called the original's endpoint.

The cases are sent to `satx serve`, which is started here, or to the server of `--conformance-url`.
"""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from inference.conformance.cases import CASES, DIFFERENCES, GOOD, Case
from inference.conformance.clients import is_chip_model_ready, predict_chips, predict_enabled, predict_not_school
from inference.conformance.conftest import Endpoint
from inference.conformance.fixtures import SCHOOL_SCRIPT_MODEL

QUEUE_CASE = 48  # needs a server with a short queue: tests/serving/test_hostile.py
ALWAYS_ALIKE = {*range(1, 8), *range(13, 30), *range(33, 44)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number} {case.title}")
def test_a_request_is_answered_as_by_tensorflow_serving(endpoint: Endpoint, case: Case) -> None:
    response = httpx.request(
        case.method, endpoint.url + case.path, content=case.body, headers=dict(case.headers), timeout=60
    )
    assert response.status_code == case.status, response.text
    if case.satx is None:
        case.check(response)
    elif endpoint.is_ours:
        case.satx(response)
    else:
        _check_either(case, response)


def _check_either(case: Case, response: httpx.Response) -> None:
    """Check a response of a server that may be TensorFlow Serving or satx."""
    assert case.satx is not None
    try:
        case.check(response)
    except AssertionError:
        case.satx(response)


def test_every_case_is_sent_and_at_most_five_differ() -> None:
    assert {case.number for case in CASES} | {QUEUE_CASE} == set(range(1, 51))
    assert {case.number for case in CASES if case.satx} == set(DIFFERENCES)
    assert len(DIFFERENCES) <= 5 and not ALWAYS_ALIKE & set(DIFFERENCES)
    assert all(DIFFERENCES.values())


def test_the_client_that_sends_no_content_type_gets_its_predictions(endpoint: Endpoint) -> None:
    assert is_chip_model_ready(endpoint.url, "school", GOOD)
    assert np.asarray(predict_chips(endpoint.url, "school", [GOOD] * 3)).shape == (3, 2)


def test_the_client_that_asks_for_the_input_first_gets_the_second_class(endpoint: Endpoint) -> None:
    expected = [row[1] for row in predict_chips(endpoint.url, "school", [GOOD] * 2)]
    assert predict_enabled(endpoint.url, [GOOD] * 2) == pytest.approx(expected, abs=1e-4)


def test_the_client_that_sends_fifty_images_a_request_gets_all_scores(endpoint: Endpoint) -> None:
    ((not_school, _),) = predict_chips(endpoint.url, "school", [GOOD])
    scores = predict_not_school(endpoint.url, [GOOD] * 70, model=SCHOOL_SCRIPT_MODEL)
    assert scores == pytest.approx([not_school] * 70, abs=1e-4)
