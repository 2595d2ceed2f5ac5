"""Decode the bytes of one file to RGB pixels and resize them; independent of folders, splits and stores.

The exported graph decodes files with TensorFlow and must see the same pixels. Therefore alpha is dropped, not blended;
orientation tags and color profiles are ignored; and resizing is bilinear with antialiasing. Files that are damaged are
refused, even where a decoder could guess the missing part.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from blake3 import blake3

# By default, Pillow imports its formats on first use, which several threads must not do at once.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from satx.tiles.formats import (
    BMP,
    GIF,
    HEAD_BYTES,
    JPEG,
    MAX_PIXELS,
    PNG,
    READ_FORMATS,
    TIFF,
    WEBP,
    BrokenTile,
    check_bmp,
    check_size,
    image_format,
    num_gif_colors,
)
from satx.tiles.jpeg import read_jpeg_header
from satx.tiles.png import plain_png
from satx.tiles.tiff import plain_tiff

MAX_FILE_BYTES = 8 * MAX_PIXELS  # an uncompressed image of four bands, with its overviews and tags

_PILLOW_FORMATS = {
    BMP: BmpImagePlugin.BmpImageFile.format,
    GIF: GifImagePlugin.GifImageFile.format,
    PNG: PngImagePlugin.PngImageFile.format,
    TIFF: TiffImagePlugin.TiffImageFile.format,
    WEBP: WebPImagePlugin.WebPImageFile.format,
}
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
# Exceptions that the decoders raise on malformed files. Pillow raises SyntaxError for a header that it cannot read, and
# tifffile NotImplementedError for an unknown compression. Their parsers do not check all bytes before they compute with
# them, so malformed values surface as errors of arithmetic, lookups and types too.
_MALFORMED = (
    *(OSError, EOFError, struct.error, zlib.error, UserWarning),
    *(SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, NotImplementedError),
)
_OUT_OF_MEMORY = ("Insufficient memory", "decoder error -9")  # of libjpeg and of Pillow, in other exceptions

# Pillow warns of some damage and continues. As errors, its warnings refuse the file. `catch_warnings` around each call
# would not do, because it is not safe in threads.
warnings.filterwarnings("error", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class DecodedTile:
    """One image in RGB.

    Attributes:
        pixels: (H, W, 3) uint8, in its original size.
        converted_from: Description of the file's original mode, or None if it was RGB already.
        format: One of `READ_FORMATS`.
        has_more_images: Whether the file holds more frames or pages; the first is the tile.
    """

    pixels: np.ndarray
    converted_from: str | None
    format: str
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
    if found is None or found not in READ_FORMATS:
        raise _not_read(data, found)
    try:
        return _DECODERS[found](data, relative)
    except BrokenTile:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenTile("refused", f"more pixels than a tile has; expected at most {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise BrokenTile("broken", f"damaged {found}: its header cannot be read") from error
    except _MALFORMED as error:
        if any(reason in str(error) for reason in _OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        raise BrokenTile("broken", f"damaged {found}: {_brief(error)}") from error


def pixel_digest(pixels: np.ndarray) -> str:
    """Return the BLAKE3 digest of an image's size and pixels, (H, W, 3) uint8: one picture has one, in any lossless file.

    BLAKE3 takes a fifth of the time of SHA-256, which would be an eighth of the time of a tile.
    """
    digest = blake3(f"{pixels.shape[1]}x{pixels.shape[0]} ".encode())
    digest.update(np.ascontiguousarray(pixels).reshape(-1).data)
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
    # Horizontally first, then vertically: the order matters because Pillow rounds between the two passes. In a single call
    # Pillow does so with square images (a test checks it); with others, its order depends on version and shape.
    if image.width != image.height:
        image = image.resize((image_size_px, image.height), Image.Resampling.BILINEAR, reducing_gap=None)
    if image.size != (image_size_px, image_size_px):
        image = image.resize((image_size_px, image_size_px), Image.Resampling.BILINEAR, reducing_gap=None)
    return np.asarray(image)  # (S, S, 3) uint8


def _decode_jpeg(data: bytes, _relative: str) -> DecodedTile:
    """Decode with libjpeg-turbo, which TensorFlow and Pillow use too; its strict mode refuses damaged files."""
    header = read_jpeg_header(data)
    check_size(header.width_px, header.height_px)
    num_components = len(header.components)
    if header.num_bits != 8 or num_components not in (1, 3, 4):
        raise BrokenTile(
            "refused", f"JPEG of {num_components} bands of {header.num_bits} bits; convert it to 8 bits and RGB"
        )
    # Whether 0 means no ink or full ink is told by Adobe's marker alone; without it, decoders disagree.
    if num_components == 4 and not header.has_adobe_marker:
        raise BrokenTile("refused", "CMYK JPEG without Adobe's marker; convert it to RGB")
    try:
        pixels = simplejpeg.decode_jpeg(data, "CMYK" if num_components == 4 else "RGB")
    except ValueError as error:
        if "subsampling" in str(error):
            raise BrokenTile("refused", "JPEG with unusual chroma subsampling; save it with 4:2:0 or 4:4:4") from error
        raise
    if num_components == 4:
        inks = Image.frombytes("CMYK", (header.width_px, header.height_px), (255 - pixels).tobytes())
        return DecodedTile(*_in_rgb(inks), format=JPEG, has_more_images=False)
    return DecodedTile(pixels, "grey" if num_components == 1 else None, format=JPEG, has_more_images=False)


def _decode_png(data: bytes, _relative: str) -> DecodedTile:
    png = plain_png(data)
    return DecodedTile(*_in_rgb(_loaded(png.data, PNG)), format=PNG, has_more_images=png.has_more_images)


def _decode_gif(data: bytes, _relative: str) -> DecodedTile:
    num_colors = num_gif_colors(data)
    image = _loaded(data, GIF)
    _check_gif(image, num_colors)
    return DecodedTile(*_in_rgb(image), format=GIF, has_more_images=False)


def _decode_bmp(data: bytes, _relative: str) -> DecodedTile:
    check_bmp(data)
    image = _loaded(data, BMP)
    if image.mode in ("1", "P"):
        raise BrokenTile("refused", "BMP with a palette; convert it to PNG, or to a BMP of 24 bits per pixel")
    return DecodedTile(*_in_rgb(image), format=BMP, has_more_images=False)


def _decode_webp(data: bytes, _relative: str) -> DecodedTile:
    image = _loaded(data, WEBP)
    return DecodedTile(*_in_rgb(image), format=WEBP, has_more_images=getattr(image, "is_animated", False))


def _decode_tiff(data: bytes, relative: str) -> DecodedTile:
    tiff = plain_tiff(data, relative)
    image = _loaded(tiff.data, TIFF)
    pixels, converted_from = _in_rgb(image)
    if image.mode in ("RGB", "RGBA") and tiff.num_bands == 4:  # CMYK has four bands too, but none is dropped
        converted_from = _FOUR_BANDS
    return DecodedTile(pixels, converted_from, format=TIFF, has_more_images=tiff.has_more_images)


_DECODERS = {
    JPEG: _decode_jpeg,
    PNG: _decode_png,
    GIF: _decode_gif,
    BMP: _decode_bmp,
    WEBP: _decode_webp,
    TIFF: _decode_tiff,
}


def _loaded(data: bytes, format_name: str) -> Image.Image:
    """Decode with Pillow, after a look at the declared size."""
    image = Image.open(io.BytesIO(data), formats=[_PILLOW_FORMATS[format_name]])
    check_size(*image.size)
    image.load()
    return image


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


def _brief(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__
