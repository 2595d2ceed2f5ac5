"""The sections of a model card about where a version comes from: its data, its training, and how to repeat it."""

from __future__ import annotations

from importlib.metadata import version

import pandas as pd

import satx
from satx.catalogue import part_label
from satx.inference.manifest import Export
from satx.registry.candidate import Candidate
from satx.registry.card_rendering import Section, Table
from satx.registry.judged import GateFile
from satx.reports.parameters import LAST, varying_and_constant
from satx.tiles.layout import SPLITS
from satx.tiles.report import named_counts
from satx.tracking.provenance import recorded_inputs
from satx.tracking.runs import CONFIRMED

# tags of a run, as they are called in the card
TAGS = {
    "sweep": "Sweep",
    "trainer": "Trainer version",
    "backend": "Keras backend",
    "device": "Device",
}


def origin_sections(candidate: Candidate, export: Export, gate: GateFile | None) -> tuple[Section, ...]:
    """Return the sections about data, training and repetition."""
    return _data(candidate), _training(candidate), _reproduction(candidate, export, gate)


def _data(candidate: Candidate) -> Section:
    store, session = candidate.store, candidate.session
    paragraphs = [
        f"Session {session.session}: {len(store.index):,} tiles, stored at {store.image_size_px} px. Formats of the files: "
        f"{named_counts(store.report.formats)}."
    ]
    if store.sample:
        paragraphs.append("The tiles are a sample that satx rendered. They are not photographs.")
    if store.report.unused:
        paragraphs.append(f"Files that were left out: {named_counts(store.report.num_unused)}.")
    tables = [_counted(store.index, "label", "Class")]
    if store.index["slice"].fillna("").str.strip().any():
        named = store.index.assign(slice=store.index["slice"].fillna("").str.strip().replace("", "(none)"))
        tables.append(_counted(named, "slice", "Slice"))
    return Section("Data", tuple(paragraphs), tables=tuple(tables))


def _counted(index: pd.DataFrame, column: str, heading: str) -> Table:
    """Count the tiles of each split by a column."""
    counts = pd.crosstab(index[column], index["split"]).reindex(columns=SPLITS, fill_value=0)
    rows = tuple(
        (str(name), *(f"{row[split]:,}" for split in SPLITS), f"{row.sum():,}") for name, row in counts.iterrows()
    )
    return Table((heading, *SPLITS, "all"), rows)


def _training(candidate: Candidate) -> Section:
    run, model = candidate.run, candidate.classifier.model
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    about = [("Backbone", model.backbone), ("Trained part", part_label(model.unfreeze))]
    if "trainable_parameters" in params and "total_parameters" in params:
        trained, total = int(params["trainable_parameters"]), int(params["total_parameters"])
        about.append(("Trained parameters", f"{trained:,} of {total:,}"))
    about += [(label, tags[name]) for name, label in TAGS.items() if tags.get(name)]
    if commit := tags.get("git_commit"):
        changed = " with uncommitted changes" if commit.endswith("+") else ""
        about.append(("Commit of the project", commit.removesuffix("+") + changed))
    _, _, weights = recorded_inputs(str(run.info.run_id), tags)
    about.append(("Starting weights", f"{weights.source}, SHA-256 {weights.digest[:12]}…"))
    if CONFIRMED in metrics:
        about.append(("Validation AUC, mean over seeds", f"{metrics[CONFIRMED]:.4f}"))
    about.append(
        ("Exported with", f"satx {satx.__version__}, Keras {version('keras')}, TensorFlow {version('tensorflow')}")
    )
    settings = {name: value for name, value in params.items() if name not in LAST or name == "train.seed"}
    _, constant = varying_and_constant(pd.DataFrame([settings]), list(settings)) if settings else ([], [])
    return Section("Training", tables=(Table(("What", "Value"), tuple(about)),), settings=tuple(constant))


def _reproduction(candidate: Candidate, export: Export, gate: GateFile | None) -> Section:
    run_id, tags = str(candidate.run.info.run_id), candidate.run.data.tags
    _, _, weights = recorded_inputs(run_id, tags)
    digests = (
        ("Tiles", candidate.store.digest),
        (f"Starting weights of {weights.backbone}", weights.digest),
        ("Weights of this model", tags.get("weights_sha256", "")),
        ("Manifest of the export", export.digest),
        (f"Gate {gate.name}", gate.sha256) if gate else ("", ""),
    )
    table = Table(("SHA-256", "Digest"), tuple((name, digest) for name, digest in digests if digest))
    text = (
        "With the same tiles and starting weights, at the commit above, the first command trains a new run with the same "
        "settings and seed. The second evaluates, exports and registers it; RUN is the id that the first command prints."
    )
    commands = (f"satx train --from-run {run_id}", "satx promote --run-id RUN")
    return Section("How to reproduce it", (text,), tables=(table,), commands=commands)
