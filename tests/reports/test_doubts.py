from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from satx.reports.doubts import doubts, is_in_doubt


def run_of(unfreeze: str | None, backbone: str = "mobilenetv2", **tags: str) -> Any:
    params = {} if unfreeze is None else {"model.unfreeze": unfreeze}
    data = SimpleNamespace(tags={"backbone": backbone} | tags, params=params)
    return SimpleNamespace(info=SimpleNamespace(run_id=f"run-{unfreeze}"), data=data)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (run_of("all"), True),
        (run_of("block14"), True),
        (run_of("block14", kind="confirm"), True),
        (run_of("block13", "xception", trainer="6"), True),
        (run_of("block14", "xception"), False),  # the shortest tail: no other cut freezes a part of it
        (run_of("block16"), False),
        (run_of("none"), False),
        (run_of("all", trainer="7"), False),
        (run_of("all", backend="jax"), False),
        (run_of("all", kind="train", trainer="6", backend="tensorflow"), False),  # `satx train` used a separate process
        (run_of(None, "hypermodel"), False),
    ],
)
def test_long_tails_of_an_older_trainer_on_tensorflow_are_in_doubt(run: Any, expected: bool) -> None:
    assert is_in_doubt(run) == expected


def test_the_runs_in_doubt_are_counted_and_their_cuts_named() -> None:
    (note,) = doubts([run_of("all"), run_of("block14"), run_of("block16"), run_of("block9", "xception")])
    assert "3 of these 4 runs (mobilenetv2 from all, mobilenetv2 from block14, xception from block9)" in note
    assert doubts([run_of("block16"), run_of("none")]) == []
    assert "run run-all" in doubts([run_of("all")])[0]
