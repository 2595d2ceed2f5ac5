"""What is known about a folder of tiles after every file was read: facts about each tile, problems, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from satx.errors import DataError
from satx.tiles.formats import SERVED_FORMATS
from satx.tiles.layout import has_layout

MAX_BROKEN_SHARE = 0.05
LEFT_OUT = ("broken", "conflict", "leak", "refused")  # kinds of errors for which a tile is left out
NOT_READ = "not-read"  # kind of the findings about files that are no tiles


@dataclass(frozen=True)
class Problem:
    """One finding about a folder of tiles.

    Attributes:
        severity: "error" (tiles are left out), "warning" (to be reviewed) or "note" (satx handles it).
        kind: A word for the finding, such as "broken", "leak" or "one-color".
        relative: The file concerned, or the first of several; a split or class if no file is concerned.
        detail: What was found, and its consequence.
    """

    severity: str
    kind: str
    relative: str
    detail: str


@dataclass(frozen=True, slots=True)
class TileFacts:
    """What decoding told about one tile.

    Attributes:
        pixel_digest: Digest of its pixels in their original size; the identity of the picture.
        format: One of `READ_FORMATS`.
        width_px: Original width.
        height_px: Original height.
        converted_from: Description of the file's original mode, or None if it was RGB already.
        has_more_images: Whether the file holds more frames or pages.
        is_one_color: Whether no channel varies by more than what JPEG adds to a plain color.
    """

    pixel_digest: str
    format: str
    width_px: int
    height_px: int
    converted_from: str | None
    has_more_images: bool
    is_one_color: bool


DecodeOutcome = TileFacts | Problem


@dataclass(frozen=True)
class CheckReport:
    """The findings about one folder.

    Attributes:
        root: The folder; the common parent of the split folders if they were given one by one.
        counts: Number of usable tiles per (split, label).
        num_tiles: Number of tile files found, usable or not.
        problems: Errors first, then warnings, then notes.
        unused: Relative paths of all files and hidden folders that are not used, by reason: `LEFT_OUT`, or why they are
            not read.
        formats: Number of usable tiles per format.
        sizes_px: Number of usable tiles per original size, as "256x256".
    """

    root: Path
    counts: Mapping[tuple[str, str], int]
    num_tiles: int
    problems: tuple[Problem, ...]
    unused: Mapping[str, tuple[str, ...]]
    formats: Mapping[str, int]
    sizes_px: Mapping[str, int]

    @property
    def broken(self) -> tuple[str, ...]:
        """Relative paths of the files that are broken or refused."""
        return tuple(sorted((*self.unused.get("broken", ()), *self.unused.get("refused", ()))))

    @property
    def not_served(self) -> dict[str, int]:
        """Number of usable tiles per format that not every server of an export decodes."""
        return {name: count for name, count in sorted(self.formats.items()) if name not in SERVED_FORMATS}

    @property
    def num_unused(self) -> dict[str, int]:
        """Number of files that are not used, by reason."""
        return {reason: len(names) for reason, names in self.unused.items()}

    @property
    def check_command(self) -> str | None:
        """The command that lists all findings; None if it cannot read the folder, as with split folders of other names."""
        return f"satx data check {quote(str(self.root))}" if has_layout(self.root) else None

    def raise_if_unusable(self) -> None:
        """Raise an error if the folder cannot be used even after leaving bad tiles out.

        Raises:
            DataError: Over 5% of the files are broken or refused, or a class has no usable tile left in a split.
        """
        advice = f" `{self.check_command}` lists them all." if self.check_command else ""
        if len(self.broken) > MAX_BROKEN_SHARE * self.num_tiles:
            named = [f"{p.relative} ({p.detail})" for p in self.problems if p.kind in ("broken", "refused")][:3]
            raise DataError(
                f"{len(self.broken)} of {self.num_tiles} tiles in {self.root} cannot be used, over "
                f"{MAX_BROKEN_SHARE:.0%}: {'; '.join(named)}{'; …' if len(self.broken) > 3 else ''}. "
                f"Repair or remove them.{advice}"
            )
        empty = [problem.detail for problem in self.problems if problem.kind == "empty-class"]
        if empty:
            unused = f" Files that are not used: {named_counts(self.num_unused)}." if self.unused else ""
            raise DataError(f"{self.root} cannot be used: {'; '.join(empty)}.{unused} Add tiles.{advice}")


def named_counts(counts: Mapping[str, int]) -> str:
    """Return counts as text, such as "2 WebP, 1 TIFF"."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())
