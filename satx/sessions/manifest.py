"""A session's manifest: one row for each picture, as a CSV that git can compare, and its digest."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from pathlib import Path

from satx.errors import ConfigError, DataError
from satx.session_config import ManifestConfig, SessionConfig
from satx.storage import digest_of, shipped_file
from satx.tiles.layout import SPLITS

MANIFEST_FORMAT = 1  # increment when the same pictures give another digest

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Row:
    """One picture of a session.

    Attributes:
        pixel_sha256: SHA-256 of its decoded pixels, see `pictures.pixel_sha256`.
        label: Its class.
        slice: Its slice, "" if unknown.
        split: One of `SPLITS`.
        path: Its file, relative to the session's folder.
        file_sha256: SHA-256 of the file's bytes.
        source: Where the picture is from.
        reason: Why it is in the session, with this class.
        author: Who decided so.
        decided_at: When, as `2026-01-31T12:00:00+00:00`.
    """

    pixel_sha256: str
    label: str
    slice: str
    split: str
    path: str
    file_sha256: str
    source: str
    reason: str
    author: str
    decided_at: str


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Manifest:
    """The pictures of a session, and where they come from.

    Attributes:
        rows: Sorted by `pixel_sha256`, which is unique.
        parent: Name of the session it was made from; None if it was imported as a first one.
        parent_digest: The parent's digest.
        test_version: Version of the test split; scores are compared within one version only.
    """

    rows: tuple[Row, ...]
    parent: str | None = None
    parent_digest: str | None = None
    test_version: int = 1

    @cached_property
    def digest(self) -> str:
        """The identity: of pictures, classes, slices and splits, parent and test version; not of files, names and reasons."""
        tiles = sorted((row.pixel_sha256, row.label, row.slice, row.split) for row in self.rows)
        return digest_of(
            {
                "format": MANIFEST_FORMAT,
                "tiles": tiles,
                "parent_digest": self.parent_digest,
                "test_version": self.test_version,
            }
        )

    @cached_property
    def by_picture(self) -> dict[str, Row]:
        """The rows by `pixel_sha256`."""
        return {row.pixel_sha256: row for row in self.rows}

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, sorted by name."""
        return tuple(sorted({row.label for row in self.rows}))

    def test_tiles(self) -> set[tuple[str, str]]:
        """Return picture and class of each test tile: what a score depends on."""
        return {(row.pixel_sha256, row.label) for row in self.rows if row.split == "test"}


def sorted_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return rows in the order of a manifest."""
    return tuple(sorted(rows, key=lambda row: row.pixel_sha256))


def manifest_text(manifest: Manifest) -> str:
    """Return the CSV of a manifest: the same text for the same rows, so that git shows what changed."""
    return "".join(_line(cells) for cells in (COLUMNS, *(astuple(row) for row in manifest.rows)))


def _line(cells: tuple[str, ...]) -> str:
    """Return a line that ends in a line feed; with that as terminator, Python would not quote a carriage return."""
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\r\n").writerow(cells)
    return stream.getvalue().removesuffix("\r\n") + "\n"


def read_rows(path: Path) -> tuple[Row, ...]:
    """Read the rows of a manifest, in any order and with any line ends.

    Raises:
        DataError: The file is missing or no manifest, a line is incomplete, or a picture is listed twice.
    """
    restore = "Restore the file, for example with `git checkout`."
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected the manifest that its session names, found no file. {restore}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a manifest, but it cannot be read ({error}). {restore}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[str, Row] = {}
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise DataError(
                f"{path}: expected the columns {','.join(COLUMNS)}, got {','.join(header)[:200]!r}. {restore}"
            )
        for cells in reader:
            if not cells:
                continue
            where = f"{path}, line {reader.line_num}"
            row = _row(where, cells, restore)
            if row.pixel_sha256 in rows:
                raise DataError(f"{where}: the picture {row.pixel_sha256[:12]}… is listed twice. {restore}")
            rows[row.pixel_sha256] = row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: expected a line of a CSV, but {error}. {restore}") from error
    if not rows:
        raise DataError(f"{path}: expected a row for each picture, got none. {restore}")
    return sorted_rows(rows.values())


def _row(where: str, cells: list[str], restore: str) -> Row:
    if len(cells) != len(COLUMNS):
        raise DataError(f"{where}: expected {len(COLUMNS)} cells, got {len(cells)}. {restore}")
    row = Row(*cells)
    for name in ("pixel_sha256", "file_sha256"):
        if not _SHA256.fullmatch(getattr(row, name)):
            raise DataError(f"{where}: expected 64 hex digits for {name}, got {getattr(row, name)[:80]!r}. {restore}")
    if row.split not in SPLITS or not row.label or not row.path:
        raise DataError(
            f"{where}: expected a path, a class and one of the splits {', '.join(SPLITS)}, got {row.path!r}, {row.label!r} and "
            f"{row.split!r}. {restore}"
        )
    return row


def manifest_config(session: SessionConfig) -> ManifestConfig:
    """Return what a session says of its manifest.

    Raises:
        ConfigError: It has none.
    """
    if session.manifest is None:
        raise ConfigError(
            f"experiments/session{session.session}.yaml: expected a session with a manifest, got one without. Import its tiles: "
            f"`satx session import {session.session} {session.data_dir}`."
        )
    return session.manifest


def load_manifest(config: ManifestConfig) -> Manifest:
    """Read a session's manifest.

    Raises:
        DataError: It cannot be read, or it was changed: its digest is not the one in the session's YAML.
    """
    manifest = Manifest(
        read_rows(manifest_path(config)), config.parent, config.parent_digest, test_version=config.test_version
    )
    if manifest.digest != config.digest:
        yaml = config.file.removesuffix(".csv") + ".yaml"
        raise DataError(
            f"{config.file} was changed: expected the digest {config.digest[:12]}… that {yaml} names, got "
            f"{manifest.digest[:12]}…. Restore both files, for example with `git checkout`. Other tiles are a new session: "
            f"`satx session new`."
        )
    return manifest


def manifest_path(config: ManifestConfig) -> Path:
    """Return where a manifest is, in the current project or in the package.

    Raises:
        DataError: It is in neither.
    """
    try:
        return shipped_file(config.file)
    except ConfigError as error:
        raise DataError(
            f"{config.file}: expected the manifest of a session, found no file. Restore it, for example with `git checkout`."
        ) from error
