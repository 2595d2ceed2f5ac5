"""The content of a comparison: of a session's configurations, or of two sessions on the same tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from satx.config import SessionConfig
from satx.errors import ConfigError
from satx.reports.comparison import SessionRuns, best_tested_run, unscored_leader
from satx.reports.cost_per_point import worth
from satx.reports.figure import compare_figure
from satx.reports.page import compare_page, interval, records
from satx.reports.paired import against_baselines, compare_predictions, read_predictions, sentences
from satx.reports.pictures import Pictures, pictures_of
from satx.reports.slices_figure import session_slices_figure
from satx.storage import replacing
from satx.tracking.client import MlflowClient

HOURS_NOTE = "Time is the sum of a run's own epochs; computations shared by all runs of a backbone are not included"


@dataclass
class Report:
    """Content of a comparison, before it is written.

    Attributes:
        name: Base name of the files.
        sessions: The runs of one or two sessions.
        figures: The figure of each session; for one session, its light version is also the PNG file.
        notes: Sentences about the comparison.
        slices: For two sessions, their false positives per slice.
        slices_figure: For two sessions, the figure of `slices`, whose light version is then the PNG file.
        files: Paths of figure and page, once they are written.
    """

    name: str
    sessions: list[SessionRuns]
    figures: list[Pictures]
    notes: list[str]
    slices: pd.DataFrame | None = None
    slices_figure: Pictures | None = None
    files: dict[str, str] = field(default_factory=dict)


def report_on_session(client: MlflowClient, session: SessionRuns, asked: SessionConfig) -> Report:
    """Compare a session's configurations, and its best tested run with the baselines."""
    notes = [*session.doubts, *_about(session), *_worth_notes(session), *_baseline_notes(session)]
    tested = session.baselines[session.baselines["test_auc"].notna()]
    if len(tested) and session.runs["test_auc"].notna().any():
        winner = best_tested_run(session)
        baselines = dict(zip(tested["backbone"].astype(str), tested["run_id"].astype(str), strict=True))
        notes.append(f"{winner['run_name']}, best on the validation tiles, is compared with the baselines.")
        notes += unscored_leader(session, winner)
        notes += against_baselines(client, winner["run_id"], baselines, positive_class=asked.positive_class)
    return Report(f"compare-{session.experiment}", [session], [session_pictures(session)], notes)


def report_on_two_sessions(client: MlflowClient, sessions: list[SessionRuns], configs: list[SessionConfig]) -> Report:
    """Compare the best runs of two sessions on the same tiles, and the baselines that both have.

    Raises:
        ConfigError: The sessions have different thresholds or classes of interest.
    """
    thresholds, positives = {config.threshold for config in configs}, {config.positive_class for config in configs}
    if len(thresholds) > 1 or len(positives) > 1:
        raise ConfigError(
            f"Expected sessions with one threshold and one positive_class, got {sorted(thresholds)} and "
            f"{sorted(positives)}. Use the same in both YAML files."
        )
    asked = configs[0]
    best = [best_tested_run(session) for session in sessions]
    names = [session.experiment for session in sessions]
    of_best = {name: read_predictions(client, run["run_id"]) for name, run in zip(names, best, strict=True)}
    slices, num_tiles = compare_predictions(of_best, positive_class=asked.positive_class, threshold=asked.threshold)
    compared = " and ".join(f"{name}'s {run['run_name']}" for name, run in zip(names, best, strict=True))
    notes = [
        f"The best run of each session, {compared}, on the {num_tiles} test tiles that both scored, threshold "
        f"{asked.threshold:g}; the p-values are not corrected for the number of slices.",
        *(line for session, run in zip(sessions, best, strict=True) for line in unscored_leader(session, run)),
        *(f"{line[:1].upper()}{line[1:]}" for line in sentences(slices)),
        *_paired_baselines(client, sessions, asked),
    ]
    for session in sessions:
        notes += [*session.doubts, *_about(session), *_worth_notes(session)]
    slices_figure = pictures_of(
        lambda theme, width_inches: session_slices_figure(slices, theme=theme, width_inches=width_inches),
        description=f"False-positive rates of the best runs of {' and '.join(names)} per slice, with 95% intervals",
    )
    figures = [session_pictures(session) for session in sessions]
    return Report(f"compare-{'-'.join(names)}", sessions, figures, notes, slices, slices_figure)


def _paired_baselines(client: MlflowClient, sessions: list[SessionRuns], asked: SessionConfig) -> list[str]:
    run_ids = [session.baselines.set_index("backbone")["run_id"] for session in sessions]
    notes = []
    for backbone in (str(name) for name in run_ids[0].index if name in run_ids[1].index):
        predictions = {
            session.experiment: read_predictions(client, of_session[backbone])
            for session, of_session in zip(sessions, run_ids, strict=True)
        }
        slices, _ = compare_predictions(predictions, positive_class=asked.positive_class, threshold=asked.threshold)
        notes += [f"Logistic regression on frozen {backbone} features: {line}" for line in sentences(slices)]
    return notes


def session_pictures(session: SessionRuns) -> Pictures:
    """Draw every configuration of a session against time."""
    title = f"{session.experiment}: {len(session.runs)} configurations of {session.study}"
    best = [f"{row['backbone']} {row['val_accuracy']:.3f} ({row['run_name']})" for row in records(session.best)]
    return pictures_of(
        lambda theme, width_inches: compare_figure(
            session.runs, session.histories, title=title, theme=theme, width_inches=width_inches
        ),
        description=f"{title}: validation accuracy and loss against training time, by backbone. "
        + (f"Accuracy of the best run of each: {', '.join(best)}." if best else "No run has finished yet."),
    )


def _about(session: SessionRuns) -> list[str]:
    shared = [f"{seconds:.1f} s a run for {backbone}" for backbone, seconds in session.shared_seconds.items()]
    return [
        f"{session.experiment}: {len(session.runs)} configurations of study {session.study}. {HOURS_NOTE}"
        + (f" ({', '.join(shared)})." if shared else ".")
    ]


def _worth_notes(session: SessionRuns) -> list[str]:
    notes = []
    for row in records(worth(session)):
        note = f"{session.experiment}: training the runs of {row['backbone']} cost ${row['usd']:.2f} on rented machines"
        if not math.isnan(row["points"]):
            note += f", for {row['points']:+.1f} points of validation accuracy over its baseline"
        if not math.isnan(row["usd_per_point"]):
            note += f": ${row['usd_per_point']:.2f} per point"
        notes.append(f"{note}.")
    return notes


def _baseline_notes(session: SessionRuns) -> list[str]:
    return [
        f"Baseline of {session.experiment}: logistic regression on frozen {row['backbone']} features: validation AUC "
        f"{row['val_auc']:.3f}"
        + ("" if math.isnan(row["test_auc"]) else f", test AUC {interval(row, 'test_auc')}, ")
        + ("no test split." if math.isnan(row["test_auc"]) else f"test accuracy {interval(row, 'test_accuracy')}.")
        for row in records(session.baselines)
    ]


def write_report(report: Report, folder: Path) -> None:
    """Write the PNG and the page, each renamed into place, and note their paths in the report.

    Raises:
        ConfigError: The folder cannot be written.
    """
    several = len(report.sessions) > 1
    named = [(session, session.best, session.runs) for session in report.sessions]
    if several:  # the page has one table for both sessions
        named = [(s, _prefixed(s, best), _prefixed(s, runs).assign(session=s.experiment)) for s, best, runs in named]
    page = compare_page(
        title=" against ".join(session.experiment for session in report.sessions),
        figures=report.figures,
        best=pd.concat([best for _, best, _ in named], ignore_index=True),
        runs=pd.concat([runs for _, _, runs in named], ignore_index=True),
        notes=report.notes,
        slices=report.slices,
        slices_figure=report.slices_figure,
        interactive=pd.concat([session.histories for session in report.sessions], ignore_index=True),
    )
    contents = {"png": (report.slices_figure or report.figures[0]).light, "html": page.encode()}
    for kind, content in contents.items():
        path = folder / f"{report.name}.{kind}"
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise ConfigError(
                f"--output {folder}: cannot be written ({error.strerror}). Choose a writable folder."
            ) from error
        report.files[kind] = str(path.resolve())


def _prefixed(session: SessionRuns, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(run_name=session.experiment + " " + frame["run_name"])


def report_as_json(report: Report) -> Any:
    """Return the report as a value for JSON, without its pictures."""
    content = {
        "sessions": [
            {
                "experiment": session.experiment,
                "study": session.study,
                "best": records(session.best),
                "baselines": records(session.baselines),
                "worth": records(worth(session)),
                "runs": records(session.runs),
            }
            for session in report.sessions
        ],
        "slices": [] if report.slices is None else records(report.slices),
        "notes": report.notes,
        "files": report.files,
    }
    return _plain(content)


def _plain(value: Any) -> Any:
    """Convert a value for JSON, which has no NaN: it becomes null."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value
