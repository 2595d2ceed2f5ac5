"""Recognize image formats by a file's first bytes, and check what the decoders of those formats leave unchecked.

satx and the exported graph must agree on every file. Pillow ignores some damage that TensorFlow refuses, and a few
variants of GIF and BMP give other pixels there. `png.py`, `jpeg.py` and `tiff.py` do the same for their formats.
"""

from __future__ import annotations

import stat
import struct
from pathlib import Path

JPEG, PNG, GIF, BMP, WEBP, TIFF = "JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF"
READ_FORMATS = (JPEG, PNG, GIF, BMP, WEBP, TIFF)
# What every TensorFlow that may serve an export decodes. TensorFlow 2.21 decodes WebP too; servers may be older.
SERVED_FORMATS = (JPEG, PNG, GIF, BMP)
MAX_PIXELS = 4096 * 4096  # a larger image is not a tile, and could be a decompression bomb
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".jxl", ".avif", ".heic", ".heif"),
)
HEAD_BYTES = 32  # enough to recognize any format

_GIF_IMAGE, _GIF_EXTENSION, _GIF_END = 0x2C, 0x21, 0x3B
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # the lengths of all versions of its second header
_ISO_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF"}
_OTHER_BMP = "convert it to PNG, or to an uncompressed BMP of 24 bits per pixel"
_GIF_CODE_SIZES = range(2, 9)  # bits of the smallest code, as giflib accepts them
_SIGNATURES = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    # Formats of imagery that satx does not read: a tile in one of them is refused, not passed over.
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
)


class BrokenTile(ValueError):
    """A file that cannot be used as a tile; it is listed in the report and left out.

    Attributes:
        kind: "broken" (unreadable, damaged, not an image) or "refused" (intact, but not of a kind that satx uses).
    """

    def __init__(self, kind: str, reason: str) -> None:
        """Store the kind and the message."""
        super().__init__(reason)
        self.kind = kind


def image_format(head: bytes) -> str | None:
    """Return the format of an image, such as "JPEG", from its first `HEAD_BYTES` bytes; None if it is no image."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[:2] == b"BM" and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return BMP
    if head[4:8] == b"ftyp":
        return _ISO_BRANDS.get(head[8:12])
    return None


def is_tile(path: Path) -> bool:
    """Return whether a file is an image by its content, or claims to be one by its ending.

    A damaged tile claims to be an image, and so is reported as broken; notes and tables beside the tiles are not. A file
    that cannot be read counts as a tile too, so that the error is reported.
    """
    if path.suffix.lower() in IMAGE_ENDINGS:
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False  # reading from a pipe may never end
        with path.open("rb") as stream:
            return image_format(stream.read(HEAD_BYTES)) is not None
    except OSError:
        return True


def check_size(width_px: int, height_px: int, *, of: str = "") -> None:
    """Refuse a declared size that is not that of a tile, before anything is decoded.

    Args:
        width_px: Declared width.
        height_px: Declared height.
        of: What has this size, if it is not the image itself.

    Raises:
        BrokenTile: A side is 0, or there are more than `MAX_PIXELS` pixels.
    """
    found = f"{of}{width_px}x{height_px} px"
    if width_px < 1 or height_px < 1:
        raise BrokenTile("broken", f"{found}; expected at least 1x1 px")
    if width_px * height_px > MAX_PIXELS:
        raise BrokenTile("refused", f"{found}; expected at most {MAX_PIXELS:,} pixels")


def check_bmp(data: bytes) -> None:
    """Accept the variants that TensorFlow decodes as Pillow does: uncompressed, of 24 or 32 bits, or of grey levels.

    Raises:
        BrokenTile: It is another variant, or its length is not what its header says.
    """
    if len(data) < 54:
        raise BrokenTile("broken", "truncated BMP: its header is not complete")
    offset, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes < 40:
        raise BrokenTile("refused", f"BMP with an OS/2 header; {_OTHER_BMP}")
    width_px, height_px, _, num_bits, compression = struct.unpack_from("<iiHHI", data, 18)
    check_size(width_px, abs(height_px))
    if compression or num_bits not in (8, 24, 32):
        found = f"BMP of {num_bits} bits per pixel with compression {compression}"
        raise BrokenTile("refused", f"{found}; {_OTHER_BMP}")
    expected_bytes = offset + (width_px * num_bits // 8 + 3) // 4 * 4 * abs(height_px)
    if len(data) != expected_bytes:
        kind = "truncated" if len(data) < expected_bytes else "damaged"
        raise BrokenTile("broken", f"{kind} BMP: expected {expected_bytes:,} bytes, got {len(data):,}")


def num_gif_colors(data: bytes) -> int:
    """Return the number of colors of a GIF with one image, from its blocks, all of which must be known and complete.

    Pillow skips blocks that it does not know, and reads colors that are not in the table.

    Raises:
        BrokenTile: The file is damaged or holds several images.
    """
    num_images, color_bytes = 0, _num_color_bytes(data[10:11])
    position = 13 + color_bytes
    while position < len(data):
        kind = data[position]
        if kind == _GIF_END:
            break
        if kind == _GIF_IMAGE:
            num_images += 1
            own_color_bytes = _num_color_bytes(data[position + 9 : position + 10])
            color_bytes = own_color_bytes or color_bytes
            position += 10 + own_color_bytes + 1
            if data[position - 1 : position] and data[position - 1] not in _GIF_CODE_SIZES:
                raise BrokenTile("broken", f"damaged GIF: codes of {data[position - 1]} bits")
        elif kind == _GIF_EXTENSION:
            position += 2
            if data[position : position + 1] == b"\0":
                raise BrokenTile("broken", "damaged GIF: an extension without content")
        else:
            raise BrokenTile("broken", f"damaged GIF: unknown block {kind} at byte {position}")
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    else:
        raise BrokenTile("broken", "truncated GIF: its end is missing")
    if num_images == 0:
        raise BrokenTile("broken", "damaged GIF: it holds no image")
    if num_images > 1:
        raise BrokenTile("refused", f"GIF with {num_images} images; save the one that is the tile as PNG")
    return color_bytes // 3


def _num_color_bytes(flags: bytes) -> int:
    """Return the length of a GIF's color table, from the byte that describes it."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
