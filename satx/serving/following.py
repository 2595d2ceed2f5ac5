"""Follow the file that says what to serve, while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from satx.errors import ConfigError, SatxError
from satx.inference.manifest import verify_export
from satx.inference.serving_files import ServedVersions
from satx.serving.models import ServedModels

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

Read = Callable[[], Mapping[str, ServedVersions]]


def versions_of_export(folder: Path) -> dict[str, ServedVersions]:
    """Return what to serve of a single export: its model and version, as its manifest names them.

    Args:
        folder: Folder of the export, named by its version.

    Raises:
        ConfigError: The folder's name is not the export's version.
        WeightsError: There is no export, or its files are not those that were written.
    """
    folder = folder.absolute()
    manifest = verify_export(folder).manifest
    if folder.name != str(manifest["version"]):
        raise ConfigError(
            f"{folder}: expected the folder of an export, which has its version {manifest['version']} as name, got "
            f"{folder.name}. Rename the folder."
        )
    return {str(manifest["model_name"]): ServedVersions(folder.parent, (int(folder.name),), {})}


async def follow(read: Read, models: ServedModels, *, report: Callable[[str], None]) -> None:
    """Read every second what to serve, and update the models, until this is cancelled.

    What cannot be read changes nothing: the models that are served go on answering. A file is read whole every time,
    because a version policy such as `latest` depends on folders, not only on the file.

    Args:
        read: Returns what to serve; called in a thread.
        models: The models to update.
        report: Receives a line when reading fails, and when it works again.
    """
    problem = ""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        try:
            await models.update(await asyncio.to_thread(read))
        except SatxError as error:
            if str(error) != problem:
                report(f"Nothing changes: {error}")
            problem = str(error)
        except Exception:  # an unforeseen error must not end a server whose loaded models still answer
            logger.exception("The models could not be updated. Those that are served go on answering.")
        else:
            if problem:
                report("The configuration can be read again.")
            problem = ""
