"""`satx session import` and `satx session new`: write a session with its manifest, and say what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from satx.commands.console import banner, next_commands, out, print_json, table, talk_on_stderr
from satx.commands.progress import progress_bars
from satx.commands.stopping import stoppable
from satx.sessions.difference import session_difference
from satx.sessions.import_session import import_session
from satx.sessions.manifest import Manifest
from satx.sessions.new_session import NewSession, new_session
from satx.sessions.session_file import present_author
from satx.tiles.layout import SPLITS
from satx.tiles.walk import first_few


@dataclass(frozen=True)
class ImportRequest:
    """What `satx session import` is asked for.

    Attributes:
        name: Name of the session.
        folder: Its tiles.
        parent: The session that it was made from.
        task: The classification task.
        positive_class: The class of interest.
        author: Who imports; None for the present user.
    """

    name: str
    folder: Path
    parent: str | None
    task: str | None
    positive_class: str | None
    author: str | None


@stoppable()
def import_command(request: ImportRequest, *, as_json: bool) -> None:
    """Write the manifest of a folder, and print how many tiles of each class and split it lists."""
    if as_json:
        talk_on_stderr()
    with progress_bars() as on_progress:
        imported = import_session(
            request.name,
            request.folder,
            parent=request.parent,
            task=request.task,
            positive_class=request.positive_class,
            author=request.author or present_author(),
            on_progress=lambda done, total: on_progress("reading tiles", done, total),
        )
    left_out = {"copies of another": imported.num_copies, "broken or refused": len(imported.broken)}
    left_out = {reason: count for reason, count in left_out.items() if count}
    if as_json:
        print_json(
            {"session": imported.name, "yaml": imported.yaml, **_summary(imported.manifest), "left_out": left_out}
        )
        return
    _print_counts(imported.name, imported.manifest)
    _print_left_out(left_out)
    if imported.broken:
        named = [f"{problem.relative} ({problem.detail})" for problem in imported.broken]
        out.print(f"Broken or refused: {first_few(named)}.", highlight=False)
    _tell_test_version(imported.manifest, imported.parent)
    _print_next(imported.name, imported.yaml, imported.manifest)


@stoppable()
def new_command(request: NewSession, *, as_json: bool) -> None:
    """Make a session from its parent, and print what changed."""
    if as_json:
        talk_on_stderr()
    with progress_bars() as on_progress:
        made = new_session(request, on_progress=on_progress)
    if as_json:
        set_aside = None if made.set_aside is None else str(made.set_aside)
        about = {"session": made.name, "yaml": made.yaml, "folder": made.folder, **_summary(made.manifest)}
        print_json(about | {"left_out": made.left_out, "set_aside": set_aside})
        return
    _print_counts(made.name, made.manifest)
    difference = session_difference(made.parent, made.manifest)
    changes = {
        name: sum(getattr(group, name) for group in difference.groups) for name in ("added", "dropped", "relabelled")
    }
    said = ", ".join(f"{count} {name}" for name, count in changes.items() if count) or "no tile changed"
    out.print(f"Since session {made.manifest.parent}: {said}.", highlight=False)
    _print_left_out(made.left_out)
    if made.set_aside is not None:
        banner(
            f"The tiles of the session that was replaced are in {made.set_aside}. Remove the folder if you need it no more."
        )
    _tell_test_version(made.manifest, made.parent)
    _print_next(made.name, made.yaml, made.manifest)


def counts_of(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Return the number of tiles by class and split."""
    counts = {label: dict.fromkeys(SPLITS, 0) for label in manifest.classes}
    for row in manifest.rows:
        counts[row.label][row.split] += 1
    return counts


def _summary(manifest: Manifest) -> dict[str, object]:
    return {
        "digest": manifest.digest,
        "parent": manifest.parent,
        "parent_digest": manifest.parent_digest,
        "test_version": manifest.test_version,
        "counts": counts_of(manifest),
    }


def _print_counts(name: str, manifest: Manifest) -> None:
    rows = [[label, *counts.values()] for label, counts in counts_of(manifest).items()]
    table(f"Session {name}: {len(manifest.rows)} tiles", ["class", *SPLITS], rows, right=(1, 2, 3))


def _print_left_out(left_out: dict[str, int]) -> None:
    if left_out:
        rows = [[reason, count] for reason, count in left_out.items()]
        table("Files that are not in the session", ["reason", "files"], rows, right=(1,))


def _tell_test_version(manifest: Manifest, parent: Manifest | None) -> None:
    if parent is not None and manifest.test_version != parent.test_version:
        banner(
            f"The test split is another than in session {manifest.parent}: version {manifest.test_version}. Scores on it are not "
            f"compared with earlier ones. Score earlier models on the new test tiles to compare them."
        )


def _print_next(name: str, yaml: Path, manifest: Manifest) -> None:
    out.print(f"Manifest {manifest.digest[:12]}… is in {yaml.with_suffix('.csv')}.", highlight=False)
    names = (f"experiments/session{name}{ending}" for ending in (".yaml", ".csv", "-decisions.csv"))
    files = [file for file in names if (yaml.parent.parent / file).exists()]
    parent = {f"satx session diff {manifest.parent} {name}": "what changed"} if manifest.parent else {}
    next_commands(
        {
            **parent,
            f"git add {' '.join(files)}": "keep the manifest with its session",
            f"satx sweep --session {name}": "sweep over its tiles",
        }
    )
