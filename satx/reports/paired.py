"""Paired comparison of two models on their common test tiles: difference in AUC, and false positives per slice.

Reads the predictions that runs logged; writes nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from satx.errors import DataError
from satx.evaluation.intervals import Interval, paired_bootstrap_difference
from satx.evaluation.metrics import roc_auc
from satx.evaluation.slices import compare_false_positives
from satx.tracking.client import MlflowClient
from satx.tracking.runs import fetch_file

PROBABILITY = "probability_"
SIGNIFICANCE_LEVEL = 0.05  # p-values below this are reported as unlikely to be chance


@dataclass(frozen=True)
class Paired:
    """Predictions of two models on the same tiles.

    Attributes:
        labels: Class indices, (N,) int64.
        slices: Slices of the tiles in the second model's session, (N,).
        answers: Probabilities by model name, (N, C) float64.
        positive_index: The class of interest.
    """

    labels: np.ndarray
    slices: pd.Series
    answers: dict[str, np.ndarray]
    positive_index: int


def read_predictions(client: MlflowClient, run_id: str) -> pd.DataFrame:
    """Return a run's predictions on the test tiles: `content_digest label slice` and one probability per class.

    Raises:
        DataError: The run has no predictions on test tiles.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_file(client, run_id, "predictions/test.parquet", Path(folder))
        if path is None:
            raise DataError(
                f"Run {run_id}: expected predictions on test tiles among its files, found none. Finish its sweep."
            )
        return pd.read_parquet(path)


def pair_predictions(predictions: dict[str, pd.DataFrame], *, positive_class: str) -> Paired:
    """Return the predictions of two models on the tiles that both predicted.

    Args:
        predictions: Predictions from `read_predictions` by model name, for two models in the order of comparison.
        positive_class: The class of interest.

    Raises:
        DataError: The two share no tile, or disagree on the classes or on the labels of shared tiles.
    """
    (name_a, first), (name_b, second) = predictions.items()
    classes, others = (
        sorted(name.removeprefix(PROBABILITY) for name in frame.columns if name.startswith(PROBABILITY))
        for frame in (first, second)
    )
    if classes != others:
        raise DataError(
            f"Expected the same classes in {name_a} and {name_b}, got {', '.join(classes)} and {', '.join(others)}. "
            f"Compare sessions of the same task."
        )
    if positive_class not in classes:
        raise DataError(
            f"Expected {positive_class!r} among the classes, got {', '.join(classes)}. Check positive_class."
        )
    first, second = (frame.drop_duplicates("content_digest") for frame in (first, second))
    both = first.merge(second, on="content_digest", suffixes=("_a", "_b"), validate="one_to_one")
    if both.empty:
        raise DataError(
            f"Expected {name_a} and {name_b} to share test tiles, got none in common among {len(first)} and {len(second)}. "
            f"A paired comparison needs the same images in the test split of both sessions, and runs of versions of satx that "
            f"know tiles alike (later than 0.2.0 by their pixels): sweep the older session again."
        )
    apart = both[both["label_a"] != both["label_b"]]
    if len(apart):
        raise DataError(
            f"Expected one label per tile, got {len(apart)} of {len(both)} test tiles with different labels in {name_a} and "
            f"{name_b}, first {apart['relative_a'].iloc[0]}. Correct the labels and run the sweeps again."
        )
    return Paired(
        labels=both["label_a"].map(classes.index).to_numpy(dtype=np.int64),
        slices=both["slice_b"],
        answers={
            name: both[[f"{PROBABILITY}{one}_{end}" for one in classes]].to_numpy(dtype=np.float64)
            for name, end in ((name_a, "a"), (name_b, "b"))
        },
        positive_index=classes.index(positive_class),
    )


def compare_predictions(
    predictions: dict[str, pd.DataFrame], *, positive_class: str, threshold: float
) -> tuple[pd.DataFrame, int]:
    """Compare the false positives of two models per slice, on the test tiles that both predicted.

    Args:
        predictions: As for `pair_predictions`.
        positive_class: The class of interest.
        threshold: Probability from which a tile counts as positive.

    Returns:
        The table of `compare_false_positives`, and the number of tiles.

    Raises:
        DataError: As for `pair_predictions`.
    """
    paired = pair_predictions(predictions, positive_class=positive_class)
    table = compare_false_positives(
        paired.labels,
        paired.slices,
        probabilities_by_model=paired.answers,
        positive_index=paired.positive_index,
        threshold=threshold,
    )
    return table, len(paired.labels)


def auc_difference(predictions: dict[str, pd.DataFrame], *, positive_class: str) -> Interval:
    """Return the test AUC of the first model minus the second's, by paired bootstrap over their common tiles.

    Raises:
        DataError: As for `pair_predictions`.
    """
    paired = pair_predictions(predictions, positive_class=positive_class)
    area = partial(roc_auc, positive_index=paired.positive_index)
    return paired_bootstrap_difference(area, paired.labels, *paired.answers.values())


def against_baselines(
    client: MlflowClient, run_id: str, baselines: dict[str, str], *, positive_class: str
) -> list[str]:
    """Return one sentence per baseline on whether a run is better than it.

    Args:
        client: MLflow client.
        run_id: A run that was scored on the test tiles.
        baselines: Run ids by backbone.
        positive_class: The class of interest.
    """
    own, verdicts = read_predictions(client, run_id), []
    num_tiles = own["content_digest"].nunique()
    for backbone, baseline in baselines.items():
        pair = {"run": own, "baseline": read_predictions(client, baseline)}
        difference = auc_difference(pair, positive_class=positive_class)
        verdict = "the difference is not significant"
        if difference.low > 0:
            verdict = "the run is better"
        elif difference.high < 0:
            verdict = "the baseline is better"
        verdicts.append(
            f"Against the baseline on frozen {backbone} features, on the same {num_tiles} test tiles: test AUC "
            f"{difference.value:+.3f} (95% interval {difference.low:+.3f} to {difference.high:+.3f}); {verdict}."
        )
    return verdicts


def sentences(table: pd.DataFrame) -> list[str]:
    """Return one sentence per slice in which two models differ, with the difference and its p-value."""
    found = []
    for row in table[table["difference"] != 0].to_dict("records"):
        points, low, high = (100 * row[name] for name in ("difference", "difference_low", "difference_high"))
        likelihood = "is unlikely to be" if row["p_value"] < SIGNIFICANCE_LEVEL else "may well be"
        found.append(
            f"{row['slice']}: {row['label_a']} raises {row['false_positives_a']} false alarms in {row['num_negative']} tiles "
            f"({row['false_positive_rate_a']:.0%}), {row['label_b']} {row['false_positives_b']} "
            f"({row['false_positive_rate_b']:.0%}); a difference of {points:+.0f} points (95% interval {low:+.0f} to "
            f"{high:+.0f}), which {likelihood} chance (p = {row['p_value']:.2g})."
        )
    return found or ["No slice differs: both models raise equally many false alarms in each."]
