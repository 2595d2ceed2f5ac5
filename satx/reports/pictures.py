"""A figure as pictures for light and dark, wide and narrow screens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from satx.evaluation.style import DARK, LIGHT, Theme, png_bytes
from satx.reports.figure import NARROW_INCHES, WIDE_INCHES


@dataclass(frozen=True)
class Pictures:
    """One figure, drawn four times, as PNG; and what it shows, in words."""

    description: str
    light: bytes
    dark: bytes
    narrow_light: bytes
    narrow_dark: bytes


def pictures_of(draw: Callable[[Theme, float], Figure], *, description: str) -> Pictures:
    """Draw a figure for each kind of screen.

    Args:
        draw: Draws it with this theme, this many inches wide.
        description: Text for readers who do not see it.
    """
    return Pictures(
        description,
        light=png_bytes(draw(LIGHT, WIDE_INCHES)),
        dark=png_bytes(draw(DARK, WIDE_INCHES)),
        narrow_light=png_bytes(draw(LIGHT, NARROW_INCHES)),
        narrow_dark=png_bytes(draw(DARK, NARROW_INCHES)),
    )
