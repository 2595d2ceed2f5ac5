"""Exchange of pooled features through the bucket: one machine computes those of a backbone, all others fetch them.

The first worker that needs the features claims them in the study and renews the claim while it computes. Afterwards it
records their URI and digest in place of the claim. A claim that is not renewed expires, and another worker can take it
over. If the first worker is still alive, both compute and upload to different URIs, and either upload is valid.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from satx.bucket import get_folder, put_files
from satx.errors import DataError, TrackerUnavailable
from satx.execution.sharing import s3_client
from satx.study.database import alone_at, is_lost
from satx.study.outages import BREAKS
from satx.study.owner import owner_host

logger = logging.getLogger(__name__)

CLAIM_SECONDS = 60.0
RENEW_SECONDS = 10.0
POLL_SECONDS = 2.0
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Features:
    """A backbone's pooled features.

    Attributes:
        study: The study in which machines record claims and URIs.
        name: Path below `features/` in the bucket, which identifies them.
        bucket: `s3://bucket/prefix` of the study.
        folder: Folder of the features on this machine; other files in it are left as they are.
        scratch: A folder on the same disk, for temporary files.
    """

    study: optuna.Study
    name: str
    bucket: str
    folder: Path
    scratch: Path

    @property
    def attribute(self) -> str:
        """Name of the study's attribute that holds the claim, or the URI and digest; unset before the first claim."""
        return f"features {self.name}"

    def on_record(self) -> dict[str, Any]:
        """Return the claim, or the URI and digest, as recorded in the study; empty if there is none."""
        return dict(self.study.user_attrs.get(self.attribute, {}))


def share_features(
    features: Features,
    build: Callable[[OnProgress], None],
    is_there: Callable[[], bool],
    *,
    on_progress: OnProgress,
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Provide features on this machine: compute them if no machine has done so or is doing so, else fetch them.

    If the bucket cannot be reached, this machine computes the features itself.

    Args:
        features: The features.
        build: Computes them, together with other workers of this machine; called with a progress callback.
        is_there: Returns whether they are on this machine.
        on_progress: Called with the progress, also while another machine computes; an exception from it ends the wait.
        poll_seconds: Time between two reads of the study while another machine computes.
    """
    while not is_there():
        found = features.on_record()
        if "uri" in found:
            if not _fetch(features, found["uri"], found["digest"], on_progress):
                build(on_progress)
            return
        if time.time() - found.get("claimed_at", 0.0) > CLAIM_SECONDS:
            token = secrets.token_hex(4)
            if _claim(features, found, token):
                _compute(features, build, token, on_progress)
                return
        elif found["host"] == owner_host():
            build(on_progress)
            return
        on_progress(0, 1)
        time.sleep(poll_seconds)


def _claim(features: Features, seen: dict[str, Any], token: str) -> bool:
    """Claim the features and return whether this succeeded; it fails while the database is unavailable."""
    try:
        with alone_at(features.study, features.attribute):
            if features.on_record() != seen:
                return False
            _note(features, token)
    except BREAKS as error:
        if not is_lost(error):
            raise
        return False
    return True


def _note(features: Features, token: str, *, claimed_at: float | None = None) -> None:
    at = time.time() if claimed_at is None else claimed_at
    features.study.set_user_attr(features.attribute, {"token": token, "host": owner_host(), "claimed_at": at})


def _compute(features: Features, build: Callable[[OnProgress], None], token: str, on_progress: OnProgress) -> None:
    renewed_at = time.monotonic()

    def is_ours() -> bool:
        return bool(features.on_record().get("token") == token)

    def renewing(done: int, total: int) -> None:
        nonlocal renewed_at
        if time.monotonic() - renewed_at > RENEW_SECONDS and is_ours():
            renewed_at = time.monotonic()
            _note(features, token)
        on_progress(done, total)

    uri, place = f"{features.bucket}/features/{features.name}/{token}", None
    try:
        build(renewing)
        place = {"uri": uri, "digest": put_files(s3_client(), uri, _shards(features.folder), on_progress=renewing)}
    except TrackerUnavailable as error:
        logger.warning("%s", error)
    finally:
        if place is not None and "uri" not in features.on_record():
            features.study.set_user_attr(features.attribute, place)
        elif place is None and is_ours():
            _note(features, token, claimed_at=0.0)  # expire the claim: another worker may succeed


def _shards(folder: Path) -> dict[str, Path]:
    """Return the files of the complete shards: those with the JSON note that is written after each shard."""
    whole = [path for path in sorted(folder.glob("*.npy")) if path.with_suffix(".json").exists()]
    return {path.name: path for shard in whole for path in (shard, shard.with_suffix(".json"))}


def _fetch(features: Features, uri: str, digest: str, on_progress: OnProgress) -> bool:
    """Fetch the features and return whether this succeeded.

    Each shard's note is moved into place after the shard, so a shard without its note does not count.
    """
    with tempfile.TemporaryDirectory(dir=features.scratch, prefix=".features-") as temporary:
        fetched = Path(temporary) / "fetched"
        try:
            get_folder(s3_client(), uri, fetched, digest, on_progress=on_progress)
            features.folder.mkdir(parents=True, exist_ok=True)
            for path in _shards(fetched).values():
                path.replace(features.folder / path.name)
        except (DataError, TrackerUnavailable, FileNotFoundError) as error:  # FileNotFoundError: evicted meanwhile
            logger.warning("cannot fetch the pooled features, so this machine computes them: %s", error)
            return False
    return True
