"""Files of the trunk cache: one array each, with a note beside it that has its SHA-256."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from satx.storage import file_digest, replacing, write_json

logger = logging.getLogger(__name__)

_known: dict[Path, tuple[int, int]] = {}  # size and mtime (ns) of the shards that this process has verified


def write_shard(path: Path, values: np.ndarray, note: dict[str, Any]) -> None:
    """Write a shard, `(n, ...)` float16, and beside it a note with its SHA-256."""
    for is_last in (False, False, True):
        try:
            with replacing(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, values, allow_pickle=False)
            write_json(path.with_suffix(".json"), note | {"sha256": file_digest(path)})
            return
        except FileNotFoundError:  # another process just evicted the folder
            if is_last:
                raise


def intact_shard(path: Path) -> np.ndarray | None:
    """Return a shard if it matches its digest, else None; the digest is computed once per process."""
    try:
        status = path.stat()
        if _known.get(path) != (status.st_size, status.st_mtime_ns):
            if file_digest(path) != json.loads(path.with_suffix(".json").read_text())["sha256"]:
                logger.warning("%s does not match its digest; building it again", path.name)
                return None
            _known[path] = (status.st_size, status.st_mtime_ns)
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # a plain array: indexing a memmap is slow
    except (FileNotFoundError, ValueError, KeyError):
        return None


def gather(shards: list[np.ndarray], places: np.ndarray, out: np.ndarray) -> None:
    """Copy the values at these places of an entry, `(n,)` int64, into `out`, `(n, ...)`."""
    shard_tiles = max(map(len, shards), default=1)  # only the last shard may be shorter
    for number, place in enumerate(places.tolist()):
        out[number] = shards[place // shard_tiles][place % shard_tiles]
