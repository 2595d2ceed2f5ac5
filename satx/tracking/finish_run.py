"""End a run: log its best scores, log its settings and curves as files, and set its status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from satx.config import Configuration
from satx.evaluation.metrics import summary
from satx.session_config import SessionConfig
from satx.storage import write_json
from satx.tiles.store import TileStore
from satx.tracking.artifacts import curve_files
from satx.tracking.curves import CurveLogger
from satx.tracking.writer import RunWriter
from satx.training.checkpoint import Epoch
from satx.training.contract import TrainingResult


def result_numbers(result: TrainingResult, *, store: TileStore, session: SessionConfig) -> dict[str, float]:
    """Return the scores of the best epoch on the validation tiles, as `best_val_*`."""
    labels = store.labels()[store.rows("valid")]
    numbers = summary(labels, result.val_probabilities, positive_index=store.classes.index(session.positive_class))
    best = {f"best_val_{name}": value for name, value in numbers.items()}
    return best | {"best_val_auc": result.best.val_auc}


def close_run(
    writer: RunWriter,
    configuration: Configuration,
    history: Sequence[Epoch],
    curves: CurveLogger,
    *,
    status: str,
    tags: Mapping[str, str],
    numbers: Mapping[str, float] | None = None,
) -> None:
    """Log `config.json` and `history.csv`, send the queued epochs, and end the run.

    `satx train --from-run` repeats the training from `config.json`.
    """
    writer.files({"config.json": lambda path: write_json(path, configuration.model_dump()), **curve_files(history)})
    seconds = sum(epoch.epoch_seconds for epoch in history)
    curves.flush({**(numbers or {}), "compute_seconds": seconds}, tags=tags)
    writer.end(status)
