"""Tests of staged exports: their place, their size and time, and that only intact ones are published."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry.conftest import PromotedHome
from registry.small_runs import NAME
from satx.errors import WeightsError
from satx.inference.manifest import verify_export
from satx.registry.staging import NUM_TIMED, NUM_WARM, median_seconds_per_tile, publish, size_gb, staging
from satx.registry.versions import export_folder
from satx.storage import WRITER, is_held
from satx.tracking.client import MlflowClient


def test_a_staging_folder_is_locked_while_it_is_written_and_removed_at_the_end(client: MlflowClient) -> None:
    with staging(NAME) as folder:
        assert folder.parent == export_folder(NAME, 1).parent
        assert is_held(folder / f"{WRITER}.lock")
    assert not folder.exists()


def test_an_export_that_changed_since_it_was_staged_is_not_published(
    client: MlflowClient, promoted: PromotedHome
) -> None:
    with staging(NAME) as folder:
        staged = verify_export(shutil.copytree(promoted.first.export.folder, folder / "1"))
        (staged.folder / "saved_model.pb").write_bytes(b"")
        with pytest.raises(WeightsError, match=r"saved_model\.pb"):
            publish(staged, export_folder(NAME, 2))


def test_the_size_of_an_export_is_that_of_all_its_files(tmp_path: Path) -> None:
    for name, num_bytes in (("saved_model.pb", 250_000_000), ("variables/variables.data", 500_000_000)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(num_bytes)
    assert size_gb(tmp_path) == 0.75


def test_the_time_of_a_tile_is_the_median_without_the_first_predictions(
    promoted: PromotedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    durations = [100.0] * NUM_WARM + [float(number) for number in range(1, NUM_TIMED + 1)]
    clock = iter([time for seconds in durations for time in (0.0, seconds)])
    tiles: list[list[bytes]] = []
    monkeypatch.setattr("satx.registry.staging.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr("satx.registry.staging.ServedModel", lambda *_, **__: SimpleNamespace(predict=tiles.append))
    assert median_seconds_per_tile(promoted.first.export, b"tile") == (NUM_TIMED + 1) / 2
    assert tiles == [[b"tile"]] * len(durations)
