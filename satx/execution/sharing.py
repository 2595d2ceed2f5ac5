"""Exchange of inputs and checkpoints between machines through a bucket, verified by the digests in the study."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from satx.bucket import Client, get_folder, put_files, put_folder, remove_folder
from satx.errors import DataError, TrackerUnavailable
from satx.models.weights_file import Weights
from satx.storage import locked, satx_home
from satx.tiles.store import TileStore
from satx.training.checkpoint import num_epochs, remove_checkpoint

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"  # trial attribute: URI and digest of its latest checkpoint
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
        DataError: The bucket does not have it.
        TrackerUnavailable: The bucket cannot be reached.
    """
    if path.exists() or name not in shared:
        return path
    uri, digest = shared[name]
    here = satx_home() / "cache" / uri.rpartition("/")[2]
    with locked(here):
        if not here.is_dir():
            get_folder(s3_client(), uri, here, digest)
    return here if name == TILES else here / WEIGHTS_NAME


def send_checkpoint(trial: optuna.Trial, bucket: str, study_name: str, folder: Path, step: int) -> None:
    """Upload a training's checkpoint, record it with the trial, and then remove the previous upload.

    If the bucket cannot be reached, this training goes on. A later attempt on another machine then repeats some epochs.

    Args:
        trial: The trial; Optuna rejects the attribute if another worker has taken over the trial.
        bucket: `s3://bucket/prefix`.
        study_name: Name of the trial's study.
        folder: Folder of the checkpoint.
        step: Epochs done.

    Raises:
        UpdateFinishedTrialError: Another worker has taken over the trial.
    """
    uri = f"{bucket}/checkpoints/{study_name}/{folder.name}/{trial.number}-{step}"
    before = trial.user_attrs.get(CHECKPOINT)
    try:
        trial.set_user_attr(CHECKPOINT, [uri, put_folder(s3_client(), uri, folder)])
        if before and before[0] != uri:
            remove_folder(s3_client(), before[0])
    except TrackerUnavailable as error:
        logger.warning("%s", error)


def fetch_checkpoint(attempts: list[FrozenTrial], folder: Path) -> None:
    """Fetch the newest checkpoint of an earlier attempt from the bucket, unless the local one has as many epochs.

    Args:
        attempts: Earlier attempts, oldest first.
        folder: Folder of the local checkpoint.
    """
    left = [attempt.user_attrs[CHECKPOINT] for attempt in attempts if CHECKPOINT in attempt.user_attrs]
    if not left or num_epochs(folder) >= int(left[-1][0].rpartition("-")[2]):
        return
    fetched = folder.with_name(f"{folder.name}-fetched")
    try:
        get_folder(s3_client(), left[-1][0], fetched, left[-1][1])
        remove_checkpoint(folder)
        fetched.rename(folder)
    except (DataError, TrackerUnavailable) as error:  # a restart gives the same scores
        logger.warning("cannot use the checkpoint of an earlier attempt: %s", error)


def remove_checkpoints(attempts: list[FrozenTrial]) -> None:
    """Remove the checkpoints that the attempts of an ended configuration left in the bucket."""
    try:
        for attempt in attempts:
            if CHECKPOINT in attempt.user_attrs:
                remove_folder(s3_client(), attempt.user_attrs[CHECKPOINT][0])
    except TrackerUnavailable as error:
        logger.warning("%s", error)
