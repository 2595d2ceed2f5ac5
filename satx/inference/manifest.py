"""Manifest of an export: the SHA-256 of every file, so that only files that satx wrote are loaded. Imports no Keras."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satx.errors import WeightsError
from satx.storage import file_digest, write_json

EXPORT_FORMAT = 2
CLASSES_NAME = "assets.extra/classes.json"  # TensorFlow Serving ignores this folder
MANIFEST_NAME = "assets.extra/manifest.json"


@dataclass(frozen=True)
class Export:
    """An export on disk.

    Attributes:
        folder: Path of the export.
        digest: SHA-256 of its manifest, which contains the SHA-256 of every other file.
        manifest: Content of `assets.extra/manifest.json`.
    """

    folder: Path
    digest: str
    manifest: dict[str, Any]


def write_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the manifest as the last file of an export: `about`, and the digest of every file so far."""
    files = {name: file_digest(folder / name) for name in files_in(folder) if name != MANIFEST_NAME}
    write_json(folder / MANIFEST_NAME, {"format": EXPORT_FORMAT, **about, "files": files})


def verify_export(folder: Path, *, digest: str | None = None) -> Export:
    """Check that an export is the one that was written, and return it.

    Args:
        folder: Folder of the export.
        digest: SHA-256 of its manifest as recorded elsewhere, if the caller has it.

    Raises:
        WeightsError: There is no export, or a file of it is missing, changed or added.
    """
    again = "The export is not loaded. Promote its run again to write a new one."
    retrain = "The export is not loaded. Train its run again with this satx, and promote that."
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text())
        found_digest = file_digest(folder / MANIFEST_NAME)
        found_format, recorded = manifest["format"], dict(manifest["files"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise WeightsError(
            f"{folder}: expected an export written by satx ({MANIFEST_NAME}), found none. {again}"
        ) from error
    if found_format != EXPORT_FORMAT:
        raise WeightsError(f"{folder}: expected export format {EXPORT_FORMAT}, got {found_format}. {retrain}")
    if digest not in (None, found_digest):
        raise WeightsError(
            f"{folder}: expected a manifest with SHA-256 {str(digest)[:12]}…, got {found_digest[:12]}…. {again}"
        )
    present = {name: file_digest(folder / name) for name in files_in(folder) if name != MANIFEST_NAME}
    for state, names in {
        "missing": recorded.keys() - present.keys(),
        "added": present.keys() - recorded.keys(),
        "changed": {name for name in recorded.keys() & present.keys() if recorded[name] != present[name]},
    }.items():
        if names:
            raise WeightsError(
                f"{folder}: expected the files that were exported; {state}: {', '.join(sorted(names))}. {again}"
            )
    return Export(folder, found_digest, manifest)


def files_in(folder: Path) -> list[str]:
    """Return the paths of all files in a folder, relative to it, with `/` as separator."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
