"""Decode the bytes of one file to RGB pixels and resize them; independent of folders, splits and stores.

The exported graph decodes files with TensorFlow and must see the same pixels. Therefore alpha is dropped, not blended;
orientation tags and color profiles are ignored; and resizing is bilinear with antialiasing. Files that are damaged are
refused, even where a decoder could guess the missing part.
"""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

# By default, Pillow imports its formats on first use, which several threads must not do at once.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from satx.tiles.formats import (
    GIF,
    HEAD_BYTES,
    JPEG,
    READ_FORMATS,
    TIFF,
    BrokenTile,
    check_container,
    image_format,
    num_gif_colors,
)
from satx.tiles.tiff import PlainTiff, plain_tiff

MAX_PIXELS = 4096 * 4096  # a larger image is not a tile, and could be a decompression bomb
MAX_FILE_BYTES = 4 * MAX_PIXELS + 1024**2  # an uncompressed image of four bands and its tags

_PLUGINS = (
    *(BmpImagePlugin.BmpImageFile, GifImagePlugin.GifImageFile, JpegImagePlugin.JpegImageFile),
    *(PngImagePlugin.PngImageFile, TiffImagePlugin.TiffImageFile, WebPImagePlugin.WebPImageFile),
)
_PILLOW_FORMATS = tuple(plugin.format for plugin in _PLUGINS)
_CONVERTED_MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with alpha, alpha dropped",
    "P": "palette",
    "PA": "palette with alpha, alpha dropped",
    "RGBA": "RGB with alpha, alpha dropped",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
}
_FOUR_BANDS = "four bands, the fourth dropped"
# Exceptions that the decoders raise on malformed files. Their parsers do not check all bytes before they compute with
# them, so malformed values surface as errors of arithmetic, lookups and types too.
_READING = (OSError, EOFError, struct.error, zlib.error, UserWarning)
_MALFORMED = (*_READING, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, NotImplementedError)

# Pillow warns of some damage and continues. As errors, its warnings refuse the file. `catch_warnings` around each call
# would not do, because it is not safe in threads.
warnings.filterwarnings("error", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class DecodedTile:
    """One image in RGB.

    Attributes:
        pixels: (H, W, 3) uint8, in its original size.
        format: One of `READ_FORMATS`.
        converted_from: Description of the file's original mode, or None if it was RGB already.
        has_more_images: Whether the file holds more frames or pages; the first is the tile.
    """

    pixels: np.ndarray
    format: str
    converted_from: str | None
    has_more_images: bool


def read_tile(path: Path) -> bytes:
    """Read a whole file, unless it is far larger than any tile.

    Raises:
        BrokenTile: The file is too large, cannot be read, or is a pipe or device, of which reading may never end.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BrokenTile("broken", "not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise BrokenTile(
                "refused", f"{status.st_size / 1e6:.0f} MB; expected at most {MAX_FILE_BYTES / 1e6:.0f} MB"
            )
        return path.read_bytes()
    except OSError as error:
        raise BrokenTile("broken", f"cannot be read ({error.strerror})") from error


def decode_tile(data: bytes, relative: str) -> DecodedTile:
    """Decode one image file to RGB.

    Args:
        data: The file's bytes, in one of `READ_FORMATS`, regardless of the file extension.
        relative: Its name, for the TIFF reader's log messages.

    Returns:
        The image; the first if there are several frames or pages.

    Raises:
        BrokenTile: The bytes are not a complete and undamaged image; or the image has more than 8 bits per band,
            unsupported bands, too many pixels, or is of a kind that the exported graph decodes to other pixels.
    """
    found = image_format(data[:HEAD_BYTES])
    if found not in READ_FORMATS:
        raise _not_read(data, found)
    try:
        if found == JPEG:
            return _decode_jpeg(data)
        check_container(data, found)
        return _decode_tiff(data, relative) if found == TIFF else _decode_by_pillow(data, found)
    except BrokenTile:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenTile("refused", _brief(error)) from error
    except UnidentifiedImageError as error:
        raise BrokenTile("broken", f"damaged {found}: its header cannot be read") from error
    except _MALFORMED as error:
        raise BrokenTile("broken", f"damaged {found}: {_brief(error)}") from error


def pixel_digest(pixels: np.ndarray) -> str:
    """Return the SHA-256 of an image's size and pixels, (H, W, 3) uint8: the same for one picture in any lossless file."""
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def resize_tile(pixels: np.ndarray, image_size_px: int) -> np.ndarray:
    """Resize to a square, as serving does with `tf.image.resize(method="bilinear", antialias=True)`.

    An image that is not square is stretched, as in serving; nothing is cropped or padded.

    Args:
        pixels: (H, W, 3) uint8.
        image_size_px: Edge of the result.

    Returns:
        The pixels, (S, S, 3) uint8.
    """
    if pixels.shape[:2] == (image_size_px, image_size_px):
        return pixels
    image = Image.fromarray(pixels)
    # Resize horizontally first, then vertically. In a single call Pillow's order depends on its version and the image's
    # shape, and the order matters because Pillow rounds between the two passes.
    for size in ((image_size_px, image.height), (image_size_px, image_size_px)):
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=None)
    return np.asarray(image)  # (S, S, 3) uint8


def _decode_jpeg(data: bytes) -> DecodedTile:
    """Decode with libjpeg-turbo, which TensorFlow and Pillow use too; its strict mode refuses damaged files."""
    height_px, width_px, colors, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(width_px, height_px)
    if colors not in ("CMYK", "YCCK"):
        return DecodedTile(simplejpeg.decode_jpeg(data), JPEG, "grey" if colors == "Gray" else None, False)
    # Whether 0 means no ink or full ink is told by Adobe's marker alone; without it, decoders disagree.
    if "adobe" not in Image.open(io.BytesIO(data), formats=[JPEG]).info:
        raise BrokenTile("refused", "CMYK JPEG without Adobe's marker; convert it to RGB")
    inks = 255 - simplejpeg.decode_jpeg(data, "CMYK")  # (H, W, 4) uint8
    pixels, converted_from = _in_rgb(Image.frombytes("CMYK", (width_px, height_px), inks.tobytes()))
    return DecodedTile(pixels, JPEG, converted_from, False)


def _decode_tiff(data: bytes, relative: str) -> DecodedTile:
    tiff: PlainTiff = plain_tiff(data, relative)
    for size_px in tiff.sizes_px:
        _check_size(*size_px)
    image = Image.open(io.BytesIO(tiff.data), formats=[TIFF])
    image.load()
    pixels, converted_from = _in_rgb(image)
    # CMYK has four bands too, but none is dropped.
    is_rgb = image.mode in ("RGB", "RGBA")
    named = _FOUR_BANDS if is_rgb and tiff.num_bands == 4 else converted_from
    return DecodedTile(pixels, TIFF, named, tiff.has_more_images)


def _decode_by_pillow(data: bytes, found: str) -> DecodedTile:
    num_colors = num_gif_colors(data) if found == GIF else None
    image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    _check_size(*image.size)
    image.load()
    if num_colors is not None:
        _check_gif(image, num_colors)
    pixels, converted_from = _in_rgb(image)
    return DecodedTile(pixels, found, converted_from, getattr(image, "is_animated", False))


def _check_gif(image: Image.Image, num_colors: int) -> None:
    """Refuse what TensorFlow paints black and Pillow does not: transparent pixels, and those outside the first frame."""
    if getattr(image, "dispose_extent", None) != (0, 0, *image.size):
        raise BrokenTile("refused", "GIF whose first frame does not cover the image; convert it to PNG")
    indices = np.asarray(image)
    if indices.max() >= num_colors:
        raise BrokenTile("broken", f"damaged GIF: color {indices.max()} is not among its {num_colors}")
    transparent = image.info.get("transparency")
    if transparent is not None and (indices == transparent).any():
        raise BrokenTile("refused", "GIF with transparent pixels; convert it to PNG")


def _in_rgb(image: Image.Image) -> tuple[np.ndarray, str | None]:
    """Return the pixels, (H, W, 3) uint8, and the description of the original mode; None if it is RGB."""
    if image.mode == "RGB":
        return np.asarray(image), None
    if image.mode not in _CONVERTED_MODES:
        raise BrokenTile("refused", f"mode {image.mode}; expected 8-bit RGB, or grey, palette, RGBA or CMYK to convert")
    if image.format == "BMP" and image.mode in ("1", "P"):
        raise BrokenTile("refused", "BMP with a palette; convert it to PNG, or to a BMP of 24 bits per pixel")
    # Convert through RGBA: Pillow warns if a palette with several transparent entries is converted directly to RGB.
    flat = image.convert("RGBA") if image.mode in ("P", "PA") else image
    return np.asarray(flat.convert("RGB")), _CONVERTED_MODES[image.mode]


def _not_read(data: bytes, found: str | None) -> BrokenTile:
    if not data:
        return BrokenTile("broken", "empty file")
    read = f"{', '.join(READ_FORMATS[:-1])} and {READ_FORMATS[-1]}"
    if found is None:
        return BrokenTile("broken", f"not an image that satx reads ({read}): it begins with {data[:12]!r}")
    return BrokenTile("refused", f"{found} image; satx reads {read}, so convert it")


def _check_size(width_px: int, height_px: int) -> None:
    if width_px < 1 or height_px < 1:
        raise BrokenTile("broken", f"{width_px}x{height_px} px; expected at least 1x1 px")
    if width_px * height_px > MAX_PIXELS:
        raise BrokenTile("refused", f"{width_px}x{height_px} px; expected at most {MAX_PIXELS:,} pixels")


def _brief(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__
