"""Evaluation of a candidate: temperature and threshold from its validation tiles, scores on its test tiles.

Temperature scaling: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from satx.errors import PromotionRefused
from satx.evaluation.assessment import Assessment, assess
from satx.evaluation.calibration import calibrated, fit_temperature
from satx.evaluation.metrics import log_loss
from satx.evaluation.operating_point import ThresholdRule, choose_threshold
from satx.inference.predictor import predict_split
from satx.models.classifier import Classifier
from satx.registry.candidate import Candidate
from satx.registry.judged import Evaluation
from satx.tiles.store import TileStore

SAMPLE_SUFFIX = "-sample"


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


def evaluate(candidate: Candidate, rule: ThresholdRule) -> Evaluation:
    """Calibrate a candidate and choose its threshold on its validation tiles, then score it on its test tiles.

    The temperature is kept only if it lowers the log loss of the validation tiles.

    Args:
        candidate: The run.
        rule: How to choose the threshold.

    Returns:
        The evaluation; its assessments have no rows if there are no test tiles.

    Raises:
        DataError: A class has no validation tiles, or the rule cannot be followed on them.
    """
    network, store, classifier = candidate.classifier.network, candidate.store, candidate.classifier
    valid_labels = store.labels()[store.rows("valid")]  # (V,) int64
    valid = predict_split(network, store, "valid")  # (V, C) float32
    temperature = fit_temperature(valid_labels, valid)
    loss_before = log_loss(valid_labels, valid)
    loss_after = log_loss(valid_labels, calibrated(valid, temperature))
    if not loss_after < loss_before:
        temperature, loss_after = 1.0, loss_before
    threshold_before, threshold = (
        choose_threshold(valid_labels, probabilities, rule, positive_index=classifier.positive_index)
        for probabilities in (valid, calibrated(valid, temperature))
    )
    rows = store.rows("test")
    slices = store.index.iloc[rows]["slice"].fillna("").to_numpy(dtype=np.str_)
    raw = predict_split(network, store, "test") if len(rows) else np.zeros((0, valid.shape[1]), np.float32)
    after = calibrated(raw, temperature)  # (N, C) float32
    return Evaluation(
        labels=store.labels()[rows],
        slices=slices,
        raw_probabilities=raw,
        probabilities=after,
        before=_assessed(store, raw, classifier, threshold_before),
        after=_assessed(store, after, classifier, threshold),
        temperature=temperature,
        valid_loss_before=loss_before,
        valid_loss_after=loss_after,
        threshold=threshold,
        threshold_rule=str(rule),
    )


def with_operating_point(classifier: Classifier, evaluation: Evaluation) -> Classifier:
    """Return the classifier with the temperature and threshold of its evaluation."""
    return replace(
        classifier,
        temperature=evaluation.temperature,
        threshold=evaluation.threshold,
        threshold_rule=evaluation.threshold_rule,
    )


def _assessed(store: TileStore, probabilities: np.ndarray, classifier: Classifier, threshold: float) -> Assessment:
    """Score test tiles, whole and per slice; a table without rows if there are none."""
    rows = store.rows("test")
    if not len(rows):
        return Assessment(pd.DataFrame(columns=["scope", "name", "metric", "value", "low", "high", "num_tiles"]))
    return assess(
        store.labels()[rows],
        probabilities,
        classes=store.classes,
        positive_class=classifier.positive_class,
        threshold=threshold,
        slices=store.index.iloc[rows]["slice"],
    )
