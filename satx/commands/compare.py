"""`satx compare`: a session's configurations against time, or two sessions' false positives and recall on the same tiles."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from satx.commands.compare_versions import shared_tests, silent
from satx.commands.console import banner, print_json, table
from satx.commands.finding import answer_of
from satx.commands.progress import progress_bars
from satx.config import validated
from satx.errors import ConfigError
from satx.reports.comparison import choose_experiment, newest_study, read_session
from satx.reports.page import duration, interval, records, seconds, times, trained_parameters
from satx.reports.rates import shown_parts
from satx.reports.session_report import Report, report_as_json, report_on_session, write_report
from satx.reports.two_sessions import report_on_two_sessions, same_question
from satx.reports.verdicts import Comparison, verdict_lines
from satx.session_config import SessionConfig, load_session
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
    if len(read) == 1:
        report = report_on_session(client, read[0], configs[0])
    else:
        same_question(configs)
        with nullcontext(silent) if as_json else progress_bars() as on_progress:
            tests = shared_tests(client, read, on_progress=on_progress)
        report = report_on_two_sessions(client, read, configs[0], tests)
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
            if depth := next((row["depth"] for row in best if row["depth"]), None):
                print(f"  An epoch: median of finished runs of equal depth ({depth}).")
            for row in best:
                mean = row[CONFIRMED]
                confirmed = "" if math.isnan(mean) else f"; confirmed, mean validation AUC over seeds {mean:.4f}"
                print(f"  {row['backbone']}: {row['run_name']}, run {row['run_id']}{confirmed}")
        else:
            print(f"{session.experiment}: no configuration has finished yet.")
    if report.comparison is not None:
        _print_comparison(report.comparison)
    print()
    compared = [report.comparison] if report.comparison else []
    for line in [line for one in [*compared, *report.baselines] for line in verdict_lines(one)]:
        print(f"{line}\n")
    for note in report.notes:
        print(note)
    print()
    for path in report.files.values():
        print(path)


def _print_comparison(comparison: Comparison) -> None:
    """Print a table for each operating point and for the areas."""
    first = comparison.table.iloc[0]
    columns = ["measure", "tiles", first["label_a"], first["label_b"], "difference (95% interval)"]
    for part in shown_parts(comparison.table, positive_class=comparison.positive_class):
        rows = [[row.label, row.num_tiles, row.first, row.second, row.difference] for row in part.rows]
        table(part.heading, columns, rows, right=(1, 2, 3, 4))


def _best_row(row: dict[str, Any]) -> dict[str, str]:
    return {
        "backbone": row["backbone"],
        "trains": trained_parameters(row),
        "val AUC": f"{row['val_auc']:.4f}",
        "val acc.": f"{row['val_accuracy']:.3f}",
        "test AUC": interval(row, "test_auc"),
        "test accuracy": interval(row, "test_accuracy"),
        "time": duration(row["hours"]),
        "an epoch": seconds(row["epoch_seconds"]),
        "ratio": times(row["time_ratio"]),
    }
