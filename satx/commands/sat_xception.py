"""`sat_xception train`: one training, or a search, as in the original program, on two folders of class folders."""

from __future__ import annotations

import re
from pathlib import Path

from satx.catalogue import BACKBONES
from satx.commands.console import banners, progress_bars
from satx.commands.sweep import run_sweep
from satx.commands.train import train_ready
from satx.config import Configuration, ModelConfig, SessionConfig, validated
from satx.errors import ConfigError, nearest_name
from satx.search.dimension import Dimension
from satx.search.space import BACKBONE, SweepConfig, load_sweep
from satx.sessions.prepare import SessionRequest, prepare_folder
from satx.tiles.layout import TileFolder, read_split_folders
from satx.tracking.client import open_tracker

EXPERIMENT = "sat-xception"
SEARCH = "seed200"  # the original program's search space, widened


def train_original(
    *,
    backbone: str,
    train_dir: Path,
    valid_dir: Path,
    trials: int,
    weights: str | None,
    image_size_px: int | None,
) -> None:
    """Train one configuration on these folders, or search `trials` of them.

    Raises:
        ConfigError: An unknown backbone.
        DataError: The folders are not valid tile folders.
    """
    backbone = backbone.lower()
    if backbone not in BACKBONES:
        raise ConfigError(
            f"-model: expected the name of a backbone, got {backbone!r}. {nearest_name(backbone, BACKBONES)}"
        )
    folder = read_split_folders(train_dir, valid_dir)
    model = ModelConfig(backbone=backbone, unfreeze=list(BACKBONES[backbone].cuts)[-1])
    size_px = image_size_px if image_size_px is not None else BACKBONES[backbone].default_size_px
    positive_class = _class_of_interest(folder)
    session = SessionConfig(
        session=EXPERIMENT,
        task=re.sub("[^a-z0-9]+", "-", positive_class.lower()).strip("-")[:40] or "class",
        positive_class=positive_class,
        data_dir=str(train_dir),
        sweep=SEARCH,
        defaults=validated(Configuration, {"image_size_px": size_px, "model": model.model_dump()}, source="-size"),
    )
    search = search_of_one(backbone, trials) if trials != 1 else None
    request = SessionRequest(session=EXPERIMENT, weights=weights, image_size_px=image_size_px)
    with progress_bars() as on_progress:
        prepared = prepare_folder(folder, session, request, (backbone,), on_progress=on_progress)
    if search is not None:
        run_sweep(prepared, search, minutes=None, workers=1, dry_run=False, as_json=False)
        return
    banners(prepared.notices)
    train_ready(open_tracker(), prepared, prepared.defaults)


def search_of_one(backbone: str, trials: int) -> SweepConfig:
    """Return the shipped search, narrowed to one backbone: the original program searched one per call."""
    sweep = load_sweep(SEARCH)
    start = [entry for entry in sweep.start if entry.get(BACKBONE) == backbone]
    space: dict[str, Dimension | dict[str, Dimension]] = dict(sweep.space)
    space[BACKBONE] = Dimension(choices=[backbone])
    for name, dimension in sweep.space.items():
        if isinstance(dimension, dict):
            space[name] = {
                backbone: dimension.get(backbone) or Dimension(choices=list(BACKBONES[backbone].unfreeze_names))
            }
    return validated(
        SweepConfig,
        sweep.model_dump() | {"name": f"{SEARCH}-{backbone}", "trials": trials, "start": start, "space": space},
        source="-trials",
    )


def _class_of_interest(folder: TileFolder) -> str:
    """Return the positive class: the one with a `not-` counterpart, as `school`, else the last class by name."""
    negated = [
        name for name in folder.classes if name.removeprefix("not-") in folder.classes and name.startswith("not-")
    ]
    return negated[0].removeprefix("not-") if negated else folder.classes[-1]
