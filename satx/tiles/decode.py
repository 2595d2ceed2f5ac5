"""Decode the bytes of one file to one RGB image and resize it; independent of folders, splits and stores.

Serving decodes in its own graph and must see the same pixels. Therefore alpha is dropped, not blended, as in
TensorFlow's decoders; orientation tags and color profiles are ignored, as they are there; and resizing is bilinear with
antialiasing.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

# By default, Pillow imports its formats on first use, which several threads must not do at once.
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

MAX_PIXELS = 4096 * 4096  # a larger image is not a tile, and could be a decompression bomb
MAX_FILE_BYTES = 256 * 1024**2

_FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        TiffImagePlugin.TiffImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)
_CONVERTED_MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with alpha, alpha dropped",
    "P": "palette",
    "PA": "palette with alpha, alpha dropped",
    "RGBA": "RGB with alpha, alpha dropped",
    "RGBX": "four bands, the fourth dropped",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # byte offset of the bits per sample in a PNG's first chunk
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Exceptions that Pillow and tifffile raise on malformed files. Their parsers do not check all bytes before they compute
# with them, so malformed values surface as errors of arithmetic, lookups and types too.
_READING = (OSError, EOFError, struct.error, zlib.error)
_MALFORMED = (*_READING, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, NotImplementedError)


class BrokenTile(ValueError):
    """A file that cannot be used as a tile; it is listed in the report and left out.

    Attributes:
        kind: "broken" (unreadable, truncated, not an image) or "refused" (intact, but neither 8-bit RGB nor convertible
            to it).
    """

    def __init__(self, kind: str, reason: str) -> None:
        """Store the kind and the message."""
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class DecodedTile:
    """One image in RGB.

    Attributes:
        image: Image in mode RGB, in its original size.
        converted_from: Description of the file's original mode, or None if it was RGB already.
    """

    image: Image.Image
    converted_from: str | None


def read_tile(path: Path) -> bytes:
    """Read a whole file, unless it is far larger than any tile.

    Raises:
        BrokenTile: The file is too large or cannot be read.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise BrokenTile("refused", f"{size_bytes / 1e6:.0f} MB; expected at most {MAX_FILE_BYTES / 1e6:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise BrokenTile("broken", f"cannot be read ({error.strerror})") from error


def decode_tile(data: bytes, relative: str) -> DecodedTile:
    """Decode one image file to RGB.

    Args:
        data: The file's bytes: JPEG, PNG, WebP or TIFF, regardless of the file extension.
        relative: Its name, for the TIFF reader's log messages.

    Returns:
        The image; the first if there are several frames or pages.

    Raises:
        BrokenTile: The bytes are not a complete image, or the image has more than 8 bits per band, unsupported bands,
            or too many pixels.
    """
    if not data:
        raise BrokenTile("broken", "empty file")
    if data.startswith(_PNG_SIGNATURE) and data[_PNG_BIT_DEPTH : _PNG_BIT_DEPTH + 1] == b"\x10":
        # Pillow would silently keep only the upper byte of color samples, but all 16 bits of grey ones.
        raise BrokenTile("refused", "16-bit PNG; convert it to 8 bits per band")
    num_bands = _bands_of_tiff(data, relative) if data.startswith(_TIFF_SIGNATURES) else None
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        _check_size(*image.size)
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenTile("refused", _brief(error)) from error
    except UnidentifiedImageError as error:
        if num_bands is None:
            raise BrokenTile("broken", "not a JPEG, PNG, WebP or TIFF image") from error
        image = _image_by_tifffile(data, relative)
    except BrokenTile:
        raise
    except _MALFORMED as error:
        raise BrokenTile("broken", _brief(error)) from error
    return _in_rgb(image, num_bands)


def resize_tile(image: Image.Image, image_size_px: int) -> np.ndarray:
    """Resize to a square, as serving does with `tf.image.resize(method="bilinear", antialias=True)`.

    An image that is not square is stretched, as in serving; nothing is cropped or padded.

    Args:
        image: Image in mode RGB.
        image_size_px: Edge of the result.

    Returns:
        The pixels, (S, S, 3) uint8.
    """
    # Resize horizontally first, then vertically. In a single call Pillow's order depends on its version and the image's
    # shape, and the order matters because Pillow rounds between the two passes.
    for size in ((image_size_px, image.height), (image_size_px, image_size_px)):
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=None)
    return np.asarray(image)  # (S, S, 3) uint8


def _bands_of_tiff(data: bytes, relative: str) -> int:
    """Return the number of bands of the first page; raise an error unless it has 1, 3 or 4 bands of 8 bits each."""
    try:
        with tifffile.TiffFile(io.BytesIO(data), name=relative) as tiff:
            page = tiff.pages.first
            dtype, num_bits, num_bands = page.dtype, page.bitspersample, int(page.samplesperpixel)
            _check_size(page.imagewidth, page.imagelength)
    except BrokenTile:
        raise
    except _MALFORMED as error:
        raise BrokenTile("broken", _brief(error)) from error
    if dtype != np.uint8 or num_bits != 8 or num_bands not in (1, 3, 4):
        found = f"TIFF of {num_bands} band{'s' * (num_bands != 1)} in {dtype} of {num_bits} bits"
        raise BrokenTile("refused", f"{found}; expected 8-bit unsigned with 1, 3 or 4 bands, so convert it")
    return num_bands


def _image_by_tifffile(data: bytes, relative: str) -> Image.Image:
    """Read a TIFF whose bands Pillow has no mode for, such as four bands without a color interpretation."""
    try:
        with tifffile.TiffFile(io.BytesIO(data), name=relative) as tiff:
            page = tiff.pages.first
            if page.axes not in ("YX", "YXS", "SYX"):
                raise BrokenTile("refused", f"TIFF with the axes {page.axes}; expected YX, YXS or SYX")
            pixels = page.asarray()  # (H, W, B), (B, H, W) or (H, W) uint8
            if page.axes == "SYX":
                pixels = np.moveaxis(pixels, 0, -1)  # (H, W, B) uint8
        plain = pixels if pixels.ndim == 2 else pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
        return Image.fromarray(np.ascontiguousarray(plain))
    except BrokenTile:
        raise
    except _MALFORMED as error:
        raise BrokenTile("broken", _brief(error)) from error


def _in_rgb(image: Image.Image, num_bands: int | None) -> DecodedTile:
    if image.mode == "RGB":
        return DecodedTile(image, _CONVERTED_MODES["RGBX"] if num_bands == 4 else None)
    if image.mode not in _CONVERTED_MODES:
        raise BrokenTile("refused", f"mode {image.mode}; expected 8-bit RGB, or grey, palette, RGBA or CMYK to convert")
    # Convert through RGBA: Pillow warns if a palette with several transparent entries is converted directly to RGB.
    flat = image.convert("RGBA") if image.mode in ("P", "PA") else image
    return DecodedTile(flat.convert("RGB"), _CONVERTED_MODES[image.mode])


def _check_size(width_px: int, height_px: int) -> None:
    if width_px < 1 or height_px < 1:
        raise BrokenTile("broken", f"{width_px}x{height_px} px; expected at least 1x1 px")
    if width_px * height_px > MAX_PIXELS:
        raise BrokenTile("refused", f"{width_px}x{height_px} px; expected at most {MAX_PIXELS:,} pixels")


def _brief(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__
