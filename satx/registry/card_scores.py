"""The sections of a model card about its scores: on the test tiles, and where they are worst."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
from PIL import Image

from satx.evaluation.assessment import RECALL_AT, Assessment
from satx.evaluation.plots import roc
from satx.evaluation.reliability_plot import reliability
from satx.evaluation.slices import NO_SLICE
from satx.evaluation.style import DARK, LIGHT, png_bytes
from satx.models.classifier import Classifier
from satx.registry.candidate import Candidate
from satx.registry.card_rendering import Drawing, Section, Table
from satx.registry.judged import Evaluation
from satx.reports.parameters import NOTHING

RELIABILITY = (
    "Reliability on the test tiles: accuracy against confidence, with 95% Wilson intervals. "
    "Both are equal on the dashed line."
)
MAX_SLICES = 10
MAX_NEGATIVES = 8
MAX_CURVES = 8
MAX_PICTURE_PX = 224
DRAWING_INCHES = 4.6  # as narrow as a phone, so that texts stay readable there

SCORES = {
    "auc": "AUC",
    "average_precision": "Average precision",
    **{f"recall_at_fpr_{rate:g}": f"Recall at {rate:.0%} false positives" for rate in RECALL_AT},
    "accuracy": "Accuracy",
    "brier": "Brier score",
    "loss": "Log loss, nats",
    "calibration_gap": "Calibration gap",
    "ece": "Expected calibration error",
}
AT_THRESHOLD = {"recall": "Recall", "false_positive_rate": "False-positive rate", "precision": "Precision"}


def scores_section(evaluation: Evaluation, classifier: Classifier) -> Section:
    """Return the scores on the test tiles, before and after calibration, with curves."""
    classes = classifier.classes
    if not len(evaluation.labels):
        return Section("Scores", ("The session has no test tiles, so this model was not tested.",))
    average = "" if len(classes) == 2 else " Ranking scores are averages over all classes, each against the rest."
    caption = (
        f"{len(evaluation.labels):,} test tiles, which took no part in training or selection. In brackets: 95% intervals. "
        f"Accuracy is that of the most probable class, whatever the threshold. A calibration gap above 0 means that the model is "
        f"too sure of itself.{average}"
    )
    compared = {"Value": evaluation.after}
    if evaluation.temperature != 1:
        compared = {"Before calibration": evaluation.before, "After calibration": evaluation.after}
    rows = tuple((label, *(shown_score(of, name) for of in compared.values())) for name, label in SCORES.items())
    tables = [Table(("Score", *compared), rows, caption)]
    if len(classes) > 2:
        tables.append(_class_table(evaluation, classes))
    return Section("Scores", tables=tuple(tables), drawings=_drawings(evaluation, classifier))


def _class_table(evaluation: Evaluation, classes: tuple[str, ...]) -> Table:
    shown = {"auc": "AUC", "average_precision": "Average precision", **AT_THRESHOLD}
    rows = tuple(
        (
            name,
            f"{(evaluation.labels == index).sum():,}",
            *(shown_score(evaluation.after, metric, "class", name) for metric in shown),
        )
        for index, name in enumerate(classes)
    )
    caption = "Each class against the rest, after calibration; the last three take the most probable class."
    return Table(("Class", "Test tiles", *shown.values()), rows, caption)


def _drawings(evaluation: Evaluation, classifier: Classifier) -> tuple[Drawing, ...]:
    """Draw the reliability curve, and the ROC curve if every class has test tiles."""
    labels, after, num_classes = evaluation.labels, evaluation.after, len(classifier.classes)
    gap = after.interval("calibration_gap").value
    sets = {f"gap {gap:+.3f}": evaluation.probabilities}
    if evaluation.temperature != 1:
        gap_before = evaluation.before.interval("calibration_gap").value
        sets = {
            f"before calibration, gap {gap_before:+.3f}": evaluation.raw_probabilities,
            f"after, gap {gap:+.3f}": evaluation.probabilities,
        }
    light, dark = (
        png_bytes(reliability(labels, sets, width_inches=DRAWING_INCHES, theme=theme)) for theme in (LIGHT, DARK)
    )
    drawings = [Drawing(f"{RELIABILITY} Calibration {'; '.join(sets)}.", light, dark)]
    if len(np.unique(labels)) == num_classes:
        drawings.append(_roc_drawing(evaluation, classifier))
    return tuple(drawings)


def _roc_drawing(evaluation: Evaluation, classifier: Classifier) -> Drawing:
    """Draw the ROC curve of each class, or of the class of interest alone if there are too many to tell apart."""
    labels, probabilities, classes = evaluation.labels, evaluation.probabilities, classifier.classes
    positive, index, area = classifier.positive_class, classifier.positive_index, evaluation.after.interval("auc")
    if len(classes) > MAX_CURVES:
        scores = probabilities[:, index]
        labels, probabilities = (labels == index).astype(np.int64), np.stack([1 - scores, scores], axis=1)
        classes, index = ("the rest", positive), 1
        area = evaluation.after.interval("auc", scope="class", name=positive)
    thresholds = (evaluation.threshold,) if len(classes) == 2 else ()  # it applies to the class of interest alone
    light, dark = (
        png_bytes(
            roc(
                labels, probabilities, classes=classes, positive_index=index, thresholds=thresholds, area=area,
                width_inches=DRAWING_INCHES, theme=theme,
            )
        )
        for theme in (LIGHT, DARK)
    )  # fmt: skip
    which = f"of {positive} against the rest" if len(classes) == 2 else "of each class against the rest"
    return Drawing(
        f"ROC curve {which} on the test tiles: AUC {area}. The dashed line is that of guessing.", light, dark
    )


def weakness_section(candidate: Candidate, evaluation: Evaluation) -> Section:
    """Return the worst slices, and the tiles most confidently taken for the class of interest by mistake."""
    if not len(evaluation.labels):
        return Section("Where it is weak", ("Unknown, since there are no test tiles.",))
    tables = (_worst_slices(evaluation.after.table), _negatives(candidate, evaluation))
    return Section("Where it is weak", tables=tuple(table for table in tables if table is not None))


def _worst_slices(scores: pd.DataFrame) -> Table | None:
    """Return the slices by ascending accuracy, ties by Brier score; None if the session names no slices."""
    of_slices = scores[(scores["scope"] == "slice") & (scores["name"] != NO_SLICE)]
    if of_slices.empty:
        return None
    ranked = of_slices.pivot(index="name", columns="metric", values="value").sort_values(
        ["accuracy", "brier"], ascending=[True, False], kind="stable"
    )
    shown = {
        "accuracy": "Accuracy",
        "recall": "Recall",
        "false_positive_rate": "False-positive rate",
        "brier": "Brier score",
    }
    num_tiles = of_slices.groupby("name")["num_tiles"].first()
    assessment = Assessment(of_slices)
    rows = tuple(
        (name, f"{num_tiles[name]:,}", *(shown_score(assessment, metric, "slice", name) for metric in shown))
        for name in ranked.index[:MAX_SLICES]
    )
    which = f"the {len(rows)} worst of {len(ranked)} slices" if len(ranked) > len(rows) else "all slices, worst first"
    caption = (
        f"By accuracy: {which}. Accuracy is that of the most probable class; recall and false-positive rate are those at the "
        f"threshold. Slices of few tiles say little."
    )
    return Table(("Slice", "Test tiles", *shown.values()), rows, caption)


def _negatives(candidate: Candidate, evaluation: Evaluation) -> Table | None:
    """Return the tiles of other classes with the highest probabilities of the class of interest, with thumbnails."""
    classifier, store = candidate.classifier, candidate.store
    positive = classifier.positive_class
    scores = evaluation.probabilities[:, classifier.positive_index]  # (N,) float32
    negatives = np.flatnonzero(evaluation.labels != classifier.positive_index)
    highest = negatives[np.argsort(-scores[negatives], kind="stable")][:MAX_NEGATIVES]
    if not len(highest):
        return None
    tiles = store.index.iloc[store.rows("test")[highest]]
    cells = zip(tiles["tile_id"], tiles["label"], tiles["slice"], scores[highest], strict=True)
    rows = tuple((str(tile), str(label), str(part or NO_SLICE), f"{score:.4f}") for tile, label, part, score in cells)
    embedded = candidate.session.allow_embedding
    pictures = tuple(_thumbnail(store.pixels()[row]) for row in store.rows("test")[highest]) if embedded else ()
    caption = (
        f"The test tiles of other classes with the highest probabilities of {positive}; the threshold is "
        f"{evaluation.threshold:.4f}."
    )
    return Table(("Tile", "Class", "Slice", f"Probability of {positive}"), rows, caption, pictures)


def _thumbnail(pixels: np.ndarray) -> bytes:
    """Encode a tile, (S, S, 3) uint8, as a small JPEG."""
    image, stream = Image.fromarray(np.asarray(pixels)), io.BytesIO()
    image.thumbnail((MAX_PICTURE_PX, MAX_PICTURE_PX))
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def shown_score(assessment: Assessment, metric: str, scope: str = "all", name: str = "") -> str:
    """Return a score with its interval as text; a dash if it is undefined."""
    score = assessment.interval(metric, scope=scope, name=name)
    if math.isnan(score.value):
        return NOTHING
    sign = "+" if metric == "calibration_gap" else ""
    if math.isnan(score.low):
        return f"{score.value:{sign}.3f}"
    return f"{score.value:{sign}.3f} ({score.low:{sign}.3f} to {score.high:{sign}.3f})"
