"""Common style of all satx figures: colors, and figures that use no global state.

Colors are Okabe and Ito's, which color-blind readers can distinguish ("Color Universal Design", 2008).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

INK = "#1f2328"
MUTED = "#656d76"
GRID = "#e4e7eb"

CLASS_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")

BACKBONE_COLORS: Mapping[str, str] = {
    "xception": "#0072B2",
    "mobilenetv2": "#D55E00",
    "efficientnetv2b0": "#009E73",
    "efficientnetv2s": "#B0548A",
    "convnexttiny": "#B8860B",
}


def backbone_color(backbone: str) -> str:
    """Return the color of a backbone in every figure; a backbone without one of its own also gets a constant color."""
    return BACKBONE_COLORS.get(backbone, CLASS_COLORS[zlib.crc32(backbone.encode()) % len(CLASS_COLORS)])


def backbone_order(backbone: str) -> tuple[int, str]:
    """Return a sort key that orders backbones alike in all figures: as in `BACKBONE_COLORS`, then others by name."""
    known = list(BACKBONE_COLORS)
    return (known.index(backbone) if backbone in known else len(known), backbone)


def class_colors(num_classes: int, positive_index: int) -> list[str]:
    """Return one color per class; of two classes, the class of interest is blue."""
    if num_classes == 2:
        return [CLASS_COLORS[0 if index == positive_index else 1] for index in range(2)]
    return [CLASS_COLORS[index % len(CLASS_COLORS)] for index in range(num_classes)]


def tint(color: str, strength: float) -> tuple[float, float, float]:
    """Mix `color` with white: 1.0 is the color itself, 0.0 is white."""
    red, green, blue = to_rgb(color)
    return (1 - strength * (1 - red), 1 - strength * (1 - green), 1 - strength * (1 - blue))


def new_figure(*, width_inches: float, height_inches: float, title: str = "") -> Figure:
    """Create an empty figure with its own canvas and a layout that avoids overlaps."""
    figure = Figure(figsize=(width_inches, height_inches), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    FigureCanvasAgg(figure)
    if title:
        shown = plain(title, max_chars=int(9 * width_inches))
        figure.suptitle(shown, fontsize=13, fontweight="bold", color=INK, x=0.01, ha="left")
    return figure


def tidy(axes: Axes, *, x_label: str = "", y_label: str = "", title: str = "") -> None:
    """Style axes: a light grid behind the data, two spines, labels in one size."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axes.set_xlabel(x_label, fontsize=10, color=INK)
    axes.set_ylabel(y_label, fontsize=10, color=INK)
    if title:
        axes.set_title(plain(title, max_chars=80), fontsize=11, color=INK, loc="left")


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
