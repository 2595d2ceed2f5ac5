"""Draw the README's picture of the rendered sample: schools above, not-schools below, rural left, urban right.

python experiments/pictures/sample_tiles.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from satx.sample.sample import render_tile

COLUMNS, EDGE_PX, GAP_PX = 8, 144, 4


def main() -> None:
    """Write sample_tiles.jpg beside this file."""
    step = EDGE_PX + GAP_PX
    sheet = Image.new("RGB", (COLUMNS * step - GAP_PX, 4 * step - GAP_PX), "white")
    for row, label in enumerate(("school", "school", "not-school", "not-school")):
        for column in range(COLUMNS):
            slice_name = "rural" if column < COLUMNS // 2 else "urban"
            tile: np.ndarray = render_tile(label, slice_name, seed=100 * row + column)  # (256, 256, 3) uint8
            sheet.paste(Image.fromarray(tile).resize((EDGE_PX, EDGE_PX)), (column * step, row * step))
    sheet.save(Path(__file__).with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
