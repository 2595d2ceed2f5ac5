"""What `satx data split` says: tiles of each split, blocks, and what a random split would flatter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from satx.commands.console import banner, out, table
from satx.splits.assignment import Assignment, Ground
from satx.splits.buffer import NOWHERE
from satx.splits.flattery import Flattery
from satx.splits.groups import block_side_km
from satx.splits.pairs import Pair
from satx.tiles.layout import SPLITS


def described(shares: Sequence[int], pairs: Sequence[Pair], ground: Ground, assignment: Assignment) -> dict[str, Any]:
    """Return a split in numbers, for `--json`.

    Args:
        shares: Folds of each split.
        pairs: Pairs that show the same ground.
        ground: What decided which tiles go together.
        assignment: The split.
    """
    counts = {split: _by_class(ground, assignment.splits == number) for number, split in enumerate(SPLITS)}
    num_kept = int((assignment.splits != NOWHERE).sum())
    sizes = np.unique(ground.groups, return_counts=True)[1]
    return {
        "num_tiles": len(ground.labels),
        "num_without_place": int((~np.isfinite(ground.footprints).all(axis=1)).sum()),
        "pairs": dict(Counter(pair.how for pair in pairs)),
        "num_groups": len(sizes),
        "largest_group": int(sizes.max()),
        "num_blocks": ground.num_blocks,
        "block_zoom": ground.block_zoom,
        "block_km": None if ground.block_zoom is None else block_side_km(ground.footprints, ground.block_zoom),
        "counts": counts,
        "left_out": _by_class(ground, assignment.splits == NOWHERE),
        "shares_asked": {split: share / sum(shares) for split, share in zip(SPLITS, shares, strict=True)},
        "shares_reached": {split: sum(counts[split].values()) / num_kept for split in SPLITS},
    }


def print_split(document: dict[str, Any], flattery: Flattery | None) -> None:
    """Print a split for people.

    Args:
        document: What `--json` prints.
        flattery: What a random split would flatter; None if it was not measured.
    """
    left_out = document["left_out"]
    rows: list[list[Any]] = [
        [label, *(document["counts"][split][label] for split in SPLITS), num] for label, num in left_out.items()
    ]
    for name in ("asked", "reached"):
        rows.append([f"share {name}", *(f"{document[f'shares_{name}'][split]:.1%}" for split in SPLITS), ""])
    table(f"Tiles of {document['folder']}", ["class", *SPLITS, "left out"], rows, right=(1, 2, 3, 4))
    out.print(_words_of_blocks(document))
    if any(left_out.values()):
        out.print(
            f"Left out: {sum(left_out.values())}, since a tile of another split is nearer than one window. The column "
            f"left_out of {document['table']} says which."
        )
    if flattery is None:
        banner(f"What a random split would flatter was not measured. {document['flattery_note']}")
    else:
        out.print(flattery_sentence(flattery, "block" if document["block_zoom"] is not None else "group"))


def flattery_sentence(flattery: Flattery, kind: str) -> str:
    """Return in words what a random split would have flattered.

    Args:
        flattery: The measurement.
        kind: What the honest split divides by: "block" or "group".
    """
    found = flattery.difference
    scores = f"test AUC {flattery.random_auc:.3f} when tiles are split at random, {flattery.block_auc:.3f} by {kind}"
    interval = f"95% interval {found.low:.3f} to {found.high:.3f}, {flattery.num_draws} draws of each"
    if found.low > 0:
        return f"A random split would flatter by {found.value:.3f}: {scores} ({interval})."
    return f"A random split is not shown to flatter: {scores}, a difference of {found.value:.3f} ({interval})."


def _by_class(ground: Ground, chosen: np.ndarray) -> dict[str, int]:
    """Return how many of the chosen tiles, (N,) bool, each class has."""
    return {label: int((chosen & (ground.labels == index)).sum()) for index, label in enumerate(ground.classes)}


def _words_of_blocks(document: dict[str, Any]) -> str:
    pairs = ", ".join(f"{count} by {how}" for how, count in sorted(document["pairs"].items())) or "none"
    words = (
        f"{document['num_tiles']} tiles in {document['num_groups']} groups that show the same ground (pairs: {pairs}; the "
        f"largest group has {document['largest_group']})"
    )
    if document["block_zoom"] is None:
        return (
            f"{words}. No tile has coordinates: each group is a block of its own, and nothing is known of neighbours. "
            f"`satx data pairs` lists tiles that look alike, for a person to decide."
        )
    words += (
        f", in {document['num_blocks']} blocks of zoom {document['block_zoom']}, {document['block_km']:.1f} km wide."
    )
    if document["num_without_place"]:
        words += f" {document['num_without_place']} tiles have no coordinates; their groups are blocks of their own."
    return words
