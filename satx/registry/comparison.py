"""The champion on a candidate's test tiles, if it can be scored there and has not seen any of them in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from satx.errors import ConfigError, DataError, WeightsError
from satx.evaluation.calibration import calibrated
from satx.inference.predictor import predict_split
from satx.models.classifier import Classifier
from satx.registry.candidate import Candidate, fetch_version
from satx.storage import satx_home
from satx.tiles.layout import read_layout
from satx.tiles.store import TileStore, build_store, open_store
from satx.tracking.client import MlflowClient
from satx.tracking.provenance import recorded_inputs
from satx.tracking.runs import get_run

NUM_NAMED = 3  # tiles that a message names


@dataclass(frozen=True)
class ChampionScores:
    """The champion on the candidate's test tiles.

    Attributes:
        version: Its version.
        probabilities: Its calibrated probabilities, (N, C) float32, in the order of the candidate's `store.rows("test")`;
            None if it cannot be compared.
        problem: Why it cannot be compared; empty if it can.
        text: What to know about the comparison, and what to do about a problem that a user can solve.
    """

    version: int
    probabilities: np.ndarray | None
    problem: str
    text: tuple[str, ...]


def score_champion(client: MlflowClient, candidate: Candidate, name: str, version: int) -> ChampionScores:
    """Predict the candidate's test tiles with the champion, unless that would not be a fair comparison.

    Args:
        client: MLflow client.
        candidate: The run that is compared with it; it has test tiles.
        name: Name of the registered model.
        version: The champion.

    Returns:
        Its probabilities, or the reason why there are none.
    """
    registered = client.get_model_version(name, str(version))
    run_id = str(registered.run_id)
    try:
        run = get_run(client, run_id)
        session, folder, _ = recorded_inputs(run_id, run.data.tags)
        trained_on = open_store(folder)
        classifier = fetch_version(client, registered)
        _check_classes(candidate.classifier, classifier)
        tiles = store_at(candidate.store, classifier.image_size_px)
    except (ConfigError, DataError, WeightsError) as error:
        return ChampionScores(version, None, f"the champion, version {version}, cannot be evaluated: {error}", ())
    text = _provenance(candidate, trained_on, session.experiment_name, version)
    if seen := seen_tiles(candidate.store, trained_on):
        num_test = len(candidate.store.rows("test"))
        problem = f"the champion was trained or validated on {len(seen)} of the {num_test} test tiles"
        more = f" and {len(seen) - NUM_NAMED} more" if len(seen) > NUM_NAMED else ""
        advice = (
            f"The champion, version {version}, has seen {len(seen)} of this run's {num_test} test tiles in training or "
            f"validation ({', '.join(seen[:NUM_NAMED])}{more}), so its scores there say nothing. Keep these tiles out of test/ "
            f"and train again, or pass `--force REASON`."
        )
        return ChampionScores(version, None, problem, (*text, advice))
    raw = predict_split(classifier.network, tiles, "test")
    return ChampionScores(version, calibrated(raw, classifier.temperature), "", text)


def seen_tiles(store: TileStore, trained_on: TileStore) -> list[str]:
    """Return the ids of a store's test tiles that are among the train or valid tiles of another, by their pixels.

    The digest is that of a picture in its original size, so stores of different image sizes can be compared.
    """
    seen = trained_on.index.loc[trained_on.index["split"].isin(["train", "valid"]), "content_digest"]
    tests = store.index.iloc[store.rows("test")]
    return tests.loc[tests["content_digest"].isin(seen), "tile_id"].astype(str).tolist()


def _test_digests(store: TileStore) -> pd.Series:
    return store.index.iloc[store.rows("test")]["content_digest"]


def _provenance(candidate: Candidate, trained_on: TileStore, session: str, version: int) -> tuple[str, ...]:
    store = candidate.store
    if trained_on.digest == store.digest:
        return (f"The champion, version {version}, was trained on the same tiles.",)
    shared = int(_test_digests(store).isin(_test_digests(trained_on)).sum())
    return (
        f"The champion, version {version}, was trained on other tiles ({session}: {len(trained_on.rows('train'))} train tiles, "
        f"digest {trained_on.digest[:12]}; this run: {len(store.rows('train'))}, digest {store.digest[:12]}). Both are "
        f"evaluated on this run's {len(store.rows('test'))} test tiles, {shared} of which are also the champion's test tiles.",
    )


def _check_classes(candidate: Classifier, champion: Classifier) -> None:
    if champion.classes != candidate.classes:
        raise ConfigError(
            f"expected the champion's classes ({', '.join(champion.classes)}), got {', '.join(candidate.classes)}. Train on the "
            f"champion's classes, or give the session another task."
        )


def store_at(store: TileStore, image_size_px: int) -> TileStore:
    """Return the same tiles decoded from their files at another size.

    The rows have the same order, since they are sorted by content.

    Raises:
        DataError: The files are missing or were changed.
    """
    if image_size_px == store.image_size_px:
        return store
    root = store.report.root
    try:
        other = build_store(read_layout(root), image_size_px=image_size_px, cache_dir=satx_home() / "cache")
    except DataError as error:
        raise DataError(
            f"it needs tiles of {image_size_px} px, which cannot be read from {root}: {error} Restore the folder."
        ) from error
    if other.digest != store.digest:
        raise DataError(
            f"it needs tiles of {image_size_px} px, but {root} no longer contains the tiles that this run was trained on. "
            f"Restore them."
        )
    return other
