"""A home in which a small classifier is champion, made once for all tests of the registry."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from inference.tiny import fitted_classifier, open_tiles, render_tiles
from projects import with_databases

from registry.small_runs import GATE, make_run
from satx.inference.manifest import MANIFEST_NAME, Export, verify_export, write_manifest
from satx.models.classifier import Classifier, load_classifier
from satx.registry import promotion, registration
from satx.registry.candidate import Candidate
from satx.registry.comparison import ChampionScores
from satx.registry.model_card import Card
from satx.registry.promotion import Promotion, promote
from satx.registry.records import registered_tasks
from satx.storage import file_digest
from satx.testing.changed_environment import changed_environment
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient, open_tracker
from satx.tracking.runs import get_run


@dataclass(frozen=True)
class PromotedHome:
    """A home and the promotion that was done in it."""

    folder: Path
    first: Promotion


@pytest.fixture(scope="package", autouse=True)
def _load_each_classifier_once() -> Iterator[None]:
    """Keep loaded classifiers, since building a network and tracing its prediction take seconds."""
    loaded: dict[str, Classifier] = {}

    def load_once(folder: Path, *, weights_sha256: str | None = None) -> Classifier:
        digest = file_digest(folder / "classifier.json") + file_digest(folder / "model.weights.h5")
        digest += weights_sha256 or ""
        if digest not in loaded:
            loaded[digest] = load_classifier(folder, weights_sha256=weights_sha256)
        return loaded[digest]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("satx.registry.candidate.load_classifier", load_once)
        yield


@pytest.fixture(scope="package")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_tiles(tmp_path_factory.mktemp("tiles") / "sample")


@pytest.fixture(scope="package")
def store(tiles: Path) -> TileStore:
    return open_tiles(tiles, tiles.parent / "cache")


@pytest.fixture(scope="package")
def classifiers(store: TileStore) -> dict[str, Classifier]:
    return {"right": fitted_classifier(store), "wrong": fitted_classifier(store, sign=-1.0)}


@pytest.fixture(scope="package")
def promoted(
    tmp_path_factory: pytest.TempPathFactory, store: TileStore, classifiers: dict[str, Classifier]
) -> PromotedHome:
    """Return a home in which the right classifier is champion."""
    folder = with_databases(tmp_path_factory.mktemp("home"), tmp_path_factory.getbasetemp())
    with changed_environment(SATX_HOME=str(folder), MLFLOW_TRACKING_URI=None):
        client = open_tracker()
        assert registered_tasks(client) == []
        run_id = make_run(client, classifiers["right"], store)
        return PromotedHome(folder, promote(client, run_id, gate=GATE, force=None))


@pytest.fixture
def client(promoted: PromotedHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    copied = shutil.copytree(promoted.folder, tmp_path / "home")
    monkeypatch.setenv("SATX_HOME", str(copied))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_tracker()


@pytest.fixture
def gate_file(tmp_path: Path) -> Path:
    path = tmp_path / "gate.yaml"
    path.write_text(yaml.safe_dump(GATE.model_dump()))
    return path


@pytest.fixture
def quick(promoted: PromotedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what takes seconds by the results of the first promotion: for runs of the same classifier."""
    judgement, template = promoted.first.judgement, promoted.first.export
    assert judgement is not None
    evaluation, candidate = judgement.evaluation, judgement.candidate

    def stage(candidate: Candidate, classifier: Classifier, folder: Path, *, name: str, version: int) -> Export:
        staged = shutil.copytree(template.folder, folder / str(version))
        (staged / MANIFEST_NAME).unlink()
        about = {key: value for key, value in template.manifest.items() if key not in ("format", "files")}
        own = {"version": version, "run_id": candidate.run.info.run_id}
        own |= {"temperature": classifier.temperature, "threshold": classifier.threshold}
        write_manifest(staged, about | own)
        return verify_export(staged)

    for name, substitute in {
        "load_candidate": lambda client, run_id: replace(candidate, run=get_run(client, run_id)),
        "evaluate": lambda _candidate, _rule: evaluation,
        "score_champion": lambda *_: ChampionScores(1, evaluation.probabilities, "", ()),
        "judge": lambda _gate, _facts: promoted.first.verdicts,
        "stage": stage,
        "median_seconds_per_tile": lambda *_: 0.01,
        "log_split_scores": lambda *_, **__: None,
    }.items():
        monkeypatch.setattr(promotion, name, substitute)
    monkeypatch.setattr(registration, "model_card", lambda _: Card("# Card", "<p>Card</p>"))
