"""Checks of a command's arguments that need neither Keras nor MLflow, whose imports take many seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satx.errors import ConfigError, nearest_name

if TYPE_CHECKING:
    from satx.config import Configuration


def check_request(
    session: str,
    data: Path | None,
    size: int | None,
    *,
    sweep: str | None = None,
    assignments: Sequence[str] = (),
    from_run: bool = False,
) -> dict[str, Any]:
    """Raise an error for a session, folder, size, sweep or setting that does not exist, before anything slow is imported.

    Args:
        session: Name of the session.
        data: Folder of tiles, if the user named one.
        size: Edge of the tiles in pixels, if the user gave one.
        sweep: Name of the sweep, if the user gave one.
        assignments: Settings, as `name=value`.
        from_run: Whether the settings change those of a run, not the session's defaults; then only names are checked.

    Returns:
        The values of the settings by dotted name.

    Raises:
        ConfigError, DataError: The first of these that is wrong.
    """
    from satx.config import check_name, parse_assignments
    from satx.session_config import load_session
    from satx.tiles.layout import check_is_folder

    values = parse_assignments(list(assignments))
    for name in values:
        check_name(name, source="--set")
    defaults = load_session(session).defaults.with_values({} if from_run else values, source="--set")
    if size is not None:
        defaults.with_values({"image_size_px": size}, source="--size")
    if sweep is not None:
        from satx.search.space import load_sweep

        load_sweep(sweep)
    if data is not None:
        check_is_folder(data)
    return values


def check_run(run_id: str) -> None:
    """Raise an error for a run that MLflow does not know, before Keras is imported.

    Raises:
        ConfigError: There is no such run.
        TrackerUnavailable: MLflow does not answer.
    """
    from satx.tracking.client import open_tracker
    from satx.tracking.runs import get_run

    get_run(open_tracker(), run_id)


def check_original(
    model: str, unfreeze: str, *, trials: int, size: int | None, folders: Sequence[Path]
) -> Configuration:
    """Raise an error for an argument of `sat_xception train` that is wrong; return the settings of the training.

    Args:
        model: Name of the backbone, in any case.
        unfreeze: The part of the backbone to train.
        trials: Number of configurations.
        size: Edge of the tiles in pixels, if the user gave one.
        folders: The folders of the splits.

    Raises:
        ConfigError, DataError: The first of these that is wrong.
    """
    from satx.catalogue import BACKBONES
    from satx.config import Configuration
    from satx.tiles.layout import check_is_folder

    backbone = model.lower()
    if backbone not in BACKBONES:
        raise ConfigError(
            f"-model: expected the name of a backbone, got {model[:200]!r}. {nearest_name(backbone, BACKBONES)}"
        )
    if trials < 1:
        raise ConfigError(f"-trials: expected 1 or more, got {trials}. Leave it out for one training.")
    named = {"model.backbone": backbone, "model.unfreeze": unfreeze}
    settings = Configuration().with_values(named, source="-unfreeze")
    size_px = BACKBONES[backbone].default_size_px if size is None else size
    settings = settings.with_values({"image_size_px": size_px}, source="-size")
    if size_px < BACKBONES[backbone].min_size_px:
        raise ConfigError(
            f"-size: expected at least {BACKBONES[backbone].min_size_px} px for {backbone}, got {size_px}. Pass a larger "
            f"one, or another -model."
        )
    for folder in folders:
        check_is_folder(folder)
    return settings
