"""Templates of paths and keys, such as `/data/{z}/{x}/{y}.jpg`; those of URLs are in `template.py`."""

from __future__ import annotations

import re
from collections.abc import Callable

from satx.errors import ConfigError, nearest_name
from satx.imagery.contract import Tile

PLACEHOLDERS = ("{z}", "{x}", "{y}", "{-y}")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def path_by_place(template: str) -> Callable[[Tile], str]:
    """Return a function that fills in a template for a tile.

    Args:
        template: With `{z}`, `{x}`, and `{y}` for rows counted from the north or `{-y}` for rows counted from the south (TMS).

    Raises:
        ConfigError: A placeholder is missing or unknown.
    """
    found = set(_PLACEHOLDER.findall(template))
    for name in sorted(found.difference(PLACEHOLDERS)):
        raise ConfigError(f"{template}: unknown placeholder {name}. {nearest_name(name, PLACEHOLDERS)}")
    check_places(found, template, "…/{z}/{x}/{y}.jpg")

    def path_of(tile: Tile) -> str:
        path = template.replace("{z}", str(tile.z)).replace("{x}", str(tile.x)).replace("{y}", str(tile.y))
        return path.replace("{-y}", str(row_from_south(tile)))

    return path_of


def check_places(found: set[str], shown: str, example: str) -> None:
    """Refuse a template that does not tell the place of a tile.

    Args:
        found: Its placeholders.
        shown: The template, without secrets.
        example: How to write it.

    Raises:
        ConfigError: A placeholder is missing.
    """
    missing = [name for name in ("{z}", "{x}") if name not in found]
    missing += [] if found & {"{y}", "{-y}"} else ["{y}"]
    if missing:
        raise ConfigError(
            f"{shown}: expected {{z}}, {{x}} and {{y}} for the place of a tile, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Write it like {example}."
        )


def row_from_south(tile: Tile) -> int:
    """Return the row of a tile as TMS counts it."""
    return (1 << tile.z) - 1 - tile.y
