"""`satx data check` and `satx data sample`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from satx.commands.console import next_commands, out, print_json, progress_bars, table, talk_on_stderr
from satx.sample.sample import render_sample
from satx.tiles.check import check_tiles
from satx.tiles.layout import SPLITS, read_layout


def check_command(folder: Path, *, as_json: bool) -> None:
    """Read every tile, and print the usable ones and the problems.

    Raises:
        DataError: The folder is not usable for a sweep.
    """
    if as_json:
        talk_on_stderr()
    tiles = read_layout(folder)
    with progress_bars() as on_progress:
        report = check_tiles(tiles, lambda done, total: on_progress("checking tiles", done, total))
    if as_json:
        counts = {f"{split}/{label}": count for (split, label), count in report.counts.items()}
        problems = [asdict(problem) for problem in report.problems]
        print_json({"folder": str(folder), "num_tiles": report.num_tiles, "counts": counts, "problems": problems})
    else:
        splits = [split for split in SPLITS if any(key[0] == split for key in report.counts)]
        rows = [[label, *(report.counts.get((split, label), 0) for split in splits)] for label in tiles.classes]
        table(f"Usable tiles of {folder}", ["class", *splits], rows, right=tuple(range(1, len(splits) + 1)))
        if report.problems:
            rows = [[p.severity, p.kind, p.relative, p.detail] for p in report.problems[:200]]
            table(f"{len(report.problems)} findings", ["severity", "kind", "tile", "detail"], rows)
        else:
            out.print(f"No problems in {report.num_tiles} tiles.")
    report.raise_if_unusable()
    if not as_json:
        next_commands({f"make sweep SESSION=2 DATA={folder}": "sweep over these tiles"})


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
        {f"make sweep SESSION={session} DATA={path}": "sweep over them", f"satx data check {path}": "check them"}
    )
