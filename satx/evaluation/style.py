"""Common style of all satx figures: colors for light and dark screens, and figures that use no global state.

Colors are Okabe and Ito's, which color-blind readers can distinguish ("Color Universal Design", 2008).
"""

from __future__ import annotations

import io
import textwrap
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

INK = "#1f2328"
MUTED = "#656d76"
GRID = "#e4e7eb"


@dataclass(frozen=True)
class Theme:
    """Colors of a figure.

    Attributes:
        paper: Background.
        ink: Text.
        muted: Text of less importance, and axes.
        grid: Grid lines.
        lightening: Share of white that is mixed into the colors of lines, so that they stand out from `paper`.
    """

    paper: str
    ink: str
    muted: str
    grid: str
    lightening: float


LIGHT = Theme(paper="#ffffff", ink=INK, muted=MUTED, grid=GRID, lightening=0.0)
DARK = Theme(paper="#161b22", ink="#e6edf3", muted="#9198a1", grid="#30363d", lightening=0.35)

CLASS_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")

BACKBONE_COLORS: Mapping[str, str] = {
    "xception": "#0072B2",
    "mobilenetv2": "#D55E00",
    "efficientnetv2b0": "#009E73",
    "efficientnetv2s": "#B0548A",
    "convnexttiny": "#B8860B",
}
OTHER_COLORS = ("#0072B2", "#009E73", "#CC79A7", "#D55E00")  # those of contrast 3 on white, which lines need


def backbone_color(backbone: str, theme: Theme = LIGHT) -> str:
    """Return the color of a backbone in every figure; a backbone without one of its own also gets a constant color."""
    color = BACKBONE_COLORS.get(backbone, OTHER_COLORS[zlib.crc32(backbone.encode()) % len(OTHER_COLORS)])
    return on_theme(color, theme)


def on_theme(color: str, theme: Theme) -> str:
    """Return a color lightened so that it stands out from the paper of a theme."""
    return to_hex(tint(color, 1 - theme.lightening))


def backbone_order(backbone: str) -> tuple[int, str]:
    """Return a sort key that orders backbones alike in all figures: as in `BACKBONE_COLORS`, then others by name."""
    known = list(BACKBONE_COLORS)
    return (known.index(backbone) if backbone in known else len(known), backbone)


def class_colors(num_classes: int, positive_index: int) -> list[str]:
    """Return one color per class; of two classes, the class of interest is blue."""
    if num_classes == 2:
        return [CLASS_COLORS[0 if index == positive_index else 1] for index in range(2)]
    return [CLASS_COLORS[index % len(CLASS_COLORS)] for index in range(num_classes)]


def tint(color: str, strength: float, paper: str = "#ffffff") -> tuple[float, float, float]:
    """Mix `color` with the background: 1.0 is the color itself, 0.0 is the background."""
    red, green, blue = (
        strength * own + (1 - strength) * behind for own, behind in zip(to_rgb(color), to_rgb(paper), strict=True)
    )
    return red, green, blue


def new_figure(*, width_inches: float, height_inches: float, title: str = "", theme: Theme = LIGHT) -> Figure:
    """Create an empty figure with its own canvas and a layout that avoids overlaps; a long title takes two lines."""
    figure = Figure(figsize=(width_inches, height_inches), facecolor=theme.paper)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    FigureCanvasAgg(figure)
    if title:
        max_chars = int(9 * width_inches)
        lines = textwrap.wrap(title, width=max_chars, max_lines=2, placeholder=" …")
        shown = "\n".join(plain(line, max_chars=max_chars) for line in lines)
        figure.suptitle(shown, fontsize=13, fontweight="bold", color=theme.ink, x=0.01, ha="left")
    return figure


def tidy(axes: Axes, *, x_label: str = "", y_label: str = "", title: str = "", theme: Theme = LIGHT) -> None:
    """Style axes: a light grid behind the data, two spines, labels in one size."""
    axes.set_facecolor(theme.paper)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.muted)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.muted, labelcolor=theme.ink, labelsize=9)
    axes.set_xlabel(x_label, fontsize=10, color=theme.ink)
    axes.set_ylabel(y_label, fontsize=10, color=theme.ink)
    if title:
        axes.set_title(plain(title, max_chars=80), fontsize=11, color=theme.ink, loc="left")


def boxed_legend(axes: Axes, *, title: str, loc: Literal["lower left", "lower right"], theme: Theme = LIGHT) -> None:
    """Add a legend in a box that lets the data behind it show faintly."""
    legend = axes.legend(
        title=title, loc=loc, fontsize=9, title_fontsize=9, alignment="left", framealpha=0.9, edgecolor=theme.grid,
        facecolor=theme.paper, labelcolor=theme.ink,
    )  # fmt: skip
    legend.get_title().set_color(theme.ink)


def plain(text: str, *, max_chars: int = 40) -> str:
    """Prepare a name for matplotlib: one line, shortened, dollar signs escaped, never hidden from a legend."""
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    if len(line) > max_chars:
        line = line[: max_chars - 1] + "…"
    # Legends skip labels that begin with an underscore.
    return (" " + line if line.startswith("_") else line).replace("$", r"\$")


def png_bytes(figure: Figure, *, dots_per_inch: int = 150) -> bytes:
    """Return the figure as PNG bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dots_per_inch)
    return stream.getvalue()
