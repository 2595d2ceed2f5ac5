"""Small folders of noise tiles, and sessions made of them, for the tests of this folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiles.folders import image_bytes, noise_image

from satx.sessions.import_session import Imported, import_session
from satx.sessions.manifest import COLUMNS, Manifest, Row, sorted_rows
from satx.sessions.new_session import Made, NewSession, new_session

SPLITS, CLASSES = ("train", "valid", "test"), ("not-school", "school")
DIGEST = "d" * 64
# three pictures of each class in train, two in valid and in test
SESSION_TILES = {
    f"{split}/{label}/{number}.png": 100 * place + 10 * index + number
    for place, (split, count) in enumerate(zip(SPLITS, (3, 2, 2), strict=True))
    for index, label in enumerate(CLASSES)
    for number in range(count)
}


def write_folder(root: Path, tiles: Mapping[str, int], *, kind: str = "PNG") -> Path:
    """Write a noise tile for each relative path, drawn from its seed."""
    for relative, seed in tiles.items():
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(noise_image(seed), kind))
    return root


def write_table(root: Path, rows: list[dict[str, str]], name: str = "tiles.csv") -> Path:
    with (root / name).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / name


def imported(name: str, folder: Path, **options: Any) -> Imported:
    given: dict[str, Any] = {"parent": None, "task": None, "positive_class": None, "author": "Ada"}
    return import_session(name, folder, **(given | options))


def made(name: str, **options: Any) -> Made:
    given: dict[str, Any] = {
        "name": name, "parent": "1", "add": None, "decisions": None, "new_test_version": False, "reason": None,
        "author": "Ada", "replaces": False,
    }  # fmt: skip
    return new_session(NewSession(**(given | options)), on_progress=lambda what, done, total: None)


def first_session(project: Path) -> Imported:
    """Write the tiles of a first session into a project, and import them."""
    return imported("1", write_folder(project / "data" / "session1", SESSION_TILES))


def row(number: int, **parts: str) -> Row:
    """Return the row of an invented picture."""
    values = dict.fromkeys(COLUMNS, "") | {
        "pixel_sha256": f"{number:064x}",
        "file_sha256": f"{number:064x}",
        "label": "school",
        "split": "train",
        "path": f"{number}.png",
    }
    return Row(**(values | parts))


def manifest(*rows: Row, **parts: Any) -> Manifest:
    return Manifest(sorted_rows(rows), **parts)


def decision(picture: str, kind: str = "drop", **parts: str) -> dict[str, str]:
    """Return one line of a table of decisions."""
    values = {
        "pixel_sha256": picture,
        "decision": kind,
        "label": "",
        "reason": "blurred",
        "author": "Grace",
        "decided_at": "2026-01-31T12:00:00+00:00",
        "session_digest": DIGEST,
    }
    return values | parts


def picture_at(manifest: Manifest, path: str) -> Row:
    """Return the row of a file."""
    (found,) = [row for row in manifest.rows if row.path == path]
    return found
