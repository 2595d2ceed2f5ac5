"""Paired comparison of two runs on their common test tiles: difference in AUC, and at two operating points.

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
from satx.evaluation.two_models import ModelScores, compare_models
from satx.tracking.client import MlflowClient
from satx.tracking.runs import fetch_file

PROBABILITY = "probability_"


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


def read_predictions(client: MlflowClient, run_id: str, split: str = "test") -> pd.DataFrame:
    """Return a run's predictions on a split: `content_digest label slice` and one probability per class.

    Raises:
        DataError: The run has no predictions on it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_file(client, run_id, f"predictions/{split}.parquet", Path(folder))
        if path is None:
            raise DataError(
                f"Run {run_id}: expected predictions on {split} tiles among its files, found none. Finish its sweep."
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
    tested: dict[str, pd.DataFrame], validated: dict[str, pd.DataFrame], *, positive_class: str, threshold: float
) -> tuple[pd.DataFrame, int]:
    """Compare two models at two operating points and by their ranking, on the test tiles that both predicted.

    Args:
        tested: Predictions of the test tiles, as for `pair_predictions`.
        validated: Predictions of each model's own validation tiles, by the same names.
        positive_class: The class of interest.
        threshold: The fixed threshold: probability from which a tile counts as positive.

    Returns:
        The table of `compare_models`, and the number of tiles.

    Raises:
        DataError: As for `pair_predictions`, or the tiles are all of one kind.
    """
    paired = pair_predictions(tested, positive_class=positive_class)
    models = {
        name: _scores(answers[:, paired.positive_index], validated[name], positive_class)
        for name, answers in paired.answers.items()
    }
    is_positive = paired.labels == paired.positive_index
    return compare_models(is_positive, paired.slices, models, threshold=threshold), len(paired.labels)


def _scores(test: np.ndarray, validated: pd.DataFrame, positive_class: str) -> ModelScores:
    valid = validated.drop_duplicates("content_digest")
    return ModelScores(
        test=test,
        valid=valid[f"{PROBABILITY}{positive_class}"].to_numpy(dtype=np.float64),
        valid_positive=(valid["label"] == positive_class).to_numpy(dtype=np.bool_),
        valid_tiles=valid["content_digest"].tolist(),
    )


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
