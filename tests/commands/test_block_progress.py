"""Progress of reading blocks: only of what takes time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mapped_tiles import block_of

from satx.bulk.ledger import open_ledger
from satx.commands import block_progress
from satx.commands.block_progress import read_blocks


@pytest.mark.parametrize(("quiet_seconds", "printed"), [(0.0, "reading blocks (3)\n"), (1e9, "")])
def test_progress_is_shown_of_what_has_taken_a_while(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quiet_seconds: float,
    printed: str,
) -> None:
    monkeypatch.setattr(block_progress, "QUIET_SECONDS", quiet_seconds)
    ledger = open_ledger(str(tmp_path))
    tables = {name: block_of(np.array([x]), np.array([7]), np.array([0.5])) for x, name in enumerate("abc")}
    for name, table in tables.items():
        ledger.write(name, table)
    found = list(read_blocks(ledger, ["a", "b", "c"], "reading blocks"))
    assert [table.to_pylist() for table in found] == [table.to_pylist() for table in tables.values()]
    assert capsys.readouterr().out == printed
