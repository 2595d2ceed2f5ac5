"""Tests of the judge: what is scored, and the status and reason of everything else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagery_sources import png
from PIL import Image

from satx.errors import DataError
from satx.imagery.contract import BLANK, BROKEN, REFUSED, Unscored
from satx.imagery.judge import judged, read_placeholders
from satx.tiles import decode
from satx.tiles.decode import decode_tile, resize_tile

NOISE = np.random.default_rng(3).integers(0, 256, (48, 48, 3), np.uint8)
NO_PLACEHOLDERS = frozenset[str]()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def status_of(data: bytes) -> tuple[str, str]:
    found = judged(data, "a", 48, NO_PLACEHOLDERS)
    assert isinstance(found, Unscored), "it was scored"
    return found.status, found.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("size_px", [48, 32])
def test_a_tile_is_decoded_and_resized_as_everywhere_else(kind: str, size_px: int) -> None:
    data = encoded(Image.fromarray(NOISE), kind)
    found = judged(data, "a", size_px, NO_PLACEHOLDERS)
    assert isinstance(found, np.ndarray) and found.shape == (size_px, size_px, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, resize_tile(decode_tile(data, "a").pixels, size_px))


@given(color=st.tuples(*[st.integers(0, 255)] * 3), quality=st.integers(50, 95), size_px=st.sampled_from([16, 50, 64]))
def test_one_color_is_blank_whatever_the_quality_of_a_jpeg(
    color: tuple[int, int, int], quality: int, size_px: int
) -> None:
    image = Image.new("RGB", (size_px, size_px), color)
    assert status_of(encoded(image, "JPEG", quality=quality)) == (BLANK, "one color")


@given(color=st.tuples(*[st.integers(0, 255)] * 3), quality=st.integers(75, 100))
def test_one_color_is_blank_whatever_the_quality_of_a_webp(color: tuple[int, int, int], quality: int) -> None:
    image = Image.new("RGB", (64, 64), color)
    assert status_of(encoded(image, "WEBP", quality=quality)) == (BLANK, "one color")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_one_color_is_blank_in_every_kind_of_png(mode: str) -> None:
    assert status_of(encoded(Image.new(mode, (64, 64)), "PNG"))[0] == BLANK


@pytest.mark.parametrize("place", [(0, 0), (63, 63), (0, 63), (31, 7)])
@pytest.mark.parametrize("band", [0, 1, 2])
def test_one_pixel_that_differs_by_one_level_is_imagery(place: tuple[int, int], band: int) -> None:
    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[(*place, band)] = 201
    assert isinstance(judged(png(pixels), "a", 64, NO_PLACEHOLDERS), np.ndarray)


def test_rows_that_differ_and_are_of_one_color_each_are_imagery() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[40:] = 90
    assert isinstance(judged(png(pixels), "a", 64, NO_PLACEHOLDERS), np.ndarray)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_picture_of_which_nothing_is_visible_is_blank(kind: str) -> None:
    pixels = np.dstack((NOISE, np.zeros(NOISE.shape[:2], np.uint8)))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert status_of(encoded(Image.fromarray(pixels), kind, **options)) == (BLANK, "fully transparent")
    pixels[20, 20, 3] = 1
    assert isinstance(judged(encoded(Image.fromarray(pixels), kind, **options), "a", 48, NO_PLACEHOLDERS), np.ndarray)


def test_a_palette_of_which_nothing_is_visible_is_blank() -> None:
    image = Image.fromarray(NOISE).quantize(4)
    assert status_of(encoded(image, "PNG", transparency=bytes(4))) == (BLANK, "fully transparent")
    found = judged(encoded(image, "PNG", transparency=bytes([0, 0, 255, 255])), "a", 48, NO_PLACEHOLDERS)
    assert isinstance(found, np.ndarray)


def test_a_placeholder_is_blank_in_whatever_file_it_comes(tmp_path: Path) -> None:
    jpeg = encoded(Image.fromarray(NOISE), "JPEG", quality=80)
    (tmp_path / "no-imagery.jpg").write_bytes(jpeg)
    placeholders = read_placeholders([tmp_path / "no-imagery.jpg"])
    for data in (jpeg, png(decode_tile(jpeg, "a").pixels)):
        assert judged(data, "a", 32, placeholders) == Unscored(BLANK, "a known placeholder")
    assert isinstance(judged(png(NOISE), "a", 32, placeholders), np.ndarray), "another picture"


def test_a_placeholder_that_is_no_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(DataError, match=r"page\.jpg: expected the picture of a placeholder, got: not an image"):
        read_placeholders([tmp_path / "page.jpg"])
    with pytest.raises(DataError, match=r"none\.jpg.*No such file"):
        read_placeholders([tmp_path / "none.jpg"])


@pytest.mark.parametrize(
    ("page", "beginning"),
    [
        ("<!DOCTYPE html>\n<html><head><title>Sign in</title>", "<!DOCTYPE html> <html><head><title>Sign"),
        ("\ufeff\n <html>", "<html>"),
        ('{"message": "Not Found"}', '{"message": "Not Found"}'),
        ("Accès refusé " + "é" * 600, "Accès refusé"),
        ("é" * 256 + "a", "…"),  # a character begins with the last byte that is looked at, or before it
    ],
)
def test_a_page_of_text_is_broken_and_the_reason_shows_its_beginning(page: str, beginning: str) -> None:
    status, reason = status_of(page.encode())
    assert status == BROKEN
    assert reason.startswith(f"a page of text, not an image: {beginning}") and len(reason) < 80


@pytest.mark.parametrize(
    "page",
    [
        "Invalid key: pk.eyJ1IjoiYWJj",
        "GET /18/1/2.jpg?key=verysecret failed",
        "<p>token='abcdefghijklmnopqrst'",
        "k7x9",
    ],
)
def test_the_reason_shows_nothing_that_could_be_a_key(page: str) -> None:
    _, reason = status_of(page.encode())
    for secret in ("pk.", "eyJ1", "verysecret", "abcdefghijklmnop", "k7x9"):
        assert secret not in reason
    assert "…" in reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_broken(kind: str) -> None:
    data = encoded(Image.fromarray(NOISE), kind)
    for num_bytes in (len(data) // 2, len(data) - 5, 40):
        assert status_of(data[:num_bytes])[0] == BROKEN


@given(data=st.binary(max_size=600))
def test_any_bytes_have_a_status_and_a_reason_that_can_be_stored(data: bytes) -> None:
    status, reason = status_of(data)
    assert status in (BROKEN, REFUSED) and 0 < len(reason.encode()) < 400 and reason.isprintable()


def test_an_empty_file_is_broken_and_a_kind_that_satx_does_not_take_is_refused() -> None:
    assert status_of(b"") == (BROKEN, "empty file")
    assert status_of(b"\0\0\0\x0cjP  " + bytes(40))[0] == REFUSED
    assert status_of(encoded(Image.new("I;16", (16, 16)), "PNG"))[0] == REFUSED


def test_too_little_memory_is_no_property_of_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_arguments: object) -> None:
        raise ValueError("Insufficient memory (case 4)")

    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", no_memory)
    with pytest.raises(MemoryError):
        judged(encoded(Image.fromarray(NOISE), "JPEG"), "a", 48, NO_PLACEHOLDERS)
