"""A furnished desk for each test: a home with databases, tiles and weights, and a sweep that was opened in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from projects import TINY_SWEEP, furnish

from satx.search.driver import Sweep, open_sweep
from satx.search.space import SweepConfig


@pytest.fixture
def open_tiny(home: Path, tiny_tiles: Path) -> Callable[..., Sweep]:
    """Open the tiny sweep, as the driver does; `trials` and parts of its YAML can be given."""
    ready = furnish(home, tiny_tiles)

    def opened(trials: int = 2, **parts: Any) -> Sweep:
        config = SweepConfig.model_validate(TINY_SWEEP | parts)
        return open_sweep(ready, config, trials, git_commit="0" * 40)

    return opened
