"""Environment variables that change within a process, for benchmarks and tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from satx.environment import environment


@contextmanager
def changed_environment(**variables: str | None) -> Iterator[None]:
    """Set variables while the block runs, then restore them; satx reads the environment anew both times.

    Args:
        **variables: Values by name; None unsets the variable.
    """
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    environment.cache_clear()
