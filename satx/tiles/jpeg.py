"""Read the markers of a JPEG, and refuse one of which a part is missing: decoders fill that part in without a word."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from satx.tiles.formats import BrokenTile

_START_OF_SCAN, _END, _ADOBE = 0xDA, 0xD9, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; the three others are tables
_PROGRESSIVE = (0xC2, 0xCA)
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan, 0xFF 0x00 is a byte of data, D0 to D7 are restarts
_NUM_COEFFICIENTS = 64
_ADOBE_BYTES = 14  # a shorter marker is ignored by libjpeg


@dataclass
class JpegHeader:
    """What the markers of a JPEG say.

    Attributes:
        width_px: Width.
        height_px: Height.
        num_bits: Bits per sample.
        components: Ids of the components: one for grey, three for color, four for CMYK.
        has_adobe_marker: Whether Adobe's marker says how to read the colors.
        is_progressive: Whether later scans refine earlier ones.
        scanned: Components that a scan has given whole; always empty in a progressive image.
        shifts: In a progressive image, the number of low bits that no scan has given yet, by component and coefficient.
    """

    width_px: int = 0
    height_px: int = 0
    num_bits: int = 0
    components: tuple[int, ...] = ()
    has_adobe_marker: bool = False
    is_progressive: bool = False
    scanned: set[int] = field(default_factory=set)
    shifts: dict[tuple[int, int], int] = field(default_factory=dict)


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Read all markers of a JPEG without decoding it.

    Raises:
        BrokenTile: A marker is damaged, a component or a refinement is missing, or the end is.
    """
    header, position = JpegHeader(), 2
    while True:
        found = _NEXT_MARKER.search(data, position)
        if found is None:
            raise BrokenTile("broken", "truncated JPEG: its end is missing")
        marker, position = data[found.end() - 1], found.end()
        if marker == _END:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(data[position : position + 2])
        body = data[position + 2 : position + length]
        if length < 2 or len(body) != length - 2:
            raise BrokenTile("broken", "truncated JPEG: a marker is not complete")
        position += length
        if marker in _FRAMES:
            _read_frame(header, marker, body)
        elif marker == _START_OF_SCAN:
            _read_scan(header, body)
            if _is_complete(header) and not header.is_progressive:
                return header  # the decoder notices what is wrong from here on
        elif marker == _ADOBE and body.startswith(b"Adobe") and length >= _ADOBE_BYTES:
            header.has_adobe_marker = True
    if not _is_complete(header):
        raise BrokenTile("broken", "truncated JPEG: the data of a component or a refinement is missing")
    return header


def _read_frame(header: JpegHeader, marker: int, body: bytes) -> None:
    if header.components:
        raise BrokenTile("broken", "damaged JPEG: it declares its size twice")
    try:
        header.num_bits, header.height_px, header.width_px, num_components = struct.unpack_from(">BHHB", body)
        header.components = tuple(body[6 + 3 * number] for number in range(num_components))
    except (struct.error, IndexError) as error:
        raise BrokenTile("broken", "damaged JPEG: its frame is not complete") from error
    header.is_progressive = marker in _PROGRESSIVE


def _read_scan(header: JpegHeader, body: bytes) -> None:
    """Note which bits of which coefficients a scan gives."""
    num_components = body[0] if body else 0
    if len(body) < 4 + 2 * num_components:
        raise BrokenTile("broken", "damaged JPEG: a scan is not complete")
    components = body[1 : 1 + 2 * num_components : 2]
    if not header.is_progressive:
        header.scanned.update(components)
        return
    first, last, bits = body[1 + 2 * num_components : 4 + 2 * num_components]
    for component in components:
        for coefficient in range(first, min(last, _NUM_COEFFICIENTS - 1) + 1):
            header.shifts[component, coefficient] = bits & 15


def _is_complete(header: JpegHeader) -> bool:
    """Return whether the scans so far give every bit of every coefficient of every component."""
    if not header.is_progressive:
        return bool(header.components) and header.scanned.issuperset(header.components)
    wanted = ((component, number) for component in header.components for number in range(_NUM_COEFFICIENTS))
    return all(header.shifts.get(key, 1) == 0 for key in wanted)
