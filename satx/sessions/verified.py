"""Whether a folder has the tiles that a manifest lists, and only these; the files' digests decide, few files are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from satx.errors import DataError
from satx.sessions.manifest import Manifest, Row
from satx.sessions.pictures import Picture, images_of, read_pictures
from satx.tiles.check import OnProgress, digest_files, no_progress
from satx.tiles.layout import TileFile, TileFolder
from satx.tiles.store import TileStore
from satx.tiles.walk import first_few

UNLISTED = "not in the session's manifest"


class Tile(NamedTuple):
    """A file and the SHA-256 of its bytes."""

    file: TileFile
    digest: str


def tiles_of_manifest(folder: TileFolder, manifest: Manifest, on_progress: OnProgress = no_progress) -> TileFolder:
    """Return a folder with the files that the manifest is about: one for each picture, whatever the files are called.

    Files are told by their names. Only files of other names are read: a picture of the manifest under another name is kept if
    the file that the manifest names is missing, else it is a copy and left out. Files that are no pictures are left out.

    Args:
        folder: The files.
        manifest: The pictures.
        on_progress: Called with (done, total) if files are read.

    Raises:
        DataError: An image shows none of the pictures.
    """
    names = {row.path for row in manifest.rows}
    kept = [file for file in folder.files if file.relative in names]
    others = images_of(file for file in folder.files if file.relative not in names)
    if not others:
        return folder
    taken = {file.relative for file in kept}
    extra = []
    for found in read_pictures(others, on_progress):
        if not isinstance(found, Picture):
            continue
        row = manifest.by_picture.get(found.pixel_sha256)
        if row is None:
            extra.append(found.file.relative)
        elif row.path not in taken:
            taken.add(row.path)
            kept.append(found.file)
    if extra:
        raise DataError(
            f"{folder.root}: expected the tiles of the manifest, got {len(extra)} more: {first_few(extra)}. Remove them, or make "
            f"a new session of them: `satx session new N --from SESSION --add DIR`."
        )
    order = {file.relative: place for place, file in enumerate(folder.files)}
    kept.sort(key=lambda file: order[file.relative])
    return replace(folder, files=tuple(kept), reason_unlisted=UNLISTED)


def verified_files(folder: TileFolder, manifest: Manifest, on_progress: OnProgress = no_progress) -> dict[str, Tile]:
    """Hash the files of a folder, and return the one of each picture by `pixel_sha256`.

    Raises:
        DataError: The folder has not the tiles of the manifest, or others.
    """
    listed = tiles_of_manifest(folder, manifest, on_progress)
    files = images_of(listed.files)
    digests = digest_files(files, on_progress)
    tiles = [Tile(file, digest) for file, digest in zip(files, digests, strict=True) if digest]
    return _matched(listed, manifest, tiles)


def verify_store(store: TileStore, folder: TileFolder, manifest: Manifest) -> None:
    """Check that a store has the tiles of a manifest.

    The store knows the digest of each file. Files are read again only if one of them is not the manifest's own.

    Args:
        store: The store of the folder.
        folder: From `tiles_of_manifest`.
        manifest: The pictures.

    Raises:
        DataError: A tile is missing or changed, or has another class, split or slice.
    """
    index = store.index
    if not set(index["file_digest"]) <= {row.file_sha256 for row in manifest.rows}:
        verified_files(folder, manifest)
        return
    columns = (index[name] for name in ("relative", "label", "split", "slice", "file_digest"))
    tiles = [  # with the names that the files had when the store was built
        Tile(TileFile(folder.root / relative, relative, label, split, slice_name), digest)
        for relative, label, split, slice_name, digest in zip(*columns, strict=True)
    ]
    _matched(folder, manifest, tiles)


def _matched(folder: TileFolder, manifest: Manifest, tiles: Sequence[Tile]) -> dict[str, Tile]:
    """Return the file of each picture; raise a DataError if the tiles are not those of the manifest."""
    by_file = {row.file_sha256: row.pixel_sha256 for row in manifest.rows}
    known = [(by_file[tile.digest], tile) for tile in tiles if tile.digest in by_file]
    # another file of the same picture, as after a lossless optimization
    read = read_pictures([tile.file for tile in tiles if tile.digest not in by_file])
    known += [(found.pixel_sha256, Tile(found.file, found.file_sha256)) for found in read if isinstance(found, Picture)]
    matched = {picture: tile for picture, tile in known if picture in manifest.by_picture}
    if said := _differences(folder.files, manifest, matched):
        raise DataError(
            f"{folder.root} has not the tiles of the manifest: {said}. Restore them, or make a new session: a changed tile is a "
            f"new session, `satx session new N --from SESSION --add DIR`."
        )
    return matched


def _differences(files: Iterable[TileFile], manifest: Manifest, matched: Mapping[str, Tile]) -> str:
    """Return how many tiles differ in which way, with the first of them; "" if none does."""
    there = {file.relative for file in files}
    lacking = [row.path for row in manifest.rows if row.pixel_sha256 not in matched]
    elsewhere = []
    for row in manifest.rows:
        file = matched[row.pixel_sha256].file if row.pixel_sha256 in matched else None
        if file is not None and _place(file) != _place(row):
            elsewhere.append(f"{file.relative} is {_place(file)}, not {_place(row)}")
    kinds = {
        "changed or damaged": sorted(path for path in lacking if path in there),
        "missing": sorted(path for path in lacking if path not in there),
        "with another class, split or slice": sorted(elsewhere),
    }
    return "; ".join(f"{len(names)} {kind} ({first_few(names)})" for kind, names in kinds.items() if names)


def _place(tile: TileFile | Row) -> str:
    return ", ".join((tile.split, tile.label, tile.slice or "no slice"))
