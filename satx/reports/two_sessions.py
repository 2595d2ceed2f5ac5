"""The comparison of two sessions: their best runs, and baselines, on the same test tiles."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from satx.errors import ConfigError
from satx.reports.comparison import SessionRuns, best_tested_run, unscored_leader
from satx.reports.paired import compare_predictions, read_predictions
from satx.reports.pictures import pictures_of
from satx.reports.session_report import Report, session_notes, session_pictures
from satx.reports.slices_figure import session_slices_figure
from satx.reports.verdicts import Comparison, verdicts
from satx.session_config import SessionConfig
from satx.tracking.client import MlflowClient

NOT_CORRECTED = "Intervals of 95%, not corrected for the number of slices."


@dataclass(frozen=True)
class SharedTests:
    """Predictions of the best runs of two sessions, on test tiles of one version.

    Attributes:
        tested: Predictions of the test tiles by session, as `read_predictions` returns them.
        notes: What was scored anew, and on which tiles.
        are_equal: Whether the predictions that the runs logged are of the same version.
    """

    tested: dict[str, pd.DataFrame]
    notes: tuple[str, ...]
    are_equal: bool


def same_question(configs: list[SessionConfig]) -> None:
    """Raise a ConfigError if sessions have different thresholds or classes of interest."""
    thresholds, positives = {config.threshold for config in configs}, {config.positive_class for config in configs}
    if len(thresholds) > 1 or len(positives) > 1:
        raise ConfigError(
            f"Expected sessions with one threshold and one positive_class, got {sorted(thresholds)} and "
            f"{sorted(positives)}. Use the same in both YAML files."
        )


def report_on_two_sessions(
    client: MlflowClient, sessions: list[SessionRuns], asked: SessionConfig, versions: SharedTests
) -> Report:
    """Compare the best runs of two sessions on the same test tiles, and the baselines that both have.

    Args:
        client: MLflow client.
        sessions: The two sessions.
        asked: The configuration of one of them, which has the threshold and the class of interest of both.
        versions: Predictions of their best tested runs.

    Raises:
        DataError: A session has no run with test scores, or their test tiles cannot be paired.
    """
    best = [best_tested_run(session) for session in sessions]
    names = [session.experiment for session in sessions]
    validated = {name: read_predictions(client, run["run_id"], "valid") for name, run in zip(names, best, strict=True)}
    comparison = _comparison("", versions.tested, validated, asked)
    baselines = _baselines(client, sessions, asked) if versions.are_equal else []
    compared = " and ".join(f"{name}'s {run['run_name']}" for name, run in zip(names, best, strict=True))
    notes = [
        f"The best run of each session, {compared}, on the {comparison.num_tiles} test tiles that both scored. {NOT_CORRECTED}",
        *versions.notes,
        *(line for session, run in zip(sessions, best, strict=True) for line in unscored_leader(session, run)),
        *(line for session in sessions for line in session_notes(session)),
    ]
    figures = [session_pictures(session) for session in sessions]
    figure = pictures_of(
        lambda theme, width_inches: session_slices_figure(
            comparison.table, positive_class=asked.positive_class, theme=theme, width_inches=width_inches
        ),
        description=f"Recall, false-positive rates and areas under the ROC curve of the best runs of {' and '.join(names)} per "
        "slice, at a fixed threshold and at equal recall, with 95% intervals",
    )
    return Report(f"compare-{'-'.join(names)}", sessions, figures, notes, comparison, figure, baselines)


def _comparison(
    backbone: str, tested: dict[str, pd.DataFrame], validated: dict[str, pd.DataFrame], asked: SessionConfig
) -> Comparison:
    positive = asked.positive_class
    table, num_tiles = compare_predictions(tested, validated, positive_class=positive, threshold=asked.threshold)
    return Comparison(backbone, table, num_tiles, positive, verdicts(table, positive_class=positive))


def _baselines(client: MlflowClient, sessions: list[SessionRuns], asked: SessionConfig) -> list[Comparison]:
    run_ids = [session.baselines.set_index("backbone")["run_id"] for session in sessions]
    comparisons = []
    for backbone in (str(name) for name in run_ids[0].index if name in run_ids[1].index):
        tested, validated = (
            {
                session.experiment: read_predictions(client, of_session[backbone], split)
                for session, of_session in zip(sessions, run_ids, strict=True)
            }
            for split in ("test", "valid")
        )
        comparisons.append(_comparison(backbone, tested, validated, asked))
    return comparisons
