"""The content of a comparison, and its files: a session's configurations here, two sessions in `two_sessions`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from satx.errors import ConfigError
from satx.reports.comparison import SessionRuns, best_tested_run, unscored_leader
from satx.reports.cost_per_point import worth
from satx.reports.figure import compare_figure
from satx.reports.pace import pace_notes
from satx.reports.page import compare_page, interval, records
from satx.reports.paired import against_baselines
from satx.reports.pictures import Pictures, pictures_of
from satx.reports.verdicts import Comparison
from satx.session_config import SessionConfig
from satx.storage import replacing
from satx.tracking.client import MlflowClient

HOURS_NOTE = "Times are those of a run's own epochs, without what all runs of a backbone share"


@dataclass
class Report:
    """Content of a comparison, before it is written.

    Attributes:
        name: Base name of the files.
        sessions: The runs of one or two sessions.
        figures: The figure of each session; for one session, its light version is also the PNG file.
        notes: Sentences about the comparison.
        comparison: For two sessions, their best runs on the same test tiles.
        comparison_figure: For two sessions, its figure, whose light version is then the PNG file.
        baselines: For two sessions, the baselines that both have.
        files: Paths of figure and page, once they are written.
    """

    name: str
    sessions: list[SessionRuns]
    figures: list[Pictures]
    notes: list[str]
    comparison: Comparison | None = None
    comparison_figure: Pictures | None = None
    baselines: list[Comparison] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def report_on_session(client: MlflowClient, session: SessionRuns, asked: SessionConfig) -> Report:
    """Compare a session's configurations, and its best tested run with the baselines."""
    notes = [*session_notes(session), *_baseline_notes(session)]
    tested = session.baselines[session.baselines["test_auc"].notna()]
    if len(tested) and session.runs["test_auc"].notna().any():
        winner = best_tested_run(session)
        baselines = dict(zip(tested["backbone"].astype(str), tested["run_id"].astype(str), strict=True))
        notes.append(f"{winner['run_name']}, best on the validation tiles, is compared with the baselines.")
        notes += unscored_leader(session, winner)
        notes += against_baselines(client, winner["run_id"], baselines, positive_class=asked.positive_class)
    return Report(f"compare-{session.experiment}", [session], [session_pictures(session)], notes)


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


def session_notes(session: SessionRuns) -> list[str]:
    """Return notes on the runs of a session: doubts, times, cost."""
    paces = [f"{session.experiment}: {line}" for line in pace_notes(session.best, session.paces)]
    return [*session.doubts, *_about(session), *paces, *_worth_notes(session)]


def _about(session: SessionRuns) -> list[str]:
    shared = [f"{seconds:.1f} s a run of {backbone}" for backbone, seconds in session.shared_seconds.items()]
    return [
        f"{session.experiment}: {len(session.runs)} configurations of study {session.study}. {HOURS_NOTE}"
        + (f": caches that were filled once, {', '.join(shared)}." if shared else ".")
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
        paces=pd.concat([s.paces.assign(session=s.experiment) for s in report.sessions], ignore_index=True),
        comparison=report.comparison,
        comparison_figure=report.comparison_figure,
        baselines=report.baselines,
        interactive=pd.concat([session.histories for session in report.sessions], ignore_index=True),
    )
    contents = {"png": (report.comparison_figure or report.figures[0]).light, "html": page.encode()}
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
                "paces": records(session.paces),
                "shared_seconds": session.shared_seconds,
                "worth": records(worth(session)),
                "runs": records(session.runs),
            }
            for session in report.sessions
        ],
        "comparisons": [
            {
                "of": f"baselines on frozen {one.backbone} features" if one.backbone else "best runs",
                "num_tiles": one.num_tiles,
                "rows": records(one.table),
                "verdicts": [asdict(verdict) for verdict in one.verdicts],
            }
            for one in [*([report.comparison] if report.comparison else []), *report.baselines]
        ],
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
