"""`sat_xception train`: one training, or a search, as in the original program, on folders of class folders."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote

from satx.commands.console import banners
from satx.commands.progress import progress_bars
from satx.commands.stopping import stoppable
from satx.commands.sweep import run_sweep
from satx.commands.train import train_ready
from satx.config import Configuration, validated
from satx.environment import environment
from satx.search.dimension import Dimension
from satx.search.space import BACKBONE, UNFREEZE, ConfirmConfig, SweepConfig, load_sweep
from satx.session_config import SessionConfig
from satx.sessions.prepare import SessionRequest, prepare_folder
from satx.storage import satx_home
from satx.tiles.layout import TileFolder, read_split_folders
from satx.tracking.client import open_tracker

EXPERIMENT = "sat-xception"
SEARCH = "seed200"  # the original program's search space, widened

NO_TEST = (
    "No -test=DIR: the model is not scored on tiles that took no part in its selection. `satx promote` then asks for "
    "--force and a reason, and records it."
)


@stoppable()
def train_original(
    settings: Configuration,
    *,
    train_dir: Path,
    valid_dir: Path,
    test_dir: Path | None,
    trials: int,
    weights: str | None,
    image_size_px: int | None,
) -> None:
    """Train one configuration on these folders, or search `trials` of them.

    Args:
        settings: Settings of the training; a search fixes its backbone and the part that is trained.
        train_dir: Folder of the training tiles, with a folder for each class.
        valid_dir: Folder of the validation tiles.
        test_dir: Folder of the test tiles, if there is one.
        trials: Number of configurations.
        weights: Folder of weights, or `none` for random ones; None for Keras's download.
        image_size_px: Edge of the tiles, if the user gave one.

    Raises:
        ConfigError: A setting cannot be used with these tiles.
        DataError: The folders are not valid tile folders.
    """
    folder = read_split_folders(train_dir, valid_dir, test_dir)
    backbone, positive_class = settings.model.backbone, _class_of_interest(folder)
    session = SessionConfig(
        session=EXPERIMENT,
        task=task_of(positive_class),
        positive_class=positive_class,
        data_dir=str(train_dir),
        sweep=SEARCH,
        defaults=settings,
    )
    search = search_of_one(backbone, settings.model.unfreeze, trials) if trials != 1 else None
    request = SessionRequest(session=EXPERIMENT, weights=weights, image_size_px=image_size_px)
    print(f"Results: {satx_home()}", flush=True)
    with progress_bars() as on_progress:
        prepared = prepare_folder(folder, session, request, (backbone,), on_progress=on_progress)
    if not len(prepared.store.rows("test")):
        banners([NO_TEST])
    if search is not None:
        run_sweep(prepared, search, minutes=None, workers=1, dry_run=False, as_json=False)
    else:
        banners(prepared.notices)
        train_ready(open_tracker(), prepared, prepared.defaults)
    _print_place()


def search_of_one(backbone: str, unfreeze: str, trials: int) -> SweepConfig:
    """Return the shipped search, narrowed to what the original searched in one call.

    That is one backbone, of which every trial trains the same part, and exactly `trials` configurations: none is
    trained again with other seeds.
    """
    sweep = load_sweep(SEARCH)
    fixed = {BACKBONE: backbone, UNFREEZE: unfreeze}
    start = [
        {name: value for name, value in entry.items() if name != UNFREEZE}
        for entry in sweep.start
        if fixed.items() <= entry.items()
    ]
    space: dict[str, Dimension | dict[str, Dimension]] = {
        name: {backbone: dimension[backbone]} if isinstance(dimension, dict) else dimension
        for name, dimension in sweep.space.items()
        if name != UNFREEZE
    }
    space[BACKBONE] = Dimension(choices=[backbone])
    narrowed = {
        "name": f"{SEARCH}-{backbone}",
        "trials": trials,
        "set": dict(sweep.set) | {UNFREEZE: unfreeze},
        "start": start,
        "space": space,
        "confirm": ConfirmConfig(),
    }
    return validated(SweepConfig, sweep.model_dump() | narrowed, source="-trials")


def task_of(positive_class: str) -> str:
    """Return the name of the task, which is a valid name of a registered model whatever the class is called."""
    return re.sub("[^a-z0-9]+", "-", positive_class.lower()).strip("-")[:40] or "class"


def _class_of_interest(folder: TileFolder) -> str:
    """Return the positive class: the one with a `not-` counterpart, as `school`, else the last class by name."""
    negated = [
        name for name in folder.classes if name.removeprefix("not-") in folder.classes and name.startswith("not-")
    ]
    return negated[0].removeprefix("not-") if negated else folder.classes[-1]


def _print_place() -> None:
    """Print where the results are, and what makes the commands above work in any folder."""
    home = satx_home()
    runs = (
        f"Runs are in MLflow at {environment().tracking_uri}; all else" if environment().tracking_uri else "All of it"
    )
    print(f"\n{runs} is in {home}. The commands above work in this folder; in another one, first:")
    print(f"  export SATX_HOME={quote(str(home))}")
