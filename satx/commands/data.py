"""`satx data check` and `satx data sample`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from satx.commands.console import next_commands, out, print_json, table, talk_on_stderr
from satx.commands.progress import progress_bars
from satx.sample.sample import render_sample
from satx.splits.footprints import read_footprints
from satx.splits.leaks import SAME_GROUND, same_ground_problems
from satx.splits.pairs import alike, overlapping
from satx.splits.pictures import Sketch, sketch_of
from satx.tiles.check import OnProgress, check_tiles
from satx.tiles.findings import with_problems
from satx.tiles.layout import SPLITS, TileFolder, read_layout
from satx.tiles.report import CheckReport, TileFacts

MAX_SIZES, MAX_FINDINGS = 5, 200  # rows of a table


def check_command(folder: Path, *, image_size_px: int | None, as_json: bool) -> None:
    """Read every file, and print the usable tiles, what is not used and why, and the problems.

    Raises:
        DataError: The folder is not usable for a sweep.
    """
    if as_json:
        talk_on_stderr()
    tiles = read_layout(folder)
    with progress_bars() as on_progress:
        report = checked(tiles, image_size_px, lambda done, total: on_progress("checking tiles", done, total))
    if as_json:
        print_json(_document(folder, report))
    else:
        _print_report(folder, tiles.classes, report)
    report.raise_if_unusable()
    if not as_json:
        commands = {f"satx sweep --session 2 --data {quote(str(folder))}": "sweep over these tiles"}
        if any(problem.kind == SAME_GROUND for problem in report.problems):
            commands = {f"satx data split {quote(str(folder))}": "put the same ground into one split"} | commands
        next_commands(commands)


def checked(tiles: TileFolder, image_size_px: int | None, on_progress: OnProgress) -> CheckReport:
    """Read every file, and report all findings, with tiles of the same ground in different splits.

    Args:
        tiles: The tiles.
        image_size_px: Size that the tiles will be resized to, if it is known.
        on_progress: Called with (done, total).
    """
    sketches: dict[int, Sketch] = {}

    def keep(index: int, pixels: np.ndarray, facts: TileFacts) -> None:
        sketches[index] = sketch_of(pixels, facts.pixel_digest)

    report = check_tiles(tiles, image_size_px=image_size_px, on_progress=on_progress, on_tile=keep)
    left_out = {name for names in report.unused.values() for name in names}
    usable = {index for index in sketches if tiles.files[index].relative not in left_out}
    footprints = read_footprints(tiles.root, tiles.files)
    footprints[[index not in usable for index in range(len(tiles.files))]] = np.nan
    pairs = [
        *overlapping(footprints),
        *alike(tiles.files, {index: sketch for index, sketch in sketches.items() if index in usable}),
    ]
    return with_problems(report, same_ground_problems(tiles.root, tiles.files, pairs))


def _document(folder: Path, report: CheckReport) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "num_tiles": report.num_tiles,
        "counts": {f"{split}/{label}": count for (split, label), count in report.counts.items()},
        "formats": report.formats,
        "sizes_px": report.sizes_px,
        "unused": report.unused,
        "problems": [asdict(problem) for problem in report.problems],
    }


def _print_report(folder: Path, classes: tuple[str, ...], report: CheckReport) -> None:
    splits = [split for split in SPLITS if any(key[0] == split for key in report.counts)]
    rows = [[label, *(report.counts.get((split, label), 0) for split in splits)] for label in classes]
    table(f"Usable tiles of {folder}", ["class", *splits], rows, right=tuple(range(1, len(splits) + 1)))
    sizes = [[f"{size} px", count] for size, count in list(report.sizes_px.items())[:MAX_SIZES]]
    if len(report.sizes_px) > MAX_SIZES:
        others = list(report.sizes_px.values())[MAX_SIZES:]
        sizes.append([f"{len(others)} other sizes", sum(others)])
    formats = [[name, count] for name, count in report.formats.items()]
    table("Sizes and formats", ["size or format", "tiles"], [*sizes, *formats], right=(1,))
    if report.unused:
        rows = [[reason, len(names), ", ".join(names[:3])] for reason, names in report.unused.items()]
        table("Files that are not used", ["reason", "files", "for example"], rows, right=(1,))
    if report.problems:
        rows = [[p.severity, p.kind, p.relative, p.detail] for p in report.problems[:MAX_FINDINGS]]
        table(f"{len(report.problems)} findings", ["severity", "kind", "tile", "detail"], rows)
        if len(report.problems) > MAX_FINDINGS:
            out.print(
                f"{len(report.problems) - MAX_FINDINGS} more findings: `satx data check {quote(str(folder))} --json` lists all."
            )
    else:
        out.print(f"No problems in {report.num_tiles} tiles.")


def sample_command(folder: Path, *, session: int, num_tiles: int | None) -> None:
    """Render the sample session's tiles into a folder."""
    with progress_bars() as on_progress:
        path = render_sample(
            folder,
            session=session,
            num_tiles=num_tiles,
            on_progress=lambda done, total: on_progress("rendering tiles", done, total),
        )
    out.print(f"Rendered tiles of session {session} are in {path}.")
    next_commands(
        {
            f"satx sweep --session {session} --data {quote(str(path))}": "sweep over them",
            f"satx data check {quote(str(path))}": "check them",
        }
    )
