"""Artifact files: settings and curves for every run; plots, slices and predictions for selected runs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from satx.evaluation import plots
from satx.evaluation.slices import slice_table
from satx.evaluation.style import png_bytes
from satx.session_config import SessionConfig
from satx.tiles.store import TileStore
from satx.training.checkpoint import Epoch

Write = Callable[[Path], object]


def curve_files(history: Sequence[Epoch]) -> dict[str, Write]:
    """Return the writer of `history.csv`, which has one row per epoch."""

    def write(path: Path) -> None:
        with path.open("w", newline="") as stream:  # not pandas: a DataFrame costs milliseconds per trial
            rows = csv.DictWriter(stream, [part.name for part in fields(Epoch)], lineterminator="\n")
            rows.writeheader()
            rows.writerows(vars(epoch) for epoch in history)

    return {"history.csv": write}


def _draw(figure: Callable[[], Any], path: Path) -> None:
    path.write_bytes(png_bytes(figure()))


def predictions_frame(store: TileStore, split: str, probabilities: np.ndarray) -> pd.DataFrame:
    """Return one row per tile of a split: its `content_digest`, label and slice, and one probability per class."""
    rows = store.rows(split)
    frame = store.index.iloc[rows][["content_digest", "relative", "label", "slice", "split"]].reset_index(drop=True)
    for position, name in enumerate(store.classes):
        frame[f"probability_{name}"] = probabilities[:, position]
    return frame


def evaluation_files(
    store: TileStore, split: str, probabilities: np.ndarray, session: SessionConfig
) -> dict[str, Write]:
    """Return the writers of plots, per-slice table and predictions of a model on one split.

    Args:
        store: The tiles.
        split: `valid` or `test`; part of the file names.
        probabilities: `(n, num_classes)`, in the order of `store.rows(split)`.
        session: Defines the class of interest and the threshold.
    """
    rows = store.rows(split)
    labels = store.labels()[rows]
    positive_index = store.classes.index(session.positive_class)
    classes = list(store.classes)
    figures = {
        "roc": lambda: plots.roc(
            labels, probabilities, classes=classes, positive_index=positive_index, thresholds=(session.threshold,)
        ),
        "precision_recall": lambda: plots.precision_recall(
            labels, probabilities, classes=classes, positive_index=positive_index, threshold=session.threshold
        ),
        "confusion": lambda: plots.confusion(labels, probabilities, classes=classes),
        "scores": lambda: plots.score_distribution(
            labels, probabilities, classes=classes, positive_index=positive_index, threshold=session.threshold
        ),
    }
    files: dict[str, Write] = {f"plots/{split}_{name}.png": partial(_draw, draw) for name, draw in figures.items()}
    predictions = predictions_frame(store, split, probabilities)
    files[f"predictions/{split}.parquet"] = lambda path: predictions.to_parquet(path, index=False)
    slices = store.index.iloc[rows]["slice"].to_numpy(dtype=str)
    table = slice_table(labels, probabilities, slices, positive_index=positive_index, threshold=session.threshold)
    files[f"slices/{split}.csv"] = lambda path: table.assign(slice=table["slice"].map(_as_text)).to_csv(
        path, index=False
    )
    files[f"plots/{split}_slices.png"] = lambda path: path.write_bytes(png_bytes(plots.slice_bars(table)))
    return files


def _as_text(name: str) -> str:
    """Return a name that spreadsheets read as text: they would compute one that begins like a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
