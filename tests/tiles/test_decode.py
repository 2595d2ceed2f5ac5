from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from satx.tiles.decode import MAX_FILE_BYTES, decode_tile, pixel_digest, read_tile, resize_tile
from satx.tiles.formats import BrokenTile

from .folders import image_bytes, noise_image, png_bytes, tiff_bytes

LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}}


def refusal(data: bytes) -> tuple[str, str]:
    with pytest.raises(BrokenTile) as caught:
        decode_tile(data, "tile")
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_rgb_of_any_format_is_decoded_unchanged(kind: str) -> None:
    image = noise_image(1)
    tile = decode_tile(image_bytes(image, kind, **LOSSLESS[kind]), "tile")
    assert (tile.converted_from, tile.format.upper(), tile.has_more_images) == (None, kind, False)
    assert np.array_equal(tile.pixels, np.asarray(image))


def test_one_picture_has_one_digest_in_every_lossless_file_and_another_in_another_shape() -> None:
    image = noise_image(1)
    files = [image_bytes(image, kind, **options) for kind, options in LOSSLESS.items()]
    files += [tiff_bytes(1, 1), image_bytes(image.transpose(Image.Transpose.ROTATE_90))]
    digests = [pixel_digest(decode_tile(data, "tile").pixels) for data in files]
    assert len(set(digests[:4])) == 1
    assert len(set(digests)) == 3
    flat = np.zeros((2, 8, 3), np.uint8)
    assert pixel_digest(flat) != pixel_digest(flat.reshape(8, 2, 3)), "the same bytes in another shape"


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
        ("P", "GIF", "palette"),
        ("L", "BMP", "grey"),
    ],
)
def test_other_8_bit_modes_are_converted_and_named(mode: str, kind: str, named: str) -> None:
    image = noise_image(2, mode=mode)
    if mode == "RGBA":
        image.putpixel((0, 0), (10, 20, 30, 0))
    tile = decode_tile(image_bytes(image, kind), "tile")
    assert (tile.pixels.shape, tile.pixels.dtype, tile.converted_from) == ((16, 16, 3), np.uint8, named)


def test_color_under_transparency_is_kept_as_in_serving() -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert decode_tile(image_bytes(image), "tile").pixels[0, 0].tolist() == [10, 20, 30]
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    data = image_bytes(palette, "PNG", transparency=b"\x00\x80")
    assert decode_tile(data, "tile").pixels[0, 0].tolist() == [10, 20, 30]


FOUR_BANDS = "four bands, the fourth dropped"
MINISBLACK = {"photometric": "minisblack", "planarconfig": "contig"}


@pytest.mark.parametrize(
    ("shape", "options", "named"),
    [
        ((16, 16, 3), {"photometric": "rgb"}, None),
        ((64, 64, 3), {"photometric": "rgb", "tile": (16, 16), "compression": "zlib", "predictor": True}, None),
        ((3, 16, 16), {"photometric": "rgb", "planarconfig": "separate"}, None),
        ((16, 16, 3), MINISBLACK, None),
        ((3, 16, 16), MINISBLACK | {"planarconfig": "separate"}, None),
        ((16, 16, 4), {"photometric": "rgb", "extrasamples": ["unspecified"]}, FOUR_BANDS),
        ((16, 16, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, FOUR_BANDS),
        ((16, 16, 4), {"photometric": "rgb", "extrasamples": ["assocalpha"]}, FOUR_BANDS),
        ((4, 16, 16), {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["assocalpha"]}, FOUR_BANDS),
        ((16, 16, 4), MINISBLACK, FOUR_BANDS),
        ((16, 16, 4), MINISBLACK | {"compression": "zlib"}, FOUR_BANDS),
        ((4, 16, 16), MINISBLACK | {"planarconfig": "separate"}, FOUR_BANDS),
        ((16, 16), {"photometric": "minisblack"}, "grey"),
        *(((16, 12, 3), {"photometric": "rgb", "extratags": [(274, "H", 1, turn, True)]}, None) for turn in (3, 6)),
        ((16, 16, 3), {"photometric": "rgb", "byteorder": ">"}, None),
        ((16, 16, 3), {"photometric": "rgb", "bigtiff": True}, None),
    ],
)
def test_8_bit_tiffs_of_1_3_or_4_bands_give_their_stored_values(
    shape: tuple[int, ...], options: dict[str, Any], named: str | None
) -> None:
    data = tiff_bytes(*shape, **options)
    tile = decode_tile(data, "tile")
    expected = np.random.default_rng(0).integers(0, 100, shape).astype(np.uint8)
    expected = np.moveaxis(expected, 0, -1) if shape[0] in (3, 4) else expected
    expected = np.stack([expected] * 3, axis=-1) if expected.ndim == 2 else expected[..., :3]
    assert tile.converted_from == named
    assert np.array_equal(tile.pixels, expected)


def without_adobe_marker(data: bytes) -> bytes:
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]


def os2_bmp() -> bytes:
    rows = bytes(3 * 4 * 4)
    return b"BM" + struct.pack("<IHHIIHHHH", 26 + len(rows), 0, 0, 26, 12, 4, 4, 1, 24) + rows


def gif_with(offset: int, value: int) -> bytes:
    data = bytearray(image_bytes(noise_image(5, mode="P"), "GIF"))
    data[offset] = value
    return bytes(data)


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
        (png_bytes(bits=8, color=2, num_bands=3, edge_px=30000), "30000x30000 px"),
        (tiff_bytes(4100, 4100, photometric="minisblack"), "4100x4100 px"),
        (image_bytes(Image.new("RGB", (5000, 5000)), "JPEG"), "5000x5000 px"),
        (image_bytes(Image.new("RGB", (5000, 5000)), "WEBP", lossless=True), "5000x5000 px"),
        (without_adobe_marker(image_bytes(noise_image(5, mode="CMYK"), "JPEG")), "Adobe"),
        (image_bytes(noise_image(5, mode="P"), "BMP"), "BMP with a palette"),
        (image_bytes(noise_image(5, mode="1"), "BMP"), "BMP of 1 bits"),
        (os2_bmp(), "OS/2"),
        (
            image_bytes(noise_image(5, mode="P"), "GIF", transparency=noise_image(5, mode="P").getpixel((3, 3))),
            "transparent",
        ),
        (gif_with(6, 40), "does not cover"),
        (image_bytes(noise_image(5), "GIF", save_all=True, append_images=[noise_image(6)]), "2 images"),
        (tiff_bytes(8, 8, 3, photometric="rgb", bigtiff=True, byteorder=">"), "big-endian"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000 image"),
        (b"\0\0\0\x20ftypavif" + bytes(40), "AVIF image"),
    ],
)
def test_images_of_another_kind_than_satx_uses_are_refused_with_the_reason(data: bytes, named: str) -> None:
    kind, reason = refusal(data)
    assert (kind, named in reason, reason) == ("refused", True, reason)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated_files_are_broken(kind: str, share: float) -> None:
    data = image_bytes(noise_image(3, size_px=64), kind)
    assert refusal(data[: int(len(data) * share)])[0] == "broken"


def flipped(data: bytes, *, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0x55
    return bytes(changed)


JPEG_DATA = image_bytes(noise_image(3, size_px=64), "JPEG")
PNG_DATA = image_bytes(noise_image(3, size_px=64))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"<!DOCTYPE html>",
        b"GIF89a" + bytes(20),
        b"II*\0" + bytes(30),
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBP",
        PNG_DATA[:-12],
        PNG_DATA[:-4],
        flipped(PNG_DATA, at=len(PNG_DATA) - 14),
        flipped(PNG_DATA, at=len(PNG_DATA) // 2),
        flipped(PNG_DATA, at=29),
        JPEG_DATA[:-2],
        JPEG_DATA[:-1],
        JPEG_DATA[: len(JPEG_DATA) // 2] + bytes(40) + JPEG_DATA[len(JPEG_DATA) // 2 + 40 :],
        image_bytes(noise_image(3, mode="P"), "GIF")[:-1] + b"\x21\xfe\0;",
        image_bytes(noise_image(3), "BMP") + b"more",
        image_bytes(noise_image(3), "BMP")[:-1],
    ],
)
def test_damaged_files_are_broken_even_where_a_decoder_would_guess(data: bytes) -> None:
    assert refusal(data)[0] == "broken"


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(*chunks: bytes) -> bytes:
    return PNG_DATA[:8] + b"".join(chunks)


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
INDEXED = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0))
ROWS = (b"\0" + bytes(12)) * 4
DATA, END, PALETTE = chunk(b"IDAT", zlib.compress(ROWS)), chunk(b"IEND"), chunk(b"PLTE", bytes(3))


@pytest.mark.parametrize(
    "chunks",
    [
        (HEADER, chunk(b"IDAT", zlib.compress(ROWS[:-13])), END),
        (HEADER, chunk(b"IDAT", zlib.compress(ROWS)[:-4]), END),
        (HEADER, chunk(b"IDAT", zlib.compress(ROWS)[:-1]), END),
        (HEADER, chunk(b"IDAT", zlib.compress(ROWS + bytes(10**6))), END),
        (HEADER, chunk(b"ABCD"), DATA, END),
        (HEADER, DATA, chunk(b"ABCD"), END),
        (HEADER, DATA, chunk(b"a1bc"), END),
        (HEADER, HEADER, DATA, END),
        (chunk(b"tEXt", b"a\0b"), HEADER, DATA, END),
        (chunk(b"IHDR", struct.pack(">IIBBBBBB", 4, 4, 8, 2, 0, 0, 0, 0)), DATA, END),
        (chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 1, 0, 0)), DATA, END),
        (chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 5, 0, 0, 0)), DATA, END),
        (INDEXED, chunk(b"IDAT", zlib.compress(bytes(20))), END),
        (INDEXED, chunk(b"IDAT", zlib.compress(bytes(20))), PALETTE, END),
        (INDEXED, PALETTE, PALETTE, chunk(b"IDAT", zlib.compress(bytes(20))), END),
        (HEADER, DATA, chunk(b"tEXt", b"a\0b"), DATA, END),
        (HEADER, END),
    ],
)
def test_a_png_that_libpng_refuses_is_broken(chunks: tuple[bytes, ...]) -> None:
    assert decode_tile(png_of(HEADER, DATA, END), "tile").pixels.shape == (4, 4, 3)
    assert refusal(png_of(*chunks))[0] == "broken"


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000))),
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(5_000_000))),
        chunk(b"acTL", bytes(8)),
        chunk(b"gAMA", b"\0"),
        chunk(b"eXIf", b"MM"),
    ],
)
def test_metadata_of_a_png_is_ignored_as_in_serving(extra: bytes) -> None:
    tile = decode_tile(png_of(HEADER, extra, DATA, END), "tile")
    assert not tile.has_more_images and not tile.pixels.any()


def scans_of(data: bytes) -> list[int]:
    """Return where each scan of a JPEG begins."""
    return [place for place in range(len(data) - 1) if data[place : place + 2] == b"\xff\xda"]


def test_a_progressive_jpeg_without_its_last_scans_is_broken() -> None:
    data = image_bytes(noise_image(3, size_px=64), "JPEG", progressive=True)
    assert decode_tile(data, "tile").pixels.shape == (64, 64, 3)
    assert len(scans_of(data)) > 5
    for start in scans_of(data):
        assert refusal(data[:start] + b"\xff\xd9")[0] == "broken"


@pytest.mark.parametrize("num_bytes", [0, 2, 6])
def test_a_cmyk_jpeg_whose_adobe_marker_is_too_short_for_libjpeg_is_refused(num_bytes: int) -> None:
    data = image_bytes(noise_image(5, mode="CMYK"), "JPEG")
    start = data.index(b"\xff\xee")
    marker = b"\xff\xee" + (7 + num_bytes).to_bytes(2) + b"Adobe" + bytes(num_bytes)
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
    assert refusal(data[:start] + marker + data[end:]) == (
        "refused",
        "CMYK JPEG without Adobe's marker; convert it to RGB",
    )


# One plain block, written by libjpeg with sampling factors that simplejpeg does not read (3x1), and with some that it does (1x4).
SAMPLED_3X1 = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i"
    "Z2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2P/wAARCAAIAAgDATEAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAT/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QA"
    "FQEBAQAAAAAAAAAAAAAAAAAAAwT/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oADAMBAAIRAxEAPwCMEYn/2Q=="
)
SAMPLED_1X4 = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i"
    "Z2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2P/wAARCAAIAAgDARQAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAT/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QA"
    "FQEBAQAAAAAAAAAAAAAAAAAAAwT/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oADAMBAAIRAxEAPwCMBGJ//9k="
)


def test_a_jpeg_with_unusual_subsampling_is_refused_and_not_called_damaged() -> None:
    assert decode_tile(base64.b64decode(SAMPLED_1X4), "tile").pixels.shape == (8, 8, 3)
    kind, reason = refusal(base64.b64decode(SAMPLED_3X1))
    assert (kind, "subsampling" in reason) == ("refused", True), reason


def tiff_with(tag: str, value: Any, **options: Any) -> bytes:
    stream = io.BytesIO(tiff_bytes(64, 64, 3, photometric="rgb", **options))
    with tifffile.TiffFile(stream, mode="r+b") as tiff:
        tiff.pages.first.tags[tag].overwrite(value)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        tiff_with("RowsPerStrip", 8),
        tiff_with("StripByteCounts", 100),
        tiff_with("StripByteCounts", 10**6),
        tiff_with("StripOffsets", 10**6),
        tiff_with("TileOffsets", (400,), tile=(32, 32)),
        tiff_with("TileLength", 16, tile=(32, 32)),
        tiff_with("StripOffsets", (300,), rowsperstrip=16),
    ],
)
def test_a_tiff_of_which_a_part_is_missing_is_broken(data: bytes) -> None:
    assert refusal(data)[0] == "broken"


def test_a_tiff_with_damaged_jpeg_data_is_broken() -> None:
    data = image_bytes(noise_image(1, size_px=64), "TIFF", compression="jpeg")
    assert decode_tile(data, "tile").pixels.shape == (64, 64, 3)
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        (offset,), (length,) = tiff.pages.first.dataoffsets, tiff.pages.first.databytecounts
    middle = offset + length // 2
    for damaged in (
        data[:middle] + bytes(length // 2) + data[middle + length // 2 :],
        data[:middle] + b"\xff\xd9" + data[middle + 2 :],
    ):
        assert refusal(damaged)[0] == "broken"


def test_a_gif_with_a_color_outside_its_table_is_broken() -> None:
    data = image_bytes(noise_image(5, mode="P"), "GIF")
    assert data[10] == 0x87  # 256 colors
    kind, reason = refusal(data[:10] + b"\x86" + data[11 : 13 + 3 * 128] + data[13 + 3 * 256 :])
    assert (kind, "not among its 128" in reason) == ("broken", True), reason


def test_a_bmp_whose_palette_is_black_and_white_is_refused() -> None:
    data = bytearray(image_bytes(noise_image(5, mode="L"), "BMP"))
    data[46:50] = (2).to_bytes(4, "little")
    data[54:62] = b"\0\0\0\0\xff\xff\xff\0"
    assert "BMP with a palette" in refusal(bytes(data))[1]


def test_memory_that_libjpeg_lacks_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("Insufficient memory (case 4)")

    monkeypatch.setattr("satx.tiles.decode.simplejpeg.decode_jpeg", fail)
    with pytest.raises(MemoryError):
        decode_tile(JPEG_DATA, "tile")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_of_several_images_in_a_file_the_first_is_read(kind: str) -> None:
    first, second = noise_image(6), noise_image(7)
    options = LOSSLESS.get(kind, {}) | {"save_all": True, "append_images": [second]}
    tile = decode_tile(image_bytes(first, kind, **options), "tile")
    assert tile.has_more_images
    assert np.array_equal(tile.pixels, np.asarray(first.convert("RGB")))


def test_overviews_of_a_tiff_are_no_further_images() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8), photometric="rgb")
        writer.write(np.zeros((32, 32, 3), np.uint8), photometric="rgb", subfiletype=1)
    assert not decode_tile(stream.getvalue(), "tile").has_more_images


def test_a_small_tiff_with_a_huge_internal_tile_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    edge_px = 16384
    compressor = zlib.compressobj(9)
    block = b"".join(
        [*(compressor.compress(bytes(2**24)) for _ in range(edge_px * edge_px * 4 // 2**24)), compressor.flush()]
    )
    stream = io.BytesIO()
    tifffile.imwrite(stream, iter([block]), shape=(64, 64, 4), dtype="uint8", photometric="rgb", compression="zlib",
                     tile=(edge_px, edge_px), extrasamples=["unspecified"])  # fmt: skip
    (tmp_path / "tile.tif").write_bytes(stream.getvalue())
    code = """
import resource, sys
from pathlib import Path
from satx.tiles.decode import decode_tile
from satx.tiles.formats import BrokenTile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_tile(Path(sys.argv[1]).read_bytes(), "tile")
except BrokenTile as refused:
    print(refused)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "tile.tif")]
    reason, grown_mb = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "16384x16384 px" in reason
    assert int(grown_mb) < 50


def test_a_file_far_larger_than_a_tile_and_a_pipe_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 1)  # sparse: it occupies no disk space
    os.mkfifo(tmp_path / "pipe.png")
    for name, kind in (("0.png", "refused"), ("pipe.png", "broken")):
        with pytest.raises(BrokenTile) as error:
            read_tile(tmp_path / name)
        assert error.value.kind == kind


@given(width_px=st.integers(1, 40), height_px=st.integers(1, 40), size_px=st.integers(1, 40))
def test_resizing_gives_a_square_and_keeps_a_plain_color(width_px: int, height_px: int, size_px: int) -> None:
    image = np.full((height_px, width_px, 3), (1, 128, 255), np.uint8)
    pixels = resize_tile(image, size_px)
    assert (pixels.shape, pixels.dtype) == ((size_px, size_px, 3), np.uint8)
    assert (pixels == (1, 128, 255)).all()


@given(edge_px=st.integers(1, 60), size_px=st.integers(1, 60), seed=st.integers(0, 99))
def test_square_images_are_resized_horizontally_first_as_others_are(edge_px: int, size_px: int, seed: int) -> None:
    image = noise_image(seed, size_px=edge_px)
    bilinear = Image.Resampling.BILINEAR
    expected = image.resize((size_px, edge_px), bilinear).resize((size_px, size_px), bilinear)
    assert np.array_equal(resize_tile(np.asarray(image), size_px), np.asarray(expected))
