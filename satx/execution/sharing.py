"""Exchange of inputs and checkpoints between machines through a bucket, verified by the digests in the study."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from satx.bucket import Client, get_folder, put_files, put_folder, remove_folder
from satx.errors import DataError, TrackerUnavailable
from satx.models.weights_file import Weights
from satx.storage import in_this_home, locked, satx_home
from satx.tiles.store import TileStore
from satx.training.checkpoint import num_epochs, remove_checkpoint

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"  # trial attribute: URI and digest of its latest checkpoint
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a folder in the bucket and in the cache
TILES = "tiles"
WEIGHTS_NAME = "backbone_notop.weights.h5"  # Keras selects the format by the ending
Shared = dict[str, list[str]]  # URI and digest of each input of a study


@functools.cache
def s3_client() -> Client:
    """Return an S3 client with this machine's role and region."""
    import boto3

    return boto3.client("s3")


def share_inputs(s3: Client, bucket: str, store: TileStore, weights: dict[str, Weights]) -> Shared:
    """Upload tiles and weights for other machines, except what is in the bucket already.

    Raises:
        TrackerUnavailable: The bucket rejects the upload or cannot be reached.
    """
    uri = f"{bucket}/tiles/{store.folder.name}"
    shared = {TILES: [uri, put_folder(s3, uri, store.folder)]}
    for name, found in weights.items():
        uri = f"{bucket}/weights/{name}-{found.digest[:16]}"
        shared[name] = [uri, put_files(s3, uri, {WEIGHTS_NAME: Path(found.file)})]
    return shared


def path_here(path: Path, name: str, shared: Shared) -> Path:
    """Return the local path of a study's input; on another machine, fetch it into the cache if it is missing.

    Args:
        path: Path on the machine that made it: the folder of a tile store, or a file of weights.
        name: Its key in `shared`.
        shared: Result of `share_inputs`; empty if no bucket is used.

    Raises:
        DataError: The bucket does not have it, or its name in the study is none that satx writes.
        TrackerUnavailable: The bucket cannot be reached.
    """
    path = in_this_home(path)
    if path.exists() or name not in shared:
        return path
    uri, digest = shared[name]
    folder_name = uri.rpartition("/")[2]
    if not _NAME.fullmatch(folder_name):
        raise DataError(
            f"The study names {uri!r} as its {name}: expected a URI that ends in the name of a folder. Start the sweep again; "
            f"it writes its inputs anew."
        )
    here = satx_home() / "cache" / folder_name
    with locked(here):
        if not here.is_dir():
            get_folder(s3_client(), uri, here, digest)
    return here if name == TILES else here / WEIGHTS_NAME


def checkpoints_uri(bucket: str, study_name: str, folder: Path) -> str:
    """Return where the bucket has the checkpoints of one configuration, whose local folder is `folder`."""
    return f"{bucket}/checkpoints/{study_name}/{folder.name}"


def send_checkpoint(trial: optuna.Trial, checkpoints: str, folder: Path, step: int) -> None:
    """Upload a training's checkpoint, record it with the trial, and then remove the previous upload.

    If the bucket cannot be reached, this training goes on. A later attempt on another machine then repeats some epochs.

    Args:
        trial: The trial; Optuna rejects the attribute if another worker has taken over the trial.
        checkpoints: URI of the checkpoints of its configuration, from `checkpoints_uri`.
        folder: Folder of the checkpoint.
        step: Epochs done.

    Raises:
        UpdateFinishedTrialError: Another worker has taken over the trial.
    """
    uri = f"{checkpoints}/{trial.number}-{step}"
    before = _recorded(trial.user_attrs, checkpoints)
    try:
        trial.set_user_attr(CHECKPOINT, [uri, put_folder(s3_client(), uri, folder)])
        if before and before[0] != uri:
            remove_folder(s3_client(), before[0])
    except TrackerUnavailable as error:
        logger.warning("%s", error)


def fetch_checkpoint(attempts: list[FrozenTrial], checkpoints: str, folder: Path) -> None:
    """Fetch the newest checkpoint of an earlier attempt from the bucket, unless the local one has as many epochs.

    Args:
        attempts: Earlier attempts, oldest first.
        checkpoints: URI of the checkpoints of their configuration, from `checkpoints_uri`.
        folder: Folder of the local checkpoint.
    """
    left = [found for attempt in attempts if (found := _recorded(attempt.user_attrs, checkpoints))]
    if not left or num_epochs(folder) >= int(left[-1][0].rpartition("-")[2]):
        return
    fetched = folder.with_name(f"{folder.name}-fetched")
    try:
        get_folder(s3_client(), left[-1][0], fetched, left[-1][1])
        remove_checkpoint(folder)
        fetched.rename(folder)
    except (DataError, TrackerUnavailable) as error:  # a restart gives the same scores
        logger.warning("cannot use the checkpoint of an earlier attempt: %s", error)


def remove_checkpoints(attempts: list[FrozenTrial], checkpoints: str) -> None:
    """Remove the checkpoints that the attempts of an ended configuration left in the bucket.

    Args:
        attempts: All attempts of the configuration.
        checkpoints: URI of its checkpoints, from `checkpoints_uri`; nothing elsewhere is removed.
    """
    try:
        for attempt in attempts:
            if found := _recorded(attempt.user_attrs, checkpoints):
                remove_folder(s3_client(), found[0])
    except TrackerUnavailable as error:
        logger.warning("%s", error)


def _recorded(attributes: Mapping[str, Any], checkpoints: str) -> tuple[str, str] | None:
    """Return URI and digest of a trial's checkpoint, unless another process wrote something else into the study."""
    found = attributes.get(CHECKPOINT)
    if found is None:
        return None
    match found:
        case [str(uri), str(digest)] if re.fullmatch(re.escape(checkpoints) + r"/\d+-\d+", uri):
            return uri, digest
    logger.warning("ignoring the checkpoint %.200r: expected one below %s", found, checkpoints)
    return None
