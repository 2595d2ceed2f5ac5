"""The page of `satx map`: one HTML file with a map of the tiles, which loads nothing and opens without a network.

Names of tiles, classes and models, and the attribution are untrusted input: the template escapes them, the data is JSON without
`<`, and the script sets them as text. A content security policy allows only the page's own styles and scripts, by their digests,
and the worker that MapLibre starts from memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from satx.bulk.block_file import ModelIdentity
from satx.bulk.map_data import MAX_POINTS, MapData, Points
from satx.grid.tiles import center_of
from satx.imagery.contract import DONE
from satx.storage import replacing

TEMPLATES = Path(__file__).resolve().parent / "templates"
VENDOR = Path(__file__).resolve().parent / "vendor"
LIBRARY_VERSION = "5.24.1"
SCRIPTS = ("map_points.js", "map_layers.js", "map_panel.js", "map.js")

MAX_ROWS = 200  # of the table that is shown where the map cannot be
MAX_PATTERN_BYTES = 1_500_000
_DEEPEST_LINK = 19  # OpenStreetMap's map goes no deeper


@dataclass(frozen=True)
class MapSummary:
    """What a page shows.

    Attributes:
        num_points: Tiles on the map.
        num_at_floor: Tiles of at least `floor`; more than `num_points` if the page could not hold all.
        num_found: Tiles of at least the model's threshold.
        num_unplaced: Tiles whose place is unknown, which no map shows.
        num_thumbnails: Tiles with a picture.
        floor: Lowest probability on the map.
        size_bytes: Size of the page.
    """

    num_points: int
    num_at_floor: int
    num_found: int
    num_unplaced: int
    num_thumbnails: int
    floor: float
    size_bytes: int


def write_map(
    data: MapData,
    *,
    model: ModelIdentity,
    about: Mapping[str, Any],
    attribution: str,
    thumbnails: Mapping[str, bytes] | None,
    path: Path,
) -> MapSummary:
    """Write the page, atomically.

    Args:
        data: What `map_data.gather_map` kept.
        model: The model that scored the tiles.
        about: `title`; `warnings`, sentences to print above the map; all else is a list
            of names and values below the map.
        attribution: Text to print on the map.
        thumbnails: JPEG files by name of tile.
        path: File to write.

    Returns:
        What the page shows.
    """
    html = map_page(data, model=model, about=about, attribution=attribution, thumbnails=thumbnails)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return MapSummary(
        num_points=len(data.points),
        num_at_floor=data.num_at_floor,
        num_found=data.num_found,
        num_unplaced=data.num_unplaced,
        num_thumbnails=len(_pictured(data.points, thumbnails)),
        floor=data.floor,
        size_bytes=len(html.encode()),
    )


def map_page(
    data: MapData,
    *,
    model: ModelIdentity,
    about: Mapping[str, Any],
    attribution: str,
    thumbnails: Mapping[str, bytes] | None,
) -> str:
    """Return the page as HTML; arguments as of `write_map`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    library_style, style = (_text(VENDOR / "maplibre-gl.css"), _text(TEMPLATES / "map.css"))
    # without the address of its source map, which a browser's tools would ask for
    library = _text(VENDOR / "maplibre-gl.js").partition("//# sourceMappingURL=")[0]
    script = "\n".join(['"use strict";', "(() => {", *(_text(TEMPLATES / name) for name in SCRIPTS), "})();"])
    title = str(about.get("title") or f"Tiles of {model.positive_class}")
    return environment.get_template("map.html.j2").render(
        title=title,
        summary=_summary(data, model),
        warnings=_warnings(data, model, about),
        policy=_policy(styles=[library_style, style], scripts=[library, script]),
        library_style=Markup(library_style),
        style=Markup(style),
        library=Markup(library),
        script=Markup(script),
        data=Markup(_json(page_data(data, model, thumbnails))),
        lowest=_lowest(data),
        threshold=_first_threshold(data, model),
        positive_class=model.positive_class,
        attribution=attribution,
        rows=_rows(data.points),
        facts=_facts(data, model, about),
        library_version=LIBRARY_VERSION,
        license=_text(VENDOR / "LICENSE.txt"),
    )


def page_data(data: MapData, model: ModelIdentity, thumbnails: Mapping[str, bytes] | None) -> dict[str, Any]:
    """Return what the script reads: arrays as Base64 of little-endian numbers, names as patterns of the place."""
    points = data.points
    patterns, pattern = name_patterns(points)
    zoom = int(points.z.max()) if len(points) else data.coverage.zoom
    return {
        "z": _array(points.z, "u1"),
        "x": _array(points.x, "<u4"),
        "y": _array(points.y, "<u4"),
        "probability": _array(points.probability, "<f4"),
        "patterns": patterns,
        "pattern": _array(pattern, "<u4") if len(patterns) > 1 else "",
        "coverage": {"zoom": data.coverage.zoom, "rectangles": _array(data.coverage.rectangles, "<u4")},
        "zoom": zoom,
        "lowest": _lowest(data),
        "threshold": _first_threshold(data, model),
        "thumbnails": {row: base64.b64encode(file).decode() for row, file in _pictured(points, thumbnails).items()},
    }


def name_patterns(points: Points) -> tuple[list[list[dict[str, str]]], np.ndarray]:
    """Describe names by what they have besides zoom, column and row, so that 100,000 regular names take no room.

    Names that would exceed `MAX_PATTERN_BYTES` together are replaced by `z-x-y`.

    Returns:
        The patterns, each a list of `{"text": ...}` and `{"axis": "z", "x" or "y"}`; and the index of each tile's pattern,
        (n,) uint32.
    """
    places: dict[tuple[str, ...], int] = {("", "-", "-", ""): 0}
    size_bytes, indices = 0, np.zeros(len(points), np.uint32)
    for row, (name, z, x, y) in enumerate(zip(points.tile_ids, points.z, points.x, points.y, strict=True)):
        parts = _parts(name, z, x, y)
        if parts not in places:
            size_bytes += len(json.dumps(parts))
            if size_bytes > MAX_PATTERN_BYTES:
                break  # the tiles that follow have lower probabilities
            places[parts] = len(places)
        indices[row] = places[parts]
    return [_pattern(parts) for parts in places], indices


def _parts(name: str, z: int, x: int, y: int) -> tuple[str, ...]:
    """Return what is before, between and after the numbers of a name; only the name if it does not have them."""
    for separator in "-/_":
        before, place, after = name.partition(f"{z}{separator}{x}{separator}{y}")
        if place:
            return before, separator, separator, after
    return (name,)


def _pattern(parts: tuple[str, ...]) -> list[dict[str, str]]:
    texts = [{"text": part} for part in parts]
    if len(parts) == 1:
        return texts
    return [texts[0], {"axis": "z"}, texts[1], {"axis": "x"}, texts[2], {"axis": "y"}, texts[3]]


def _lowest(data: MapData) -> float:
    """Return the lowest threshold at which all tiles are on the map: the floor, or higher where tiles were left out."""
    is_cut = len(data.points) < data.num_at_floor
    return float(data.points.probability[-1]) if is_cut else data.floor


def _first_threshold(data: MapData, model: ModelIdentity) -> float:
    """Return the threshold with which the page opens: the model's, unless tiles of just that are not on the map."""
    return max(model.threshold, _lowest(data))


def _pictured(points: Points, thumbnails: Mapping[str, bytes] | None) -> dict[int, bytes]:
    """Return thumbnails by position of the tile; only the tiles of the table have one."""
    files = thumbnails or {}
    return {row: files[name] for row, name in enumerate(points.tile_ids[:MAX_ROWS]) if name in files}


def _summary(data: MapData, model: ModelIdentity) -> str:
    total, scored = sum(data.counts.values()), data.counts.get(DONE, 0)
    return (
        f"{data.num_found:,} of {total:,} tiles have a probability of “{model.positive_class}” of at least "
        f"{model.threshold:.3f}, the threshold of {model.name} version {model.version}; {total - scored:,} have no score."
    )


def _warnings(data: MapData, model: ModelIdentity, about: Mapping[str, Any]) -> list[str]:
    warnings = [str(text) for text in about.get("warnings", ())]
    if model.sample:
        warnings.insert(0, "Sample: the model was trained on rendered tiles. Its scores of real imagery mean nothing.")
    if len(data.points) < data.num_at_floor:
        warnings.append(
            f"The map has the {MAX_POINTS:,} tiles of the highest probabilities, of {data.num_at_floor:,} of at least "
            f"{data.floor:.3f}. Its lowest probability is {_lowest(data):.3f}."
        )
    if _lowest(data) > model.threshold:
        warnings.append(
            f"Tiles from the model's threshold of {model.threshold:.3f} to {_lowest(data):.3f} are not on the map."
        )
    if data.num_unplaced:
        warnings.append(
            f"{data.num_unplaced:,} tiles are not on the map: their names do not tell zoom, column and row."
        )
    return warnings


def _facts(data: MapData, model: ModelIdentity, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    own = {name: value for name, value in about.items() if name not in ("title", "warnings")}
    return [
        ("Model", f"{model.name}, version {model.version}"),
        ("Its digest", model.digest[:16]),
        ("Classes", ", ".join(model.classes)),
        ("Threshold", f"{model.threshold:.6g}"),
        *((f"Tiles: {status}", f"{count:,}") for status, count in data.counts.items()),
        ("Tiles on the map", f"{len(data.points):,}, from {_lowest(data):.3f}"),
        *((name, f"{value}") for name, value in own.items()),
    ]


def _rows(points: Points) -> list[dict[str, str]]:
    """Return the rows of the table: the first `MAX_ROWS` tiles."""
    first = slice(MAX_ROWS)
    longitudes, latitudes = center_of(points.z[first], points.x[first], points.y[first])
    rows = zip(points.tile_ids[first], points.probability[first], points.z[first], latitudes, longitudes, strict=True)
    return [
        {
            "name": name,
            "probability": f"{probability:.3f}",
            "place": f"{latitude:.6f}, {longitude:.6f}",
            "link": f"https://www.openstreetmap.org/#map={min(z, _DEEPEST_LINK)}/{latitude:.6f}/{longitude:.6f}",
        }
        for name, probability, z, latitude, longitude in rows
    ]


def _policy(*, styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Return the content security policy: nothing from a network, and no other style or script than these."""
    own = {"style-src": styles, "script-src": scripts}
    allowed = "; ".join(f"{kind} {' '.join(map(_source, texts))}" for kind, texts in own.items())
    worker = "worker-src blob:; child-src blob:"  # child-src: for browsers that do not know worker-src
    return f"default-src 'none'; img-src data: blob:; {worker}; base-uri 'none'; form-action 'none'; {allowed}"


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """Return JSON that is text wherever it stands in HTML."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _array(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
