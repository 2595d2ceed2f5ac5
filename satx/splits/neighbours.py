"""Tiles that look alike to a frozen network: candidates for the same ground where no coordinates tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from satx.catalogue import BACKBONES, NONE
from satx.models.weights_file import Weights
from satx.splits.registration import EDGE_PX, edges_of
from satx.tiles.check import in_parallel, no_progress, read_and_decode
from satx.tiles.decode import resize_tile
from satx.tiles.layout import TileFile
from satx.tiles.report import Problem

BACKBONE = "mobilenetv2"
NETWORK_PX = 160
NUM_NEIGHBOURS = 10  # of each tile
BATCH_SIZE = 32

OnProgress = Callable[[int, int], None]


class Looks(NamedTuple):
    """What tiles look like, for those that can be decoded.

    Attributes:
        numbers: (n,) int64 indices of the tiles.
        features: (n, channels) float16, the pooled features of the network, each of length 1.
        edges: (n, 48, 48) float16, from `edges_of`.
    """

    numbers: np.ndarray
    features: np.ndarray
    edges: np.ndarray


def looks_of(files: Sequence[TileFile], weights: Weights, on_progress: OnProgress = no_progress) -> Looks:
    """Decode tiles and run a frozen network on them.

    Args:
        files: The tiles. Those that cannot be decoded are left out.
        weights: Weights of the network.
        on_progress: Called with (done, total).

    Raises:
        DataError: Memory does not suffice to decode a tile.
        WeightsError: The weights changed since they were found.
    """
    from satx.training.trunk import trunks_of

    network = trunks_of(weights, NETWORK_PX, (NONE,))
    numbers: list[int] = []
    features = [np.zeros((0, BACKBONES[BACKBONE].num_features), np.float16)]
    edges = [np.zeros((0, EDGE_PX, EDGE_PX), np.float16)]
    for done, (_, tiles) in enumerate(in_parallel(lambda chunk: _decoded(files, chunk), _chunks(len(files))), 1):
        batch = np.zeros((BATCH_SIZE, NETWORK_PX, NETWORK_PX, 3), np.uint8)  # padded, so that one shape is compiled
        for place, (number, pixels, its_edges) in enumerate(tiles):
            numbers.append(number)
            batch[place] = pixels
            edges.append(its_edges[None])
        features.append(_normalized(np.asarray(network.predict_on_batch(batch)[0], np.float32)[: len(tiles)]))
        on_progress(min(done * BATCH_SIZE, len(files)), len(files))
    return Looks(np.array(numbers, np.int64), np.concatenate(features), np.concatenate(edges))


def nearest_pairs(features: np.ndarray, splits: np.ndarray, num_neighbours: int = NUM_NEIGHBOURS) -> np.ndarray:
    """Return the pairs of each tile and its nearest neighbours by cosine, exactly, in other splits and in all.

    Args:
        features: (n, channels), each of length 1.
        splits: (n,) names.
        num_neighbours: How many of each tile; twice if there are splits.

    Returns:
        (pairs, 2) int64, in ascending order, the smaller index first.
    """
    everything = np.arange(len(features))
    pairs = [_nearest(features, everything, everything, num_neighbours)]
    for split in np.unique(splits):
        own, others = np.flatnonzero(splits == split), np.flatnonzero(splits != split)
        pairs.append(_nearest(features, own, others, num_neighbours))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _nearest(features: np.ndarray, asking: np.ndarray, among: np.ndarray, num_neighbours: int) -> np.ndarray:
    """Return pairs of a tile of `asking` and a neighbour of `among`, (pairs, 2), none with itself."""
    from sklearn.neighbors import NearestNeighbors

    if not len(asking) or not len(among):
        return np.empty((0, 2), np.int64)
    count = min(num_neighbours + int(np.isin(asking, among).any()), len(among))  # one more if a tile finds itself
    index = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(features[among].astype(np.float32))
    found = index.kneighbors(features[asking].astype(np.float32), return_distance=False)
    pairs = np.stack([np.repeat(asking, count), among[found.ravel()]], axis=1)
    return np.asarray(pairs[pairs[:, 0] != pairs[:, 1]])


def _normalized(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float16)


def _chunks(num_tiles: int) -> list[range]:
    return [range(start, min(start + BATCH_SIZE, num_tiles)) for start in range(0, num_tiles, BATCH_SIZE)]


def _decoded(files: Sequence[TileFile], chunk: range) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return number, pixels, (160, 160, 3) uint8, and edges of the tiles that can be decoded."""
    found = []
    for number in chunk:
        tile = read_and_decode(files[number])
        if not isinstance(tile, Problem):
            found.append((number, resize_tile(tile.pixels, NETWORK_PX), edges_of(tile.pixels)))
    return found
