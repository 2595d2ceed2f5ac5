"""The promotion gate: reject a candidate with a significantly worse test AUC than the champion on the same tiles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from satx.errors import DataError, PromotionRefused
from satx.evaluation.intervals import Interval, bootstrap_interval, paired_bootstrap_difference
from satx.evaluation.metrics import accuracy, roc_auc
from satx.inference.predictor import predict_split
from satx.models.classifier import Classifier
from satx.registry.candidate import Candidate
from satx.storage import satx_home
from satx.tiles.layout import read_layout
from satx.tiles.store import TileStore, build_store

SAMPLE_SUFFIX = "-sample"


@dataclass(frozen=True)
class Scores:
    """Probabilities and scores of a model on the test tiles.

    Attributes:
        probabilities: `(N, C)` float32.
        auc: Test AUC with its interval.
        accuracy: Test accuracy with its interval.
    """

    probabilities: np.ndarray
    auc: Interval
    accuracy: Interval


@dataclass(frozen=True)
class Comparison:
    """Scores of the candidate minus those of the champion on the same tiles, by paired bootstrap.

    Attributes:
        champion: The champion's scores on these tiles.
        auc: Difference of the AUCs.
        accuracy: Difference of the accuracies.
    """

    champion: Scores
    auc: Interval
    accuracy: Interval

    @property
    def surely_worse(self) -> bool:
        """Whether the whole interval of the AUC difference is below 0."""
        return self.auc.high < 0


def model_name(candidate: Candidate) -> str:
    """Return the name of the registered model a candidate competes for: its task, ending in `-sample` for sample tiles.

    Raises:
        PromotionRefused: Model, tiles and name disagree on whether they are a sample. This cannot be overridden.
    """
    classifier, store = candidate.classifier, candidate.store
    name = classifier.task
    if classifier.sample and not name.endswith(SAMPLE_SUFFIX):
        name += SAMPLE_SUFFIX
    if not classifier.sample == store.sample == name.endswith(SAMPLE_SUFFIX):
        raise PromotionRefused(
            f"Run {candidate.run.info.run_id}: expected model, tiles and task to agree on whether they are a sample, got "
            f"sample={classifier.sample} in the model, {store.sample} in the tiles, and the task {name!r}. A sample cannot "
            f"become champion of a real task, not even with --force. Train on the intended tiles."
        )
    return name


def score(classifier: Classifier, store: TileStore, positive_class: str) -> Scores:
    """Return a model's probabilities and scores on the test split, with bootstrap intervals."""
    probabilities = predict_split(classifier.network, store, "test")
    labels = store.labels()[store.rows("test")]
    area = partial(roc_auc, positive_index=store.classes.index(positive_class))
    return Scores(
        probabilities,
        bootstrap_interval(area, labels, probabilities),
        bootstrap_interval(accuracy, labels, probabilities),
    )


def compare(candidate: Candidate, scores: Scores, champion: Classifier) -> Comparison:
    """Score the champion on the candidate's test tiles, and compare the two by paired bootstrap.

    Raises:
        PromotionRefused: The two have different classes, or the tiles are not available at the champion's image size.
    """
    store, session = candidate.store, candidate.session
    if champion.classes != candidate.classifier.classes:
        raise PromotionRefused(
            f"Expected the champion's classes ({', '.join(champion.classes)}), got "
            f"{', '.join(candidate.classifier.classes)}: the two cannot be compared. Train on the champion's classes, give the "
            f"session another task, or pass --force."
        )
    others = score(champion, _store_at(store, champion.image_size_px), session.positive_class)
    labels = store.labels()[store.rows("test")]
    area = partial(roc_auc, positive_index=store.classes.index(session.positive_class))
    pair = labels, scores.probabilities, others.probabilities
    return Comparison(others, paired_bootstrap_difference(area, *pair), paired_bootstrap_difference(accuracy, *pair))


def _store_at(store: TileStore, image_size_px: int) -> TileStore:
    """Return the same tiles decoded from their files at another size.

    The rows have the same order, since they are sorted by content.
    """
    if image_size_px == store.image_size_px:
        return store
    root = store.report.root
    try:
        other = build_store(read_layout(root), image_size_px=image_size_px, cache_dir=satx_home() / "cache")
    except DataError as error:
        raise PromotionRefused(
            f"The champion needs tiles of {image_size_px} px, which cannot be read from {root}: {error} Restore the folder, "
            f"or pass --force."
        ) from error
    if other.digest != store.digest:
        raise PromotionRefused(
            f"The champion needs tiles of {image_size_px} px, but {root} no longer contains the tiles that this run was trained "
            f"on. Restore them, or pass --force."
        )
    return other
