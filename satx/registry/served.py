"""`SATX_HOME/exports/models.config`: which versions a server loads, and which of them has the label `champion`.

`satx serve` and TensorFlow Serving follow this file, so that serving needs no MLflow. A label may only move to a version that
the server has loaded; therefore both versions are listed before it moves.
"""

from __future__ import annotations

from pathlib import Path

from satx.inference.serving_files import (
    BATCHING_NAME,
    MODELS_CONFIG_NAME,
    ServedVersions,
    read_models_config,
    write_batching,
    write_models_config,
)
from satx.registry.versions import CHAMPION, export_folder
from satx.storage import locked, satx_home


def models_config() -> Path:
    """Return the path of the file."""
    return satx_home() / "exports" / MODELS_CONFIG_NAME


def serve_both(name: str, champion: int | None, challenger: int) -> None:
    """List champion and challenger, with the label on the champion.

    Without a champion on this machine nothing is written: the label would have to point at a version that does not serve.
    """
    if champion is not None and export_folder(name, champion).is_dir():
        _list(name, (champion, challenger), champion)


def serve_champion(name: str, champion: int, previous: int | None) -> None:
    """List the champion with its label, and the version before it if its number is lower.

    A previous version with a higher number is left out: TensorFlow Serving answers requests that name no version with the
    highest number. Nothing is written if the champion's export is not on this machine.
    """
    if export_folder(name, champion).is_dir():
        _list(name, (previous, champion) if previous is not None and previous < champion else (champion,), champion)


def served_version(name: str) -> int | None:
    """Return the version of a model that servers on this machine answer with, or None if the file does not list it."""
    path = models_config()
    models = read_models_config(path) if path.is_file() else {}
    return models[name].labels.get(CHAMPION) if name in models else None


def _list(name: str, versions: tuple[int, ...], champion: int) -> None:
    path = models_config()
    present = tuple(sorted(version for version in versions if export_folder(name, version).is_dir()))
    with locked(satx_home() / "locks" / "models-config"):
        models = read_models_config(path) if path.is_file() else {}
        models[name] = ServedVersions(export_folder(name, champion).parent, present, {CHAMPION: champion})
        write_batching(path.with_name(BATCHING_NAME))
        write_models_config(path, models)
