"""Candidates against the truth of a rendered country: which schools were found, and which candidates are schools."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from satx.bulk.candidates import group
from satx.bulk.counts import POSITIVES
from satx.evaluation.intervals import percentile_interval, wilson_interval

NEAR_TILES = 1  # a candidate is a school's if one of its tiles is the school's, or one of the eight around it
SQUARE_TILES = 12  # side of the squares that are resampled; beyond that distance tiles are hardly correlated
NUM_RESAMPLES = 2000


class Match(NamedTuple):
    """What was found at one threshold.

    Attributes:
        is_found: For each school whether it was found, (num_schools,) bool.
        is_right: For each candidate whether it is a school's, (num_candidates,) bool.
        bests: Columns and rows of the candidates' best tiles, (num_candidates, 2) int64.
    """

    is_found: np.ndarray
    is_right: np.ndarray
    bests: np.ndarray


def match(scores: pa.Table, threshold: float, schools: np.ndarray) -> Match:
    """Group the tiles at or above a threshold as `satx predict` does, and compare them with the schools.

    Args:
        scores: The columns of `satx.bulk.counts.POSITIVES`, of all scored tiles.
        threshold: Probability from which a tile counts.
        schools: (num_schools, 2) columns and rows of the tiles that contain the schools' centers.
    """
    above = scores.filter(pa.array(scores["probability"].to_numpy() >= np.float32(threshold)))
    tiles, candidates = group(above.cast(POSITIVES))
    names = candidates["candidate_id"].to_pylist()
    rows = {name: row for row, name in enumerate(names)}
    owners = np.array([rows[name] for name in tiles["candidate_id"].to_pylist()], np.int64)
    places = np.stack([tiles["x"].to_numpy(), tiles["y"].to_numpy()], 1).reshape(-1, 2).astype(np.int64)
    near = (
        (np.abs(places[:, None] - schools[None]).max(2) <= NEAR_TILES)
        if len(schools)
        else np.zeros((len(places), 0), bool)
    )
    is_right = np.zeros(len(names), bool)
    is_right[owners[near.any(1)]] = True
    bests = np.stack([candidates["x"].to_numpy(), candidates["y"].to_numpy()], 1).reshape(-1, 2).astype(np.int64)
    return Match(near.any(0), is_right, bests)


def row_of(found: Match, threshold: float, schools: np.ndarray) -> dict[str, Any]:
    """Return a row of the table: counts, recall and precision, each with Wilson's interval and one over squares of land."""
    num_found, num_right = int(found.is_found.sum()), int(found.is_right.sum())
    row: dict[str, Any] = {"threshold": threshold, "schools": len(schools), "candidates": len(found.is_right)}
    for name, hits, total, places, flags in (
        ("recall", num_found, len(schools), schools, found.is_found),
        ("precision", num_right, len(found.is_right), found.bests, found.is_right),
    ):
        if not total:
            row |= {name: float("nan"), f"{name} 95%": "no cases", f"{name} 95%, by squares": "no cases"}
            continue
        interval = wilson_interval(hits, total)
        low, high = by_squares(places, flags)
        row |= {
            name: interval.value,
            f"{name} 95%": f"{interval.low:.3f} to {interval.high:.3f}",
            f"{name} 95%, by squares": f"{low:.3f} to {high:.3f}",
        }
    return row


def by_squares(places: np.ndarray, flags: np.ndarray) -> tuple[float, float]:
    """Return the bootstrap interval of a share when whole squares of land are resampled, as neighbours are alike.

    Args:
        places: (n, 2) columns and rows of tiles.
        flags: (n,) bool.
    """
    _, squares = np.unique(places // SQUARE_TILES, axis=0, return_inverse=True)
    squares = squares.ravel()
    hits, totals = np.bincount(squares, flags), np.bincount(squares)
    drawn = np.random.default_rng(0).integers(len(totals), size=(NUM_RESAMPLES, len(totals)))
    interval = percentile_interval(float(flags.mean()), hits[drawn].sum(1) / totals[drawn].sum(1))
    return interval.low, interval.high
