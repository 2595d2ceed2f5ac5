"""Preparation of a training that repeats an earlier run, on the tiles and weights that the run records."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.entities import Run

from satx.config import Configuration
from satx.environment import num_threads
from satx.errors import ConfigError
from satx.models.weights_file import Weights
from satx.sessions.prepare import OnStage, PreparedSession, SessionRequest, checked_store, weights_for
from satx.tiles.layout import read_layout
from satx.tiles.store import TileStore, open_store
from satx.tracking.provenance import recorded_inputs


def prepare_repetition(
    run: Run, recorded: Configuration, request: SessionRequest, values: Mapping[str, object], *, on_progress: OnStage
) -> tuple[Configuration, PreparedSession]:
    """Return the configuration of a run, overridden by `values`, and its session with the same tiles and weights.

    Args:
        run: The run, with the tag `inputs`.
        recorded: Its configuration.
        request: Where tiles and weights are now; None for where the run records them.
        values: Dotted settings that override the run's.
        on_progress: Called with the progress.

    Raises:
        ConfigError: The run used another backbone, size, tiles or weights than the caller named.
        DataError: The tiles that the caller named are not those of the session's manifest.
    """
    wanted = recorded.with_values(dict(values), source="--set")
    backbone, size_px = recorded.model.backbone, recorded.image_size_px
    if wanted.model.backbone != backbone:
        raise ConfigError(
            f"--from-run: expected the run's backbone, {backbone}, got {wanted.model.backbone}. Train without --from-run."
        )
    if request.image_size_px not in (None, size_px):
        raise ConfigError(
            f"--from-run: expected the run's size, {size_px} px, got {request.image_size_px}. Leave it out."
        )
    session, store_folder, weights = recorded_inputs(run.info.run_id, run.data.tags)
    if request.data is None:
        store = open_store(store_folder)
    else:
        folder = read_layout(request.data)
        store = checked_store(folder, session, image_size_px=size_px, on_progress=on_progress)
    if request.weights is not None:
        found, _ = weights_for(request, (backbone,), store, recorded.train.seed)
        weights = found[backbone]
    _refuse_other_inputs(store, weights, run.data.tags)
    return wanted, PreparedSession(session, wanted, store, {backbone: weights}, _notices(run))


def _refuse_other_inputs(store: TileStore, weights: Weights, recorded: Mapping[str, str]) -> None:
    found = {"data_digest": store.digest, "weights_digest": weights.digest}
    what = {"data_digest": "tiles (DATA=DIR, --data)", "weights_digest": "weights (WEIGHTS=DIR, --weights)"}
    for name, value in found.items():
        if recorded.get(name, value) != value:
            raise ConfigError(
                f"--from-run: expected the {what[name]} that the run was trained on, digest {recorded[name][:12]}…, "
                f"got {value[:12]}…. Give those, or leave the option out: the run records where they are. A run of another "
                f"version of satx cannot be repeated: train without --from-run, with its settings as --set."
            )


def _notices(run: Run) -> tuple[str, ...]:
    """Return a notice if this process has another number of threads than the run, which changes the last digits."""
    threads = int(run.data.tags.get("threads", num_threads()))
    if threads == num_threads():
        return ()
    notice = (
        f"Run {run.info.run_id} was trained with {threads} threads, this process uses {num_threads()}: the last digits may "
        f"differ. Repeat it in a separate process: `satx train --from-run {run.info.run_id}`."
    )
    return (notice,)
