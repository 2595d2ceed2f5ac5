from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from satx.errors import DataError
from satx.tiles.check import CheckReport, check_tiles, in_parallel
from satx.tiles.decode import MAX_FILE_BYTES, BrokenTile, decode_tile, read_tile, resize_tile
from satx.tiles.layout import read_layout

from .folders import image_bytes, noise_image, write_tiles


def tiff_bytes(*shape: int, dtype: str = "uint8", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def png_bytes(*, bits: int, color: int, num_bands: int, edge_px: int = 4) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = (b"\0" + bytes(edge_px * num_bands * bits // 8)) * min(edge_px, 64)
    header = struct.pack(">IIBBBBB", edge_px, edge_px, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def refusal(data: bytes) -> tuple[str, str]:
    with pytest.raises(BrokenTile) as caught:
        decode_tile(data, "tile")
    return caught.value.kind, str(caught.value)


def kinds(report: CheckReport) -> list[tuple[str, str, str]]:
    return [(problem.severity, problem.kind, problem.relative) for problem in report.problems]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_lossless_rgb_of_any_format_is_decoded_unchanged(kind: str) -> None:
    image = noise_image(1)
    stream = io.BytesIO()
    image.save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    tile = decode_tile(stream.getvalue(), "tile")
    assert tile.converted_from is None
    assert np.array_equal(np.asarray(tile.image), np.asarray(image))


@pytest.mark.parametrize(
    ("mode", "kind", "named"),
    [
        ("L", "JPEG", "grey"),
        ("L", "PNG", "grey"),
        ("1", "PNG", "black and white"),
        ("P", "PNG", "palette"),
        ("LA", "PNG", "grey with alpha, alpha dropped"),
        ("RGBA", "PNG", "RGB with alpha, alpha dropped"),
        ("RGBA", "WEBP", "RGB with alpha, alpha dropped"),
        ("CMYK", "JPEG", "CMYK"),
        ("CMYK", "TIFF", "CMYK"),
        ("YCbCr", "TIFF", "YCbCr"),
    ],
)
def test_other_8_bit_modes_are_converted_and_named(mode: str, kind: str, named: str) -> None:
    image = noise_image(2, mode=mode)
    if mode == "RGBA":
        image.putpixel((0, 0), (10, 20, 30, 0))
    tile = decode_tile(image_bytes(image, kind), "tile")
    assert (tile.image.mode, tile.image.size, tile.converted_from) == ("RGB", (16, 16), named)


def test_color_under_transparency_is_kept_as_in_serving() -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert decode_tile(image_bytes(image), "tile").image.getpixel((0, 0)) == (10, 20, 30)
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=b"\x00\x80")
    assert decode_tile(stream.getvalue(), "tile").image.getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize(
    ("shape", "options", "named"),
    [
        ((16, 16, 3), {"photometric": "rgb"}, None),
        ((64, 64, 3), {"photometric": "rgb", "tile": (16, 16), "compression": "zlib", "predictor": True}, None),
        ((3, 16, 16), {"photometric": "rgb", "planarconfig": "separate"}, None),
        ((16, 16, 3), {"photometric": "minisblack", "planarconfig": "contig"}, None),
        ((16, 16, 4), {"photometric": "rgb", "extrasamples": ["unspecified"]}, "four bands, the fourth dropped"),
        ((16, 16, 4), {"photometric": "minisblack", "planarconfig": "contig"}, "four bands, the fourth dropped"),
        ((4, 16, 16), {"photometric": "minisblack", "planarconfig": "separate"}, "four bands, the fourth dropped"),
        ((16, 16), {"photometric": "minisblack"}, "grey"),
    ],
)
def test_8_bit_tiffs_of_1_3_or_4_bands_are_read(shape: tuple[int, ...], options: dict[str, Any], named: str) -> None:
    data = tiff_bytes(*shape, **options)
    tile = decode_tile(data, "tile")
    expected = tifffile.imread(io.BytesIO(data))
    expected = np.moveaxis(expected, 0, -1) if shape[0] in (3, 4) else expected
    expected = np.stack([expected] * 3, axis=-1) if expected.ndim == 2 else expected[..., :3]
    assert tile.converted_from == named
    assert np.array_equal(np.asarray(tile.image), expected)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (tiff_bytes(8, 8, dtype="uint16"), "1 band in uint16"),
        (tiff_bytes(8, 8, 3, dtype="uint16", photometric="rgb"), "3 bands in uint16"),
        (tiff_bytes(8, 8, dtype="float32"), "1 band in float32"),
        (tiff_bytes(8, 8, dtype="int8"), "1 band in int8"),
        (tiff_bytes(8, 8, 2, photometric="minisblack", planarconfig="contig"), "2 bands in uint8"),
        (tiff_bytes(8, 8, 8, photometric="minisblack", planarconfig="contig"), "8 bands in uint8"),
        *((png_bytes(bits=16, color=c, num_bands=n), "16-bit PNG") for c, n in ((0, 1), (2, 3), (4, 2), (6, 4))),
        (png_bytes(bits=8, color=2, num_bands=3, edge_px=5000), "5000x5000 px"),
        (png_bytes(bits=8, color=2, num_bands=3, edge_px=30000), "decompression bomb"),
        (tiff_bytes(4100, 4100, photometric="minisblack"), "4100x4100 px"),
    ],
)
def test_images_that_are_not_8_bit_or_too_large_are_refused_with_the_reason(data: bytes, named: str) -> None:
    kind, reason = refusal(data)
    assert kind == "refused"
    assert named in reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated_files_are_broken(kind: str, share: float) -> None:
    data = image_bytes(noise_image(3, size_px=64), kind)
    assert refusal(data[: int(len(data) * share)])[0] == "broken"


@pytest.mark.parametrize("data", [b"", b"text", b"GIF89a" + bytes(20), b"II*\0" + bytes(30)])
def test_a_file_that_is_not_an_image_is_broken(data: bytes) -> None:
    assert refusal(data)[0] == "broken"


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_give_an_rgb_image_or_a_broken_tile(kind: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(image_bytes(noise_image(4), kind))
    for place, value in flips:
        data[int(place * len(data))] = value
    try:
        assert decode_tile(bytes(data), "tile").image.mode == "RGB"
    except BrokenTile as broken:
        assert broken.kind in ("broken", "refused")


@given(width_px=st.integers(1, 40), height_px=st.integers(1, 40), size_px=st.integers(1, 40))
def test_resizing_gives_a_square_and_keeps_a_plain_color(width_px: int, height_px: int, size_px: int) -> None:
    pixels = resize_tile(Image.new("RGB", (width_px, height_px), (1, 128, 255)), size_px)
    assert (pixels.shape, pixels.dtype) == ((size_px, size_px, 3), np.uint8)
    assert (pixels == (1, 128, 255)).all()


def test_a_valid_folder_has_no_problems(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check_tiles(read_layout(write_tiles(tmp_path)), on_progress=lambda *call: calls.append(call))
    assert report.problems == ()
    assert report.num_tiles == 18
    assert report.counts == {(s, c): 3 for s in ("train", "valid", "test") for c in ("not-school", "school")}
    assert calls[0] == (18, 18)
    assert calls[1:] == [(done, 18) for done in range(1, 19)]
    report.raise_if_unusable()


def test_broken_and_refused_tiles_are_listed_and_left_out_of_the_counts(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=10)
    (tmp_path / "train/school/3.png").write_bytes(b"")
    (tmp_path / "valid/school/4.png").write_bytes(png_bytes(bits=16, color=0, num_bands=1))
    (tmp_path / "test/school/5.png").write_bytes(image_bytes(noise_image(9, mode="L")))
    (tmp_path / "test/school/6.png").write_bytes(image_bytes(noise_image(10, mode="L")))
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [
        ("error", "broken", "train/school/3.png"),
        ("error", "refused", "valid/school/4.png"),
        ("note", "converted", "test/school/5.png"),
    ]
    assert report.problems[2].detail == "2 tiles converted to RGB from grey"
    assert report.broken == ("train/school/3.png", "valid/school/4.png")
    assert report.counts["train", "school"] == report.counts["valid", "school"] == 9
    report.raise_if_unusable()


def test_a_file_that_cannot_be_read_is_broken(tmp_path: Path) -> None:
    folder = read_layout(write_tiles(tmp_path, num_each=5))
    folder.files[0].path.unlink()
    report = check_tiles(folder)
    assert kinds(report) == [("error", "broken", "train/not-school/0.png")]
    assert "No such file" in report.problems[0].detail


def test_a_file_far_larger_than_a_tile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 1)  # sparse: it occupies no disk space
    with pytest.raises(BrokenTile) as error:
        read_tile(path)
    assert error.value.kind == "refused"


def test_more_than_5_percent_broken_tiles_are_refused_and_5_percent_are_not(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=10)  # 60 tiles
    for number in range(3):
        (tmp_path / f"train/school/{number}.png").write_bytes(b"not an image")
    check_tiles(read_layout(tmp_path)).raise_if_unusable()
    (tmp_path / "train/school/3.png").write_bytes(b"neither")
    with pytest.raises(DataError) as error:
        check_tiles(read_layout(tmp_path)).raise_if_unusable()
    values = ("4 of 60", "train/school/0.png", f"`satx data check {tmp_path}`")
    assert [value for value in values if value not in str(error.value)] == []


@pytest.mark.parametrize(("earlier", "later"), [("train", "valid"), ("train", "test"), ("valid", "test")])
def test_an_image_in_two_splits_stays_in_the_later_one(tmp_path: Path, earlier: str, later: str) -> None:
    write_tiles(tmp_path)
    data = (tmp_path / earlier / "school/1.png").read_bytes()
    (tmp_path / later / "school/copy.png").write_bytes(data)
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [("error", "leak", f"{earlier}/school/1.png")]
    assert f"{later}/school/copy.png" in report.problems[0].detail
    assert report.counts[earlier, "school"] == 2
    assert report.counts[later, "school"] == 4
    report.raise_if_unusable()


def test_copies_inside_a_split_are_noted_and_kept(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "train/school/copy.png").write_bytes((tmp_path / "train/school/1.png").read_bytes())
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [("note", "duplicate", "train/school/1.png")]
    assert report.counts["train", "school"] == 4


def test_an_image_under_two_labels_is_left_out_altogether(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    data = (tmp_path / "train/school/1.png").read_bytes()
    (tmp_path / "train/not-school/copy.png").write_bytes(data)
    (tmp_path / "test/school/copy.png").write_bytes(data)
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [("error", "conflict", "train/not-school/copy.png")]
    assert "not-school and school" in report.problems[0].detail
    assert report.counts["train", "school"] == 2
    assert report.counts["train", "not-school"] == report.counts["test", "school"] == 3


def test_a_class_without_tiles_after_leaks_are_removed_is_refused(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=1)
    (tmp_path / "test/school/copy.png").write_bytes((tmp_path / "train/school/0.png").read_bytes())
    report = check_tiles(read_layout(tmp_path))
    assert ("error", "empty-class", "train/school") in kinds(report)
    with pytest.raises(DataError, match=r"train .* school"):
        report.raise_if_unusable()


def test_imbalance_beyond_1_to_4_is_a_warning(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=2)
    for number in range(6):
        (tmp_path / f"train/school/more{number}.png").write_bytes(image_bytes(noise_image(100 + number)))
    assert check_tiles(read_layout(tmp_path)).problems == ()
    (tmp_path / "train/school/last.png").write_bytes(image_bytes(noise_image(200)))
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [("warning", "imbalance", "train")]
    assert "1:4.5 (not-school 2, school 9)" in report.problems[0].detail


def test_a_file_that_changes_between_hashing_and_decoding_is_refused(tmp_path: Path) -> None:
    folder = read_layout(write_tiles(tmp_path))

    def change_once_hashed(done: int, total: int) -> None:
        folder.files[5].path.write_bytes(image_bytes(noise_image(300)))

    with pytest.raises(DataError) as error:
        check_tiles(folder, on_progress=change_once_hashed)
    assert str(folder.files[5].path) in str(error.value)


def test_parallel_results_are_in_order_and_only_a_few_are_computed_ahead() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * item

    results = in_parallel(work, range(5000))
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 4)]
    assert len(started) < 8 * (len(os.sched_getaffinity(0)) + 1) + 8
    results.close()
    assert list(in_parallel(work, range(100))) == [(item, item * item) for item in range(100)]
