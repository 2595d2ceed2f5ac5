"""`satx compare`: a session's configurations against time, or the false positives of two sessions on the same tiles."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from satx.commands.console import banner, print_json, table
from satx.config import SessionConfig, load_session, validated
from satx.errors import ConfigError
from satx.evaluation.style import png_bytes
from satx.reports.comparison import (
    SessionRuns,
    best_tested_run,
    choose_experiment,
    newest_study,
    read_session,
    unscored_leader,
)
from satx.reports.cost_per_point import worth
from satx.reports.figure import compare_figure, session_slices_figure
from satx.reports.page import compare_page, duration, interval, trained_parameters
from satx.reports.paired import against_baselines, compare_predictions, read_predictions, sentences
from satx.storage import replacing, satx_home
from satx.study.database import open_storage, open_study
from satx.tracking.client import MlflowClient, open_tracker
from satx.tracking.runs import CONFIRMED

HOURS_NOTE = "Time is the sum of a run's own epochs; what was computed once for all runs of a backbone is left out"


@dataclass
class Report:
    """Content of a comparison, before it is written.

    Attributes:
        name: Base name of the files.
        sessions: The runs of one or two sessions.
        figure_png: The figure at the top of the page and, for one session, the PNG file.
        notes: Sentences about the comparison.
        slices: For two sessions, their false positives per slice.
        slices_png: For two sessions, the figure of `slices`, which is then the PNG file.
        files: Paths of figure and page, once they are written.
    """

    name: str
    sessions: list[SessionRuns]
    figure_png: bytes
    notes: list[str]
    slices: pd.DataFrame | None = None
    slices_png: bytes | None = None
    files: dict[str, str] = field(default_factory=dict)


def compare_command(
    sessions: list[str], *, sample: bool, output: Path | None, study: str | None, as_json: bool
) -> None:
    """Read the runs, write figure and page, and print the comparison."""
    if len(sessions) > 2 or len(set(sessions)) < len(sessions):
        raise ConfigError(f"--session: expected one session or two different ones, got {', '.join(sessions)}.")
    if len(sessions) == 2 and study is not None:
        raise ConfigError("--study: expected with one session only. Two sessions are compared by their newest studies.")
    client = open_tracker()
    configs = [_session_of(client, session) for session in sessions]
    read, notices = [], []
    for config in configs:
        experiment, notice = choose_experiment(client, config, sample=sample)
        read.append(read_session(client, experiment, study=study))
        notices += [notice] if notice else []
    if not as_json:
        for notice in notices:
            banner(notice)
    report = _one_session(client, read[0], configs[0]) if len(read) == 1 else _two_sessions(client, read, configs)
    report.notes[:0] = notices
    _write(report, output or satx_home() / "reports")
    if as_json:
        print_json(_plain(_as_json(report)))
    else:
        _print(report)


def _session_of(client: MlflowClient, name: str) -> SessionConfig:
    """Read the session's YAML.

    A session without one, as `sat_xception` creates, gets the configuration that its newest sweep recorded.
    """
    try:
        return load_session(name)
    except ConfigError:
        for experiment in (name, f"{name}-sample"):
            newest = newest_study(client, experiment)
            if newest is not None:
                attributes = open_study(open_storage(), newest[1]).user_attrs
                session = validated(SessionConfig, attributes["session"], source=f"study {newest[1]}")
                return session.model_copy(update={"session": name})
        raise


def _one_session(client: MlflowClient, session: SessionRuns, asked: SessionConfig) -> Report:
    figure_png = png_bytes(_figure(session))
    notes = [*session.doubts, *_about(session), *_worth_notes(session), *_baseline_notes(session)]
    tested = session.baselines[session.baselines["test_auc"].notna()]
    if len(tested) and session.runs["test_auc"].notna().any():
        winner = best_tested_run(session)
        baselines = dict(zip(tested["backbone"].astype(str), tested["run_id"].astype(str), strict=True))
        notes.append(f"{winner['run_name']}, best on the validation tiles, is held against the baselines.")
        notes += unscored_leader(session, winner)
        notes += against_baselines(client, winner["run_id"], baselines, positive_class=asked.positive_class)
    return Report(f"compare-{session.experiment}", [session], figure_png, notes)


def _two_sessions(client: MlflowClient, sessions: list[SessionRuns], configs: list[SessionConfig]) -> Report:
    """Compare the two best runs on the same tiles, and the baselines that both sessions have."""
    thresholds, positives = {config.threshold for config in configs}, {config.positive_class for config in configs}
    if len(thresholds) > 1 or len(positives) > 1:
        raise ConfigError(
            f"Expected sessions with one threshold and one positive_class, got {sorted(thresholds)} and "
            f"{sorted(positives)}. Give both YAML files the same."
        )
    asked = configs[0]
    best = [best_tested_run(session) for session in sessions]
    names = [session.experiment for session in sessions]
    of_best = {name: read_predictions(client, run["run_id"]) for name, run in zip(names, best, strict=True)}
    slices, num_tiles = compare_predictions(of_best, positive_class=asked.positive_class, threshold=asked.threshold)
    compared = " and ".join(f"{name}'s {run['run_name']}" for name, run in zip(names, best, strict=True))
    notes = [
        f"The best run of each session, {compared}, on the {num_tiles} test tiles that both answered, threshold "
        f"{asked.threshold:g}; the p-values are not corrected for the number of slices.",
        *(line for session, run in zip(sessions, best, strict=True) for line in unscored_leader(session, run)),
        *(f"{line[:1].upper()}{line[1:]}" for line in sentences(slices)),
        *_paired_baselines(client, sessions, asked),
    ]
    for session in sessions:
        notes += [*session.doubts, *_about(session), *_worth_notes(session)]
    figure_png = _stacked([png_bytes(_figure(session)) for session in sessions])
    slices_png = png_bytes(session_slices_figure(slices))
    return Report(f"compare-{'-'.join(names)}", sessions, figure_png, notes, slices, slices_png)


def _paired_baselines(client: MlflowClient, sessions: list[SessionRuns], asked: SessionConfig) -> list[str]:
    run_ids = [session.baselines.set_index("backbone")["run_id"] for session in sessions]
    told = []
    for backbone in (str(name) for name in run_ids[0].index if name in run_ids[1].index):
        predictions = {
            session.experiment: read_predictions(client, of_session[backbone])
            for session, of_session in zip(sessions, run_ids, strict=True)
        }
        slices, _ = compare_predictions(predictions, positive_class=asked.positive_class, threshold=asked.threshold)
        told += [f"Logistic regression on frozen {backbone} features: {line}" for line in sentences(slices)]
    return told


def _figure(session: SessionRuns) -> Figure:
    title = f"{session.experiment}: {len(session.runs)} configurations of {session.study}"
    return compare_figure(session.runs, session.histories, title=title)


def _about(session: SessionRuns) -> list[str]:
    shared = [f"{seconds:.1f} s a run for {backbone}" for backbone, seconds in session.shared_seconds.items()]
    return [
        f"{session.experiment}: {len(session.runs)} configurations of study {session.study}. {HOURS_NOTE}"
        + (f" ({', '.join(shared)})." if shared else ".")
    ]


def _worth_notes(session: SessionRuns) -> list[str]:
    told = []
    for row in _records(worth(session)):
        note = f"{session.experiment}: training the runs of {row['backbone']} cost ${row['usd']:.2f} on hired machines"
        if not math.isnan(row["points"]):
            note += f", for {row['points']:+.1f} points of validation accuracy over its baseline"
        if not math.isnan(row["usd_per_point"]):
            note += f": ${row['usd_per_point']:.2f} a point"
        told.append(f"{note}.")
    return told


def _baseline_notes(session: SessionRuns) -> list[str]:
    return [
        f"Baseline of {session.experiment}: logistic regression on frozen {row['backbone']} features: validation AUC "
        f"{row['val_auc']:.3f}"
        + ("" if math.isnan(row["test_auc"]) else f", test AUC {interval(row, 'test_auc')}, ")
        + ("no test split." if math.isnan(row["test_auc"]) else f"test accuracy {interval(row, 'test_accuracy')}.")
        for row in _records(session.baselines)
    ]


def _stacked(pictures: list[bytes]) -> bytes:
    """Stack PNG images vertically on a white background."""
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    sheet = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top_px = 0
    for image in images:
        sheet.paste(image, (0, top_px))
        top_px += image.height
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _write(report: Report, folder: Path) -> None:
    """Write the PNG and the page, each renamed into place."""
    several = len(report.sessions) > 1
    named = [(session, session.best, session.runs) for session in report.sessions]
    if several:  # the page has one table for both sessions
        named = [(s, _prefixed(s, best), _prefixed(s, runs).assign(session=s.experiment)) for s, best, runs in named]
    page = compare_page(
        title=" against ".join(session.experiment for session in report.sessions),
        figure_png=report.figure_png,
        best=pd.concat([best for _, best, _ in named], ignore_index=True),
        runs=pd.concat([runs for _, _, runs in named], ignore_index=True),
        notes=report.notes,
        slices=report.slices,
        interactive=pd.concat([session.histories for session in report.sessions], ignore_index=True),
    )
    contents = {"png": report.slices_png or report.figure_png, "html": page.encode()}
    for kind, content in contents.items():
        path = folder / f"{report.name}.{kind}"
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise ConfigError(
                f"--output {folder}: cannot be written ({error.strerror}). Name a folder of yours."
            ) from error
        report.files[kind] = str(path.resolve())


def _prefixed(session: SessionRuns, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(run_name=session.experiment + " " + frame["run_name"])


def _print(report: Report) -> None:
    for session in report.sessions:
        best = _records(session.best)
        rows = [_best_row(row) for row in best]
        if rows:
            title = f"{session.experiment}: best run of each backbone (chosen on valid, scored on test)"
            table(title, list(rows[0]), [list(row.values()) for row in rows], right=(2, 3, 6, 7, 8))
            for row in best:
                mean = row[CONFIRMED]
                confirmed = "" if math.isnan(mean) else f"; confirmed, mean validation AUC over seeds {mean:.4f}"
                print(f"  {row['backbone']}: {row['run_name']}, run {row['run_id']}{confirmed}")
        else:
            print(f"{session.experiment}: no configuration has finished yet.")
    print()
    for note in report.notes:
        print(note)
    print()
    for path in report.files.values():
        print(path)


def _best_row(row: dict[str, Any]) -> dict[str, str]:
    return {
        "backbone": row["backbone"],
        "trains": trained_parameters(row),
        "val AUC": f"{row['val_auc']:.4f}",
        "val acc.": f"{row['val_accuracy']:.3f}",
        "test AUC": interval(row, "test_auc"),
        "test accuracy": interval(row, "test_accuracy"),
        "time": duration(row["hours"]),
        "median": duration(row["median_hours"]),
        "ratio": "-" if math.isnan(row["time_ratio"]) else f"x {row['time_ratio']:.1f}",
    }


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "sessions": [
            {
                "experiment": session.experiment,
                "study": session.study,
                "best": _records(session.best),
                "baselines": _records(session.baselines),
                "worth": _records(worth(session)),
                "runs": _records(session.runs),
            }
            for session in report.sessions
        ],
        "slices": [] if report.slices is None else _records(report.slices),
        "notes": report.notes,
        "files": report.files,
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    """Convert a value for JSON, which has no NaN: it becomes null."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value
