"""The number of threads of a training, and its reuse when a run is repeated."""

from __future__ import annotations

import os

import pytest

from satx.training.threads import THREADS, num_threads, use_threads_of


def test_a_repeated_run_uses_its_number_of_threads_if_it_has_the_tag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    of_this_process = num_threads()
    assert 1 <= of_this_process <= (os.cpu_count() or 1)
    use_threads_of({"kind": "train"})
    assert num_threads() == of_this_process
    monkeypatch.setenv(THREADS, "1")
    assert num_threads() == 1
    use_threads_of({"threads": "3"})
    assert (num_threads(), os.environ[THREADS]) == (3, "3")
