"""`satx onnx`: write the champion as an ONNX model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from satx.commands.console import out
from satx.inference.onnx import write_onnx
from satx.registry.versions import champion_of, task_name, verified_export
from satx.tiles.store import open_store
from satx.tracking.client import open_tracker
from satx.tracking.provenance import recorded_inputs
from satx.tracking.runs import get_run

NUM_COMPARED = 8


def onnx_command(path: Path, *, task: str | None) -> None:
    """Convert the champion's export, compare both on tiles of its session, and print the difference.

    Raises:
        ConfigError: There is no champion, or the extra `satx[onnx]` is not installed.
        PromotionRefused: The ONNX model differs too much from the export; nothing is written.
        WeightsError: The export is missing or damaged.
    """
    client = open_tracker()
    name = task_name(client, task)
    version = champion_of(client, name)
    registered = client.get_model_version(name, str(version))
    export = verified_export(registered)
    run_id = str(registered.run_id)
    _, folder, _ = recorded_inputs(run_id, get_run(client, run_id).data.tags)
    store = open_store(folder)
    rows = np.unique(np.linspace(0, len(store.index) - 1, NUM_COMPARED).round().astype(int))
    difference = write_onnx(export.folder, path, np.asarray(store.pixels()[rows]))
    out.print(
        f"{name} version {version} as ONNX: probabilities differ by at most {difference:.1g} on {len(rows)} tiles. Its input "
        f"`images` takes tiles of {store.image_size_px} px, uint8."
    )
    print(path)
