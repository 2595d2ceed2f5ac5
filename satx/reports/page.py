"""The page of `satx compare`: one HTML file that loads nothing over the network and works without scripts.

Run names, parameters and notes are untrusted input: everything is escaped, and a content security policy allows only
the page's own style and script, by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from satx.catalogue import cut_label
from satx.evaluation.style import DARK, backbone_color, backbone_order
from satx.reports.chart import NARROW_PX, WIDE_PX, auc_chart
from satx.reports.figure import STATUSES
from satx.reports.parameters import LAST, NOTHING, is_missing, shown_value, varying_and_constant
from satx.reports.pictures import Pictures
from satx.reports.rates import shown_parts
from satx.reports.verdicts import Comparison, verdict_lines

TEMPLATES = Path(__file__).resolve().parent / "templates"

SCORES = ("val_auc", "val_accuracy", "val_loss")
TESTED = ("test_auc", "test_accuracy")
LEADING = ("run_id", "run_name", "backbone", "status", "hours", *SCORES, "confirmed_val_auc")
# Columns of the table of all runs; between them are the settings that vary, after them the parameters that follow.
BEFORE_PARAMETERS = ("Run", "Backbone", "Validation AUC")
AFTER_PARAMETERS = ("Validation accuracy", "Validation loss", "Test AUC", "Test accuracy", "Time", "Status")
INTERVALS = tuple(f"{name}{end}" for name in TESTED for end in ("", "_low", "_high"))


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, and its sort key."""

    text: str
    key: float | str


def compare_page(
    *,
    title: str,
    figures: Sequence[Pictures],
    best: pd.DataFrame,
    runs: pd.DataFrame,
    notes: list[str],
    paces: pd.DataFrame,
    comparison: Comparison | None = None,
    comparison_figure: Pictures | None = None,
    baselines: Sequence[Comparison] = (),
    interactive: pd.DataFrame | None = None,
) -> str:
    """Return the whole page.

    Args:
        title: Heading and document title.
        figures: From `figure.compare_figure`, one for each session.
        best: From `pace.with_paces`.
        runs: Every run, as for `figure.compare_figure`; additional columns are shown as parameters.
        notes: Sentences under the heading: data, caveats, the command that made the page.
        paces: From `pace.paces`, with the column `session`.
        comparison: The best runs of two sessions on the same test tiles, if two are compared.
        comparison_figure: Its figure, from `slices_figure.session_slices_figure`.
        baselines: Comparisons of the baselines that both sessions have.
        interactive: Histories of the runs, for the interactive chart; None omits the chart.

    Returns:
        HTML.
    """
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("compare.css", "compare.js"))
    backbones = sorted({*runs["backbone"]}, key=backbone_order)
    style += _colors(backbones)
    ranked = runs.sort_values(["val_auc", "val_loss"], ascending=[False, True], kind="stable", ignore_index=True)
    parameters = [str(name) for name in ranked.columns if name not in (*LEADING, *INTERVALS)]
    varying, constant = varying_and_constant(ranked, parameters)
    settings, resulting = [name for name in varying if name not in LAST], [name for name in varying if name in LAST]
    charts = {
        name: None if interactive is None else auc_chart(ranked, interactive, size_px=size_px)
        for name, size_px in (("wide", WIDE_PX), ("narrow", NARROW_PX))
    }
    return (
        _environment()
        .get_template("compare.html.j2")
        .render(
            title=title,
            notes=notes,
            policy=content_policy(style=style, script=script),
            style=Markup(style),
            script=Markup(script),
            figures=figures,
            best=records(best),
            runs=[_run_row(run, settings, resulting) for run in records(ranked)],
            headings=[*BEFORE_PARAMETERS, *settings, *AFTER_PARAMETERS, *resulting],
            constant=constant,
            charts={name: chart for name, chart in charts.items() if chart is not None},
            paces=records(paces),
            num_sessions=len(figures),
            comparison=comparison,
            comparison_figure=comparison_figure,
            models=[] if comparison is None else [comparison.table.iloc[0][name] for name in ("label_a", "label_b")],
            parts=[] if comparison is None else shown_parts(comparison.table, positive_class=comparison.positive_class),
            conclusions=[] if comparison is None else [verdict.conclusion for verdict in comparison.verdicts],
            of_baselines=[line for one in baselines for line in verdict_lines(one)],
            color={backbone: f"color-{number}" for number, backbone in enumerate(backbones)},
        )
    )


def _environment() -> jinja2.Environment:
    """Return what renders the page: the templates, and how they write numbers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "fixed": fixed,
        "duration": duration,
        "trained": trained_parameters,
        "interval": interval,
        "reach": reach,
        "seconds": seconds,
        "times": times,
        "data_uri": data_uri,
        "breakable": breakable,
    }
    return environment


def _colors(backbones: Sequence[str]) -> str:
    """Return style rules that give each backbone its color, light and dark; their names may contain anything."""
    light = (f".color-{number} {{ color: {backbone_color(name)}; }}" for number, name in enumerate(backbones))
    dark = (f".color-{number} {{ color: {backbone_color(name, DARK)}; }}" for number, name in enumerate(backbones))
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}\n"])


def _run_row(run: dict[str, Any], settings: list[str], resulting: list[str]) -> dict[str, Any]:
    """Return one row of the table of all runs."""
    status = STATUSES[run["status"]][0]
    return {
        "run_id": run["run_id"],
        "name": run["run_name"],
        "backbone": run["backbone"],
        "status": status,
        "cells": [
            Cell(fixed(run["val_auc"]), _sort_key(run["val_auc"])),
            *(Cell(shown_value(name, run[name]), _sort_key(run[name])) for name in settings),
            *(Cell(fixed(run[name]), _sort_key(run[name])) for name in SCORES if name != "val_auc"),
            *(Cell(interval(run, name), _sort_key(run.get(name))) for name in TESTED),
            Cell(duration(run["hours"]), _sort_key(run["hours"])),
            Cell(status, status),
            *(Cell(shown_value(name, run[name]), _sort_key(run[name])) for name in resulting),
        ],
    }


def content_policy(**own: str) -> str:
    """Return a content security policy that allows only embedded images and the page's own `style` and `script`."""
    allowed = "".join(
        f"; {kind}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for kind, text in own.items()
    )
    return f"default-src 'none'; img-src data:{allowed}"


def data_uri(png: bytes) -> str:
    """Return a picture as a link that contains it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _sort_key(value: object) -> float | str:
    """Return numbers as floats and other values as text; missing values sort last in either direction."""
    if is_missing(value):
        return ""
    return float(value) if isinstance(value, (int, float)) else str(value)


def trained_parameters(row: dict[str, Any]) -> str:
    """Return how many of a network's parameters were trained, in millions; a dash if the run did not log it."""
    counts = [row.get(name) for name in ("trainable_parameters", "total_parameters")]
    if any(is_missing(count) for count in counts):
        return NOTHING
    trained, total = (f"{float(str(count)) / 1e6:.2f}" for count in counts)
    return f"{cut_label(str(row.get('model.unfreeze', '')))} {trained} of {total} M".strip()


def fixed(value: float | None) -> str:
    """Format a score with three decimals."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.3f}"


def breakable(name: str) -> Markup:
    """Return the name of a setting with places where a line may break; the text stays the same."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", name))


def seconds(value: float) -> str:
    """Format the seconds of an epoch, which may be a small fraction of one."""
    return NOTHING if is_missing(value) else f"{value:.3g} s"


def times(ratio: float) -> str:
    """Format a ratio of times."""
    return NOTHING if is_missing(ratio) else f"× {ratio:.1f}"


def reach(row: dict[str, Any], name: str) -> str:
    """Format the interval of a score from the columns `name_low` and `name_high`; empty if there is none."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if is_missing(low) else f"{low:.3f} to {high:.3f}"


def interval(row: dict[str, Any], name: str) -> str:
    """Format a score followed by its interval."""
    ends = reach(row, name)
    return fixed(row.get(name)) + (f" ({ends})" if ends else "")


def duration(hours: float) -> str:
    """Format a time in seconds, minutes or hours, depending on its length."""
    if is_missing(hours):
        return NOTHING
    if hours * 60 < 1.5:
        seconds = hours * 3600
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{hours * 60:.1f} min" if hours < 1.5 else f"{hours:.2f} h"
