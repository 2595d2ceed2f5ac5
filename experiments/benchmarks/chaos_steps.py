"""Processes of `chaos_training`: the sweep that is disturbed, and one undisturbed training.

`sweep FOLDER` is called repeatedly until the sweep is complete, `alone FOLDER STUDY CONFIGURATION…` once for each cut.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from satx.catalogue import ALL, BACKBONES
from satx.errors import SatxError
from satx.execution.driver import close_sweep, name_of_study, only_driver, open_sweep
from satx.execution.job import read_job
from satx.execution.worker_pool import run_workers
from satx.models.weights import random_weights
from satx.sample.sample import render_sample
from satx.search.space import SweepConfig
from satx.session_config import load_session
from satx.sessions.prepare import PreparedSession, SessionRequest, prepare_folder
from satx.storage import satx_home
from satx.study.database import open_storage, open_study
from satx.study.run_recovery import write_missing_records
from satx.tiles.layout import read_layout
from satx.tiles.store import build_store
from satx.tracking.artifacts import curve_files
from satx.tracking.server import local_server
from satx.training.trainer import train

IMAGE_SIZE_PX, NUM_TILES = 96, 40
SETTINGS = {
    "train.head_epochs": 2,
    "train.finetune_epochs": 2,
    "train.batch_size": 8,
    "train.finetune_learning_rate": 0.0001,
    "augmentation.num_flips": 2,
    "model.dropout": 0.2,
}


def main() -> None:
    """Run the sweep or the undisturbed training."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("sweep", "alone"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="study and configurations to train, for `alone`")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--backbones", default="mobilenetv2,xception")
    options = parser.parse_args()
    if options.what == "alone":
        train_alone(options.folder, *options.names)
        return
    try:
        drive(options.folder, options.workers, tuple(options.backbones.split(",")))
    except SatxError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def drive(folder: Path, num_workers: int, backbones: tuple[str, ...]) -> None:
    """Train the rest of the sweep as `satx sweep` does, without its baselines and finalists.

    Raises:
        Interrupted: A stop signal arrived.
        SatxError: The sweep stopped with an error.
    """
    config = sweep_of_all_cuts(backbones)
    prepared = _prepared_session(folder, config)
    name, _ = name_of_study(prepared, config)
    with only_driver(name), ExitStack() as held:
        uri = held.enter_context(local_server()) if num_workers > 1 else None
        sweep, status = open_sweep(prepared, config, config.trials, git_commit="0" * 40, tracking_uri=uri), "KILLED"
        try:
            if run_workers(sweep, num_workers=num_workers, ends_at=float("inf"), on_tick=lambda _: None):
                status = "FINISHED"
            write_missing_records(sweep.study, sweep.client, sweep.job.experiment_id)
        finally:
            close_sweep(sweep, status)


def sweep_of_all_cuts(backbones: tuple[str, ...]) -> SweepConfig:
    """Return a sweep of all tails from short to long and back, on the way back with another optimizer and head."""
    starts = []
    for name in backbones:
        deeper = [*reversed(BACKBONES[name].cuts), ALL]
        forth = {"model.backbone": name, "train.optimizer": "adam", "model.dense_units": 16}
        back = {"model.backbone": name, "train.optimizer": "rmsprop", "model.dense_units": 0}
        starts += [forth | {"model.unfreeze": cut} for cut in deeper]
        starts += [back | {"model.unfreeze": cut} for cut in reversed(deeper)]
    parts: dict[str, Any] = {
        "name": "chaos-training",
        "trials": len(starts),
        "keep_models_per_backbone": 1,
        "pruner": {"name": "none"},
        "set": SETTINGS,
        "start": starts,
        "space": {
            "model.backbone": {"choices": list(backbones)},
            "model.unfreeze": {name: {"choices": [*BACKBONES[name].cuts, ALL]} for name in backbones},
            "train.optimizer": {"choices": ["adam", "rmsprop"]},
            "model.dense_units": {"choices": [0, 16]},
        },
    }
    return SweepConfig.model_validate(parts)


def _prepared_session(folder: Path, config: SweepConfig) -> PreparedSession:
    """Prepare rendered tiles, and random weights as files, so that they are trained like pretrained weights."""
    tiles = read_layout(render_sample(folder / "sample", session=2, num_tiles=NUM_TILES, workers=1))
    weights = folder / "weights"
    if not weights.exists():
        store = build_store(tiles, image_size_px=IMAGE_SIZE_PX, cache_dir=satx_home() / "cache")
        new = folder / "weights-being-made"
        new.mkdir(exist_ok=True)
        for name in config.backbones:
            made = random_weights(name, store.pixels(), store.rows("train"), seed=20, cache_dir=satx_home() / "cache")
            shutil.copyfile(made.file, new / f"{name}_notop.weights.h5")
        new.rename(weights)
    request = SessionRequest("2", weights=str(weights), image_size_px=IMAGE_SIZE_PX)
    return prepare_folder(tiles, load_session("2"), request, config.backbones)


def train_alone(folder: Path, study_name: str, *digests: str) -> None:
    """Train configurations of a study with a separate trunk cache; write curves to `FOLDER/alone/DIGEST.csv`."""
    study = open_study(open_storage(), study_name)
    job, alone = read_job(study), folder / "alone"
    drawn = {trial.user_attrs.get("configuration"): trial for trial in study.get_trials()}
    for digest in digests:
        configuration = job.configuration_of(drawn[digest])
        data = replace(job.data_for(configuration.model.backbone), cache_dir=alone / "cache", kept={})
        result = train(configuration, data, checkpoint_dir=alone / digest)
        curve_files(result.history)["history.csv"](alone / f"{digest}.csv")


if __name__ == "__main__":
    main()
