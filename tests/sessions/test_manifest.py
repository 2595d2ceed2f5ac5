"""Tests of a manifest: what its digest depends on, its CSV, and its errors."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiles.folders import image_bytes, noise_image

from satx.errors import DataError
from satx.session_config import ManifestConfig
from satx.sessions.manifest import COLUMNS, Manifest, Row, load_manifest, manifest_text, read_rows, sorted_rows
from satx.sessions.pictures import find_pictures, pixel_sha256
from satx.sessions.session_file import manifest_of
from satx.tiles.decode import decode_tile
from satx.tiles.layout import read_layout
from sessions.small_sessions import SESSION_TILES, manifest, row, write_folder

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
ROWS = st.lists(
    st.builds(
        Row,
        pixel_sha256=st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}"),
        label=TEXTS.filter(bool),
        slice=TEXTS,
        split=st.sampled_from(["train", "valid", "test"]),
        path=TEXTS.filter(bool),
        file_sha256=st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}"),
        source=TEXTS,
        reason=TEXTS,
        author=TEXTS,
        decided_at=TEXTS,
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.pixel_sha256,
)


@settings(max_examples=40)
@given(ROWS, st.randoms(use_true_random=False), TEXTS.filter(bool))
def test_the_digest_is_that_of_the_pictures_and_not_of_order_files_and_reasons(
    rows: list[Row], order: random.Random, text: str
) -> None:
    shuffled = order.sample(rows, len(rows))
    renamed = [
        replace(one, path=text, file_sha256="0" * 64, source=text, reason=text, author=text, decided_at=text)
        for one in shuffled
    ]
    assert Manifest(tuple(renamed)).digest == Manifest(tuple(rows)).digest
    first = rows[0]
    for other in (
        replace(first, label=first.label + "x"),
        replace(first, slice=first.slice + "x"),
        replace(first, split="valid" if first.split == "train" else "train"),
        replace(first, pixel_sha256=f"{int(first.pixel_sha256, 16) ^ 1:064x}"),
    ):
        assert Manifest((other, *rows[1:])).digest != Manifest(tuple(rows)).digest
    assert Manifest(tuple(rows), test_version=2).digest != Manifest(tuple(rows)).digest
    assert Manifest(tuple(rows), "1", "0" * 64).digest != Manifest(tuple(rows)).digest


@settings(max_examples=40)
@given(ROWS)
def test_a_manifest_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    path = tmp_path_factory.mktemp("manifest") / "session.csv"
    written = Manifest(sorted_rows(rows))
    path.write_bytes(manifest_text(written).encode())
    assert read_rows(path) == written.rows


def test_line_ends_and_order_of_the_lines_do_not_matter(tmp_path: Path) -> None:
    written = manifest(row(1, reason='said "yes", twice'), row(2, label="not-school"), row(3, split="test"))
    header, *lines = manifest_text(written).splitlines()
    (tmp_path / "m.csv").write_bytes("\r\n".join([header, *reversed(lines), ""]).encode())
    assert read_rows(tmp_path / "m.csv") == written.rows


def test_a_folder_has_one_digest_whatever_its_files_are_called_and_however_they_are_stored(tmp_path: Path) -> None:
    """The same pictures under other names, in other folders, in another format and order have the same digest."""

    def digest(root: Path) -> str:
        found = find_pictures(root, read_layout(root).files)
        return Manifest(
            tuple(
                row(
                    0, pixel_sha256=one.pixel_sha256, label=one.file.label, split=one.file.split, path=one.file.relative
                )
                for one in found.pictures
            )
        ).digest

    here = write_folder(tmp_path / "here", SESSION_TILES)
    renamed = {
        f"{path.rpartition('/')[0]}/deeper/{1000 - seed}.bmp".replace("valid/not-school", "val/Not School"): seed
        for path, seed in reversed(SESSION_TILES.items())
    }
    renamed = {path.replace("valid/", "val/"): seed for path, seed in renamed.items()}
    assert digest(write_folder(tmp_path / "there", renamed, kind="BMP")) == digest(here)
    other = write_folder(tmp_path / "other", SESSION_TILES | {"train/school/0.png": 999})
    assert digest(other) != digest(here)


def test_the_digest_of_a_picture_can_be_checked_with_other_programs(tmp_path: Path) -> None:
    image = noise_image(3).resize((20, 12))
    for kind, options in (("PNG", {}), ("BMP", {}), ("JPEG", {"quality": 80})):
        data = image_bytes(image, kind, **options)
        (tmp_path / "tile").write_bytes(data)
        with Image.open(tmp_path / "tile") as opened:
            pixels = opened.convert("RGB").tobytes()
        expected = hashlib.sha256(b"20x12 " + pixels).hexdigest()
        assert pixel_sha256(decode_tile(data, "tile").pixels) == expected
    turned = np.ascontiguousarray(np.asarray(image).reshape(20, 12, 3))  # the same bytes in another shape
    assert pixel_sha256(turned) != pixel_sha256(np.asarray(image))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("label,", "class,", 1), "expected the columns pixel_sha256,label"),
        (lambda text: text + "abc,school\n", "line 4: expected 10 cells, got 2"),
        (lambda text: text.replace(f"{2:064x}", "beef", 1), "line 3: expected 64 hex digits for pixel_sha256"),
        (lambda text: text + text.splitlines()[1] + "\n", "line 4: the picture 000000000000… is listed twice"),
        (lambda text: text.replace("train", "trian", 1), "one of the splits train, valid, test"),
        (lambda text: ",".join(COLUMNS) + "\n", "expected a row for each picture, got none"),
        (lambda text: text + '"open\n', "line 4: expected a line of a CSV"),
    ],
)
def test_a_broken_manifest_is_refused_with_its_line(tmp_path: Path, change: object, said: str) -> None:
    assert callable(change)
    (tmp_path / "m.csv").write_text(change(manifest_text(manifest(row(1), row(2)))))
    with pytest.raises(DataError, match="git checkout") as refused:
        read_rows(tmp_path / "m.csv")
    assert said in str(refused.value)


def test_a_manifest_that_was_edited_by_hand_is_refused_and_a_corrected_reason_is_not(project: Path) -> None:
    written = manifest(row(1), row(2))
    config = manifest_of("9", written)
    path = project / "experiments/session9.csv"
    path.write_text(manifest_text(written).replace("school", "not-school", 1))
    with pytest.raises(
        DataError, match=r"session9.csv was changed: expected the digest .* that experiments/session9.yaml"
    ):
        load_manifest(config)
    path.write_text(manifest_text(manifest(row(1, reason="seen on the ground"), row(2))))
    assert load_manifest(config).digest == written.digest
    with pytest.raises(DataError, match="was changed"):
        load_manifest(ManifestConfig.model_validate(config.model_dump() | {"test_version": 2}))
    path.unlink()
    with pytest.raises(DataError, match=r"experiments/session9.csv: expected the manifest of a session, found no file"):
        load_manifest(config)
