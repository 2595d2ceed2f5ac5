"""`satx compare`: a session's configurations against time, or the false positives of two sessions on the same tiles."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from satx.commands.console import banner, print_json, table
from satx.commands.finding import answer_of
from satx.config import SessionConfig, load_session, validated
from satx.errors import ConfigError
from satx.reports.comparison import choose_experiment, newest_study, read_session
from satx.reports.page import duration, interval, records, trained_parameters
from satx.reports.session_report import (
    Report,
    report_as_json,
    report_on_session,
    report_on_two_sessions,
    write_report,
)
from satx.storage import satx_home
from satx.study.database import open_storage, open_study
from satx.tracking.client import MlflowClient, open_tracker
from satx.tracking.runs import CONFIRMED

STUDY_SECONDS = 60.0  # for the study's database to answer


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
    report = (
        report_on_session(client, read[0], configs[0])
        if len(read) == 1
        else report_on_two_sessions(client, read, configs)
    )
    report.notes[:0] = notices
    write_report(report, output or satx_home() / "reports")
    if as_json:
        print_json(report_as_json(report))
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
                attributes = answer_of(
                    partial(_attributes_of, newest[1]),
                    "The study's database",
                    "Look whether its server is overloaded, then repeat the command.",
                    seconds=STUDY_SECONDS,
                )
                session = validated(SessionConfig, attributes["session"], source=f"study {newest[1]}")
                return session.model_copy(update={"session": name})
        raise


def _attributes_of(study: str) -> dict[str, Any]:
    return open_study(open_storage(), study).user_attrs


def _print(report: Report) -> None:
    for session in report.sessions:
        best = records(session.best)
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
