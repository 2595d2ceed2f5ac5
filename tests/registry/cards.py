"""Model cards of drawn probabilities and tiles of noise, and what a reader of their pages sees."""

from __future__ import annotations

import base64
import csv
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
from mlflow.entities import Param, Run, RunData, RunInfo, RunTag
from PIL import Image

from satx.config import Configuration, ModelConfig
from satx.evaluation.assessment import assess
from satx.evaluation.calibration import calibrated
from satx.inference.manifest import Export
from satx.models.classifier import Classifier
from satx.models.weights_file import Weights
from satx.registry.candidate import Candidate
from satx.registry.judged import Evaluation, Forced, GateFile, Verdict
from satx.registry.model_card import CardFacts
from satx.session_config import SessionConfig
from satx.tiles.layout import read_layout
from satx.tiles.store import TileStore, build_store
from satx.tracking.provenance import inputs_tag
from satx.training.contract import run_params

RUN_ID = "0123456789abcdef" * 2
MODEL = ModelConfig(backbone="mobilenetv2", unfreeze="none", dense_units=0)
VERDICTS = (
    Verdict("auc_floor", "", "not asked", True),
    Verdict(
        "auc_not_worse", "an AUC that is not lower than the champion's beyond chance", "+0.012 (-0.004 to 0.029)", True
    ),
    Verdict("calibration_gap", "at most 0.05", "+0.031 (-0.010 to +0.071)", False),
)
GATE_FILE = GateFile("ours.yaml", "fedcba9876543210" * 4)
FORCED = Forced("the pilot starts on Monday", "rosa@hill", "2026-01-31T12:00:00+00:00")


def noise_store(folder: Path, classes: tuple[str, ...], slices: tuple[str, ...], *, per_class: int = 12) -> TileStore:
    """Write tiles of noise, `per_class` in each class of each split, their slices in turn; return their store."""
    random, rows = np.random.default_rng(0), []
    for split in ("train", "valid", "test"):
        for label in classes:
            for number in range(per_class):
                path = folder / "tiles" / f"{len(rows)}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                coarse = random.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((64, 64)).save(path)
                rows.append((f"tiles/{path.name}", label, split, slices[number % len(slices)] if slices else ""))
    with (folder / "tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split", "slice"), *rows])
    return build_store(read_layout(folder), image_size_px=64, cache_dir=folder / "cache")


def evaluation_of(store: TileStore, positive: str, *, temperature: float = 1.7, seed: int = 0) -> Evaluation:
    """Evaluate drawn probabilities with some skill."""
    labels = store.labels()[store.rows("test")]
    scores = np.random.default_rng(seed).normal(size=(len(labels), len(store.classes)))
    scores[np.arange(len(labels)), labels] += 2.0
    odds = np.exp(2 * scores)
    raw = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    after = calibrated(raw, temperature)
    about: dict[str, Any] = {"classes": store.classes, "positive_class": positive, "threshold": 0.4}
    about["slices"] = store.index.iloc[store.rows("test")]["slice"]
    return Evaluation(
        labels, about["slices"].to_numpy(), raw, after, assess(labels, raw, **about), assess(labels, after, **about), temperature,
        0.41237, 0.31239 if temperature != 1 else 0.41237, 0.4, "recall_at_fpr(0.05)",
    )  # fmt: skip


def card_facts(store: TileStore, positive: str, **changes: Any) -> CardFacts:
    """Return the facts of a card about drawn probabilities; `changes` replace fields of the facts or the session."""
    session = SessionConfig(
        session="tiny", task="school", positive_class=positive, data_dir="data", sweep="quick",
        allow_embedding=changes.pop("allow_embedding", True),
    )  # fmt: skip
    network = cast("Any", None)  # a card needs none
    classifier = Classifier(network, MODEL, store.image_size_px, store.classes, positive, "school", store.sample)
    weights = Weights("mobilenetv2", "x", "a" * 64, "file")
    tags = inputs_tag(session, store.folder, {"mobilenetv2": weights}) | {"backbone": "mobilenetv2"}
    tags |= {"git_commit": "c0ffee" * 6, "weights_sha256": "b" * 64, "sweep": "quick"}
    params = run_params(Configuration(model=MODEL, image_size_px=store.image_size_px), len(store.classes))
    run = Run(
        RunInfo(RUN_ID, "7", "me", "FINISHED", 0, 1, "active", run_name=changes.pop("run_name", "mobilenetv2 #12")),
        RunData(
            [], [Param(name, str(value)) for name, value in params.items()], [RunTag(*tag) for tag in tags.items()]
        ),
    )
    facts: dict[str, Any] = {
        "candidate": Candidate(run, classifier, session, store),
        "name": "school",
        "version": 3,
        "evaluation": None,
        "verdicts": VERDICTS,
        "forced": FORCED,
        "champion_text": ("The champion, version 2, was trained on other tiles.",),
        "export": Export(Path("exports/school/3"), "d" * 64, {}),
        "gate": GATE_FILE,
    }
    facts |= changes
    facts["evaluation"] = facts["evaluation"] or evaluation_of(store, positive)
    return CardFacts(**facts)


class Page(HTMLParser):
    """The tags of a page and its visible text, with one space between words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def pictures(self) -> list[Image.Image]:
        """Return the embedded JPEG files."""
        sources = [str(attributes.get("src")) for tag, attributes in self.tags if tag == "img"]
        start = "data:image/jpeg;base64,"
        return [Image.open(io.BytesIO(base64.b64decode(s.removeprefix(start)))) for s in sources if s.startswith(start)]
