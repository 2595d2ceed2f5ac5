"""What a source of imagery gives for each tile: its bytes, or the status and reason of a tile without a score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

DONE, BLANK, MISSING, REFUSED, BROKEN, FAILED = "done", "blank", "missing", "refused", "broken", "failed"
# Every tile of a plan ends in one of these:
STATUSES = (
    DONE,  # scored
    BLANK,  # one color, or a known placeholder: there is no imagery
    MISSING,  # the source says that it has no such tile
    REFUSED,  # intact, but of a kind that satx or the model does not take
    BROKEN,  # bytes that are no complete image, such as a page of HTML or a truncated file
    FAILED,  # the source did not answer, after all repetitions
)
UNKNOWN = -1  # z, x and y of a file whose name does not tell them


class Tile(NamedTuple):
    """One tile of a plan.

    Attributes:
        tile_id: Unique in the plan: `z-x-y`, or the path of a file within its folder, with `/`.
        z: Zoom, or `UNKNOWN`.
        x: Column, counted from the west, or `UNKNOWN`.
        y: Row, counted from the north, or `UNKNOWN`.
    """

    tile_id: str
    z: int
    x: int
    y: int


@dataclass(frozen=True)
class Unscored:
    """Why a tile has no score.

    Attributes:
        status: One of `STATUSES`, except `done`.
        reason: A short phrase for people, without secrets.
    """

    status: str
    reason: str


Fetched = bytes | Unscored


class Imagery(Protocol):
    """A source of tiles.

    Attributes:
        identity: What the source is, as JSON, without secrets; a run continues only with an equal one.
        attribution: Text to print beside the imagery; empty if unknown.
    """

    identity: Mapping[str, Any]
    attribution: str

    def fetch(self, tiles: Iterable[Tile]) -> Iterator[Fetched]:
        """Yield what each tile gives, in the order of the tiles.

        Takes tiles as it goes, and only a bounded number ahead of what was yielded, so that memory is bounded. An error of one
        tile is its `Unscored`; only an error of the whole source is raised.

        Raises:
            DataError: The source cannot be used at all.
        """
        ...

    def close(self) -> None:
        """End threads and connections; a generator of `fetch` ends soon after, whatever it waits for."""
        ...
