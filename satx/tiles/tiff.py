"""Read the tags of an 8-bit TIFF, and neutralize those that make Pillow change the stored pixels."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from itertools import islice

import numpy as np
import simplejpeg
import tifffile

from satx.tiles.formats import BrokenTile, check_size

_GREY_PHOTOMETRICS = (0, 1)  # bands without a color interpretation, if there are 3 or 4
_RGB, _YCBCR, _UNASSOCIATED_ALPHA, _UPRIGHT, _SEPARATE = 2, 6, 2, 1, 2
_UNCOMPRESSED, _JPEG = 1, 7  # compressions
_UNUSED_TAG = 337  # TargetPrinter, which no reader of pixels uses; next to ExtraSamples, so tags stay sorted

_BIG_ENDIAN_BIGTIFF = b"MM\0+"
_MAX_PAGES = 32  # enough for all overviews of an image; a malformed file can have millions


@dataclass(frozen=True)
class PlainTiff:
    """A TIFF in memory that Pillow decodes to the stored pixels.

    Attributes:
        data: The file's bytes, with changed tags.
        num_bands: 1, 3 or 4.
        has_more_images: Whether it has more pages than one, overviews and masks aside.
    """

    data: bytes
    num_bands: int
    has_more_images: bool


def plain_tiff(data: bytes, relative: str) -> PlainTiff:
    """Return a TIFF that Pillow decodes to its stored pixels, without decoding it.

    Pillow would turn the image by its orientation, which serving ignores; divide the bands by an associated alpha; and
    refuse 3 or 4 bands without a color interpretation.

    Args:
        data: The file's bytes.
        relative: Its name, for the TIFF reader's log messages.

    Raises:
        BrokenTile: It does not have 1, 3 or 4 bands of 8 bits each, Pillow cannot read its variant, it is too large, or
            a part of its pixels is missing or damaged.
        Exception: Any of the exceptions that tifffile raises for malformed files.
    """
    if data.startswith(_BIG_ENDIAN_BIGTIFF):
        raise BrokenTile("refused", "BigTIFF in big-endian byte order, which Pillow cannot read; convert it to TIFF")
    stream = io.BytesIO(data)
    with tifffile.TiffFile(stream, name=relative, mode="r+b") as tiff:
        page = tiff.pages.first
        num_bands = int(page.samplesperpixel)
        _check_bands(page, num_bands)
        check_size(page.imagewidth, page.imagelength)
        if page.is_tiled:
            check_size(page.tilewidth, page.tilelength, of="internal tiles of ")
        _check_segments(page, data)
        others = islice(tiff.pages, 1, _MAX_PAGES)
        has_more_images = any(not other.is_reduced and not other.is_mask for other in others)
        _neutralize(tiff, page, stream, num_bands)
    return PlainTiff(stream.getvalue(), num_bands, has_more_images)


def _check_bands(page: tifffile.TiffPage, num_bands: int) -> None:
    if page.dtype != np.uint8 or page.bitspersample != 8 or num_bands not in (1, 3, 4):
        found = f"TIFF of {num_bands} band{'s' * (num_bands != 1)} in {page.dtype} of {page.bitspersample} bits"
        raise BrokenTile("refused", f"{found}; expected 8-bit unsigned with 1, 3 or 4 bands, so convert it")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise BrokenTile("refused", f"TIFF with the axes {page.axes}; expected YX, YXS or SYX, so convert it")


def _check_segments(page: tifffile.TiffPage, data: bytes) -> None:
    """Check that every strip or tile is there. Pillow and libtiff leave black what is missing, and repair JPEG data."""
    planes = int(page.samplesperpixel) if page.planarconfig == _SEPARATE else 1
    if page.is_tiled:
        rows, width = int(page.tilelength), int(page.tilewidth)
        num_down, num_across = -(-page.imagelength // rows), -(-page.imagewidth // width)
    else:
        rows, width = min(int(page.rowsperstrip), page.imagelength), page.imagewidth
        num_down, num_across = -(-page.imagelength // rows), 1
    offsets, lengths = page.dataoffsets, page.databytecounts
    if not len(offsets) == len(lengths) == num_down * num_across * planes:
        raise BrokenTile("broken", f"damaged TIFF: expected {num_down * num_across * planes} parts, got {len(offsets)}")
    if page.photometric == _YCBCR and page.compression == _UNCOMPRESSED and tuple(page.subsampling or (2, 2)) != (1, 1):
        raise BrokenTile("refused", "TIFF of uncompressed YCbCr with subsampling; convert it to RGB")
    row_bytes = width * (int(page.samplesperpixel) // planes)
    for number, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        segment = data[offset : offset + length]
        left = page.imagelength - number % num_down * rows
        needed = row_bytes * (rows if page.is_tiled else min(rows, left)) if page.compression == _UNCOMPRESSED else 1
        if len(segment) != length or length < needed:
            raise BrokenTile("broken", "truncated TIFF: a part of its pixels is missing")
        if page.compression == _JPEG:
            tables = bytes(page.jpegtables or b"\xff\xd8\xff\xd9")
            simplejpeg.decode_jpeg(tables[:-2] + segment[2:], "GRAY")  # raises if it is damaged


def _neutralize(tiff: tifffile.TiffFile, page: tifffile.TiffPage, stream: io.BytesIO, num_bands: int) -> None:
    tags = page.tags
    if "Orientation" in tags:
        tags["Orientation"].overwrite(_UPRIGHT)
    if num_bands >= 3 and int(page.photometric) in _GREY_PHOTOMETRICS:
        tags["PhotometricInterpretation"].overwrite(_RGB)
    if "ExtraSamples" in tags and num_bands == 4:
        tags["ExtraSamples"].overwrite(_UNASSOCIATED_ALPHA)
    elif "ExtraSamples" in tags:  # three bands, of which two are declared as extra
        stream.seek(tags["ExtraSamples"].offset)
        stream.write(struct.pack(f"{tiff.byteorder}H", _UNUSED_TAG))
