"""`satx session diff` and `satx session show`: what changed between two sessions, and where a session comes from."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from satx.commands.console import out, print_json, table
from satx.commands.session import counts_of
from satx.errors import ConfigError
from satx.session_config import SessionConfig
from satx.sessions.difference import GroupDifference, SessionDifference, session_difference
from satx.sessions.lineage import ancestors, open_manifest
from satx.sessions.manifest import manifest_config
from satx.storage import replacing, satx_home
from satx.tiles.layout import SPLITS

_CHANGES = ("added", "dropped", "relabelled", "moved", "resliced")
_HEADERS = {"resliced": "re-sliced"}
MAX_REASONS = 10  # rows of a table


def diff_command(first: str, second: str, *, as_json: bool) -> None:
    """Print how many tiles of each class, slice and split came, went and changed, and draw them.

    Raises:
        ConfigError: A session has no manifest, or an ancestor of it is missing.
    """
    if first == second:
        raise ConfigError(f"Expected two different sessions, got {first} twice. Name another one.")
    before, after = open_manifest(first)[1], open_manifest(second)[1]
    difference = session_difference(before, after)
    picture = _draw(difference, first, second)
    if as_json:
        print_json(
            {
                "first": {"session": first, "digest": before.digest, "test_version": before.test_version},
                "second": {"session": second, "digest": after.digest, "test_version": after.test_version},
                "same_test": difference.same_test,
                "groups": [asdict(group) for group in difference.groups],
                "reasons": difference.reasons,
                "picture": picture,
            }
        )
        return
    _print_difference(difference, first, second)
    print(picture)


def show_command(name: str, *, as_json: bool) -> None:
    """Print a session's parents, tiles, reasons and digest, and whether a run has used it.

    Raises:
        ConfigError: The session has no manifest, or an ancestor of it is missing.
        TrackerUnavailable: MLflow does not answer.
    """
    session, manifest = open_manifest(name)
    chain = (session, *ancestors(session))
    used_in = _used_in(session)
    reasons = Counter(row.reason for row in manifest.rows).most_common()
    if as_json:
        print_json(
            {
                "session": name,
                "digest": manifest.digest,
                "test_version": manifest.test_version,
                "chain": [{"session": one.session, "digest": manifest_config(one).digest} for one in chain],
                "counts": counts_of(manifest),
                "reasons": dict(reasons),
                "used_in": used_in,
            }
        )
        return
    rows = [[one.session, manifest_config(one).digest[:12], manifest_config(one).test_version] for one in chain]
    table(f"Session {name} and its parents", ["session", "manifest", "test version"], rows, right=(2,))
    rows = [[label, *counts.values()] for label, counts in counts_of(manifest).items()]
    table(f"{len(manifest.rows)} tiles", ["class", *SPLITS], rows, right=(1, 2, 3))
    _print_reasons("Why they are in the session", dict(reasons))
    out.print(f"Digest: {manifest.digest}", highlight=False)
    used = f"runs in {' and '.join(used_in)} have used it, so it does not change" if used_in else "no run has used it"
    out.print(f"Use: {used}.", highlight=False)


def _used_in(session: SessionConfig) -> list[str]:
    """Return the experiments with runs on this session's manifest."""
    from satx.sessions.used import recorded_digest  # here, since the import of MLflow takes seconds

    experiments = (session.experiment_name, f"{session.experiment_name}-sample")
    return [experiment for experiment in experiments if recorded_digest(experiment) == manifest_config(session).digest]


def _print_difference(difference: SessionDifference, first: str, second: str) -> None:
    columns = [_HEADERS.get(name, name) for name in ("class", "slice", "split", "before", *_CHANGES, "after")]
    rows = [_cells(group) for group in difference.groups]
    totals: list[Any] = [sum(row[place] for row in rows) for place in range(3, len(columns))]
    title = f"From session {first} to session {second}"
    table(title, columns, [*rows, ["all", "", "", *totals]], right=tuple(range(3, len(columns))))
    if difference.reasons:
        _print_reasons("Why tiles were added or relabelled", difference.reasons)
    same = (
        "The test tiles are the same: scores of the two sessions can be compared."
        if difference.same_test
        else "The test tiles are not the same: scores of the two sessions cannot be compared."
    )
    out.print(same, highlight=False)


def _cells(group: GroupDifference) -> list[Any]:
    values = asdict(group)
    return [group.label, group.slice or "-", group.split, *(values[name] for name in ("before", *_CHANGES, "after"))]


def _print_reasons(title: str, reasons: dict[str, int]) -> None:
    rows: list[list[Any]] = [[reason, count] for reason, count in list(reasons.items())[:MAX_REASONS]]
    others = list(reasons.values())[MAX_REASONS:]
    if others:
        rows.append([f"{len(others)} other reasons", sum(others)])
    table(title, ["reason", "tiles"], rows, right=(1,))


def _draw(difference: SessionDifference, first: str, second: str) -> Path:
    """Draw the difference into `SATX_HOME/reports`, and return the picture's path."""
    import pandas as pd

    from satx.evaluation.style import png_bytes
    from satx.reports.session_difference_figure import session_difference_figure

    groups = pd.DataFrame([asdict(group) for group in difference.groups])
    path = satx_home() / "reports" / f"session-diff-{first}-{second}.png"
    with replacing(path) as temporary:
        temporary.write_bytes(png_bytes(session_difference_figure(groups, first=first, second=second)))
    return path
