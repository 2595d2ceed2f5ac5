"""Tests of the time limit for a whole call."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading

import pytest

from satx.deadline import within


def test_a_call_that_ends_in_time_gives_its_value_or_its_error() -> None:
    assert within(60, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 / 0)
    own = TimeoutError("the call's own")
    with pytest.raises(TimeoutError) as caught:
        within(60, lambda: (_ for _ in ()).throw(own))
    assert caught.value is own


def test_a_call_that_does_not_end_is_left_and_the_limit_is_named() -> None:
    ended = threading.Event()
    try:
        with pytest.raises(TimeoutError, match=r"0\.1 seconds"):
            within(0.1, ended.wait)
    finally:
        ended.set()


def test_a_call_sees_the_context_of_its_caller() -> None:
    variable = contextvars.ContextVar("variable", default="other")
    variable.set("the caller's")
    assert within(60, variable.get) == "the caller's"


def test_a_call_that_was_left_does_not_keep_the_process_alive() -> None:
    code = """
import threading
from satx.deadline import within
try:
    within(0.1, threading.Event().wait)
except TimeoutError:
    print("left")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "left\n"), ended.stderr
