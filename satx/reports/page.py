"""The page of `satx compare`: one HTML file that loads nothing over the network and works without scripts.

Run names, parameters and notes are untrusted input: everything is escaped, and a content security policy allows only
the page's own style and script, by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from satx.evaluation.style import backbone_color, png_bytes
from satx.reports.chart import auc_chart
from satx.reports.figure import STATUSES, session_slices_figure

TEMPLATES = Path(__file__).resolve().parent / "templates"
NOTHING = "–"

SCORES = ("val_auc", "val_accuracy", "val_loss")
TESTED = ("test_auc", "test_accuracy")
LEADING = ("run_id", "run_name", "backbone", "status", "hours", *SCORES, "confirmed_val_auc")
INTERVALS = tuple(f"{name}{end}" for name in TESTED for end in ("", "_low", "_high"))


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, and its sort key."""

    text: str
    key: float | str


def compare_page(
    *,
    title: str,
    figure_png: bytes,
    best: pd.DataFrame,
    runs: pd.DataFrame,
    notes: list[str],
    slices: pd.DataFrame | None = None,
    interactive: pd.DataFrame | None = None,
) -> str:
    """Return the whole page.

    Args:
        title: Heading and document title.
        figure_png: The figure from `figure.compare_figure`.
        best: From `figure.best_run_of_each_backbone`.
        runs: Every run, as for `figure.compare_figure`; additional columns are shown as parameters.
        notes: Sentences under the heading: data, caveats, the command that made the page.
        slices: From `evaluation.slices.compare_false_positives`, if two sessions are compared.
        interactive: Histories of the runs, for the interactive chart; None omits the chart.

    Returns:
        HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "fixed": fixed,
        "duration": duration,
        "trained": trained_parameters,
        "interval": interval,
        "reach": reach,
        "percent": percent,
    }
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("compare.css", "compare.js"))
    ranked = runs.sort_values(["val_auc", "val_loss"], ascending=[False, True], kind="stable", ignore_index=True)
    varying, constant = _parameters(ranked)
    return environment.get_template("compare.html.j2").render(
        title=title,
        notes=notes,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        figure=_data_uri(figure_png),
        best=_records(best),
        runs=[_run_row(run, varying) for run in _records(ranked)],
        varying=varying,
        constant=constant,
        chart=None if interactive is None else auc_chart(ranked, interactive),
        slices=[] if slices is None else _records(slices),
        slices_figure="" if slices is None else _data_uri(png_bytes(session_slices_figure(slices))),
        color=backbone_color,
    )


def _run_row(run: dict[str, Any], parameters: list[str]) -> dict[str, Any]:
    """Return one row of the table of all runs."""
    return {
        "run_id": run["run_id"],
        "name": run["run_name"],
        "backbone": run["backbone"],
        "status": STATUSES[run["status"]][0],
        "cells": [
            *(Cell(fixed(run[name]), _sort_key(run[name])) for name in SCORES),
            Cell(duration(run["hours"]), _sort_key(run["hours"])),
            *(Cell(interval(run, name), _sort_key(run.get(name))) for name in TESTED),
            *(Cell(_parameter(run[name]), _sort_key(run[name])) for name in parameters),
        ],
    }


def _parameters(runs: pd.DataFrame) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the names of the parameters that vary, and the parameters that all runs share with their values.

    Only the former become columns: a column of equal values would only take space.
    """
    names = [name for name in runs.columns if name not in (*LEADING, *INTERVALS)]
    shown = {name: runs[name].map(_parameter) for name in names}
    varying = [name for name in names if shown[name].nunique() > 1 or len(runs) == 1]
    return varying, [(name, shown[name].iloc[0]) for name in names if name not in varying and len(runs)]


def _policy(style: str, script: str) -> str:
    """Return a content security policy that allows only the page's own style, script and embedded images."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _sort_key(value: object) -> float | str:
    """Return numbers as floats and other values as text; missing values sort last in either direction."""
    if _is_missing(value):
        return ""
    return float(value) if isinstance(value, (int, float)) else str(value)


def _parameter(value: object) -> str:
    if _is_missing(value):
        return NOTHING
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def trained_parameters(row: dict[str, Any]) -> str:
    """Return how many of a network's parameters were trained, in millions; a dash if the run did not log it."""
    counts = [row.get(name) for name in ("trainable_parameters", "total_parameters")]
    if any(_is_missing(count) for count in counts):
        return NOTHING
    trained, total = (f"{float(str(count)) / 1e6:.2f}" for count in counts)
    return f"{row.get('model.unfreeze', '')} {trained} of {total} M".strip()


def fixed(value: float | None) -> str:
    """Format a score with three decimals."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.3f}"


def percent(value: float) -> str:
    """Format a share as a percentage."""
    return NOTHING if math.isnan(value) else f"{value:.0%}"


def reach(row: dict[str, Any], name: str) -> str:
    """Format the interval of a score from the columns `name_low` and `name_high`; empty if there is none."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if _is_missing(low) else f"{low:.3f} to {high:.3f}"


def interval(row: dict[str, Any], name: str) -> str:
    """Format a score followed by its interval."""
    ends = reach(row, name)
    return fixed(row.get(name)) + (f" ({ends})" if ends else "")


def duration(hours: float) -> str:
    """Format a time in seconds, minutes or hours, depending on its length."""
    if _is_missing(hours):
        return NOTHING
    if hours * 60 < 1.5:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.1f} min" if hours < 1.5 else f"{hours:.2f} h"
