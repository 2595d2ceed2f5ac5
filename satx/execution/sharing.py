"""Inputs and checkpoints travel between machines through a bucket: what one has another fetches, by the digest on record."""

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

CHECKPOINT = "checkpoint"  # attribute of a trial: where its last state lies, and the digest of that
TILES = "tiles"
WEIGHTS_NAME = "backbone_notop.weights.h5"  # Keras goes by the name's end
Shared = dict[str, list[str]]  # of what a study reads: where it lies, and the digest of that


@functools.cache
def s3_client() -> Client:
    """A client of this machine's role and region."""
    import boto3

    return boto3.client("s3")


def share_inputs(s3: Client, bucket: str, store: TileStore, weights: dict[str, Weights]) -> Shared:
    """Put tiles and weights where other machines can fetch them; what is there is not sent again.

    Raises:
        TrackerUnavailable: The bucket does not take it.
    """
    uri = f"{bucket}/tiles/{store.folder.name}"
    shared = {TILES: [uri, put_folder(s3, uri, store.folder)]}
    for name, found in weights.items():
        uri = f"{bucket}/weights/{name}-{found.digest[:16]}"
        shared[name] = [uri, put_files(s3, uri, {WEIGHTS_NAME: Path(found.file)})]
    return shared


def path_here(path: Path, name: str, shared: Shared) -> Path:
    """What a study reads: where it was made, or on another machine in its own cache, fetched when it is missing.

    Args:
        path: Where it was made: the folder of a tile store, or a file of weights.
        name: What it is in `shared`.
        shared: As `share_inputs` returned it; empty where no bucket is used.

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
    """Put a training's state into the bucket, and say so with its trial; the state before it is then removed.

    Args:
        trial: Refuses, if another worker has it by now.
        bucket: `s3://bucket/prefix`.
        study_name: The trial's.
        folder: The training's checkpoint.
        step: Epochs done.

    A bucket that cannot be reached costs whoever goes on some epochs, and this training nothing.

    Raises:
        UpdateFinishedTrialError: Another worker has the trial by now.
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
    """Fetch the newest state that an earlier attempt left in a bucket, unless this machine has one that is as far.

    Args:
        attempts: Earlier ones, oldest first.
        folder: Where the training keeps its state.
    """
    left = [attempt.user_attrs[CHECKPOINT] for attempt in attempts if CHECKPOINT in attempt.user_attrs]
    if not left or num_epochs(folder) >= int(left[-1][0].rpartition("-")[2]):
        return
    fetched = folder.with_name(f"{folder.name}-fetched")
    try:
        get_folder(s3_client(), left[-1][0], fetched, left[-1][1])
        remove_checkpoint(folder)
        fetched.rename(folder)
    except (DataError, TrackerUnavailable) as error:  # begun again from the start, it ends at the same scores
        logger.warning("an earlier attempt's state cannot be used: %s", error)


def remove_checkpoints(attempts: list[FrozenTrial]) -> None:
    """Forget what the attempts of an ended configuration left in the bucket."""
    try:
        for attempt in attempts:
            if CHECKPOINT in attempt.user_attrs:
                remove_folder(s3_client(), attempt.user_attrs[CHECKPOINT][0])
    except TrackerUnavailable as error:
        logger.warning("%s", error)
