"""The baseline for comparison: a logistic regression on a frozen backbone's pooled features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from satx.training.trunk import TrunkSource

REGULARIZATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline.

    Attributes:
        regularization: Inverse regularization strength, chosen by five-fold cross-validation on the training tiles.
        probabilities: Predictions of each requested split, `(n, num_classes)` float32.
    """

    regularization: float
    probabilities: dict[str, np.ndarray]


def fit_baseline(source: TrunkSource, *, seed: int, splits: tuple[str, ...]) -> Baseline:
    """Fit on the training tiles without augmentation, weighting classes equally.

    Args:
        source: The backbone's pooled features.
        seed: Seed of the cross-validation folds.
        splits: Splits to predict.
    """
    labels = source.store.labels()
    train = np.asarray(source.split("train"), np.float32)  # (n, channels)
    regression = LogisticRegression(max_iter=2000, class_weight="balanced")
    smallest_class = int(np.bincount(labels[source.store.rows("train")]).min())
    folds = StratifiedKFold(min(5, max(2, smallest_class)), shuffle=True, random_state=seed)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), regression),
        {"logisticregression__C": REGULARIZATIONS},
        scoring="neg_log_loss",
        cv=folds,
    )
    search.fit(train, labels[source.store.rows("train")])
    probabilities = {
        split: search.predict_proba(np.asarray(source.split(split), np.float32)).astype(np.float32) for split in splits
    }
    return Baseline(float(search.best_params_["logisticregression__C"]), probabilities)
