"""The environment of a process: what satx reads from it, once, and who may write it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from satx.cli_process import use_threads_of
from satx.environment import THREADS, environment, num_threads
from satx.errors import ConfigError
from satx.testing.changed_environment import changed_environment

PACKAGE = Path(__file__).resolve().parents[1] / "satx"
STARTS_OF_PROCESSES = {
    "__init__.py",
    "cli_process.py",
    "testing/changed_environment.py",
    "bulk/ray_engine.py",  # its workers
}


def test_variables_are_read_once_per_process() -> None:
    with changed_environment(SATX_WEIGHTS_DIR="/first", SATX_WORKERS_HERE="4"):
        found = environment()
        os.environ["SATX_WEIGHTS_DIR"] = "/second"
        assert environment() is found
        assert (found.weights_dir, found.num_workers_here) == (Path("/first"), 4)


def test_an_empty_variable_counts_as_not_set() -> None:
    with changed_environment(SATX_STUDY_URL="", MLFLOW_TRACKING_URI="", SATX_WEIGHTS_DIR="", KERAS_BACKEND=""):
        found = environment()
    assert (found.study_url, found.tracking_uri, found.weights_dir) == (None, None, None)
    assert found.keras_backend == "tensorflow"


@pytest.mark.parametrize(("name", "value"), [("SATX_WORKERS_HERE", "two"), (THREADS, "-1")])
def test_a_variable_with_an_invalid_value_is_an_error_that_names_it(name: str, value: str) -> None:
    with changed_environment(**{name: value}), pytest.raises(ConfigError) as caught:
        environment()
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_a_repeated_run_uses_its_number_of_threads_if_it_has_the_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    of_this_process = num_threads()
    assert 1 <= of_this_process <= (os.cpu_count() or 1)
    use_threads_of({"kind": "train"})
    assert num_threads() == of_this_process
    monkeypatch.setenv(THREADS, "1")
    assert num_threads() == 1
    use_threads_of({"threads": "3"})
    assert (num_threads(), os.environ[THREADS]) == (3, "3")


def test_only_the_start_of_a_process_writes_environment_variables() -> None:
    writes = re.compile(r"os\.environ(\[[^\]]+\] *=[^=]| *\|=|\.(setdefault|update|pop)\()|del os\.environ|os\.putenv")
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if writes.search(path.read_text())}
    assert found == STARTS_OF_PROCESSES
