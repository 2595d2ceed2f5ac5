"""Promotion of a run to champion, in an order that keeps the old champion serving if it crashes at any point.

The order is: version, export (written to a temporary folder, compared, renamed), aliases. A crash leaves a version that
no alias points at; the next promotion of the same run continues with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion

from satx.catalogue import part_label
from satx.errors import ConfigError, DataError, PromotionRefused, WeightsError
from satx.inference.export import Provenance, export_saved_model
from satx.inference.manifest import Export, verify_export
from satx.inference.pyfunc import IMAGE_COLUMN
from satx.registry.candidate import Candidate, fetch_classifier, golden_files, load_candidate
from satx.registry.gate import Comparison, Scores, compare, model_name, score
from satx.registry.mlflow_model import log_mlflow_model
from satx.registry.versions import (
    CHAMPION,
    PREVIOUS,
    TASK_TAG,
    aliases_of,
    export_folder,
    export_state,
    now_utc,
    versions_of,
)
from satx.storage import locked, satx_home
from satx.tiles.formats import SERVED_FORMATS
from satx.tiles.report import named_counts
from satx.tracking.client import MlflowClient, MlflowException
from satx.tracking.naming import run_link
from satx.tracking.results import log_split_scores
from satx.tracking.runs import get_run


@dataclass(frozen=True)
class Promotion:
    """Result of a promotion.

    Attributes:
        name: Name of the registered model.
        version: Version of the current champion.
        candidate: The promoted run.
        export: Its SavedModel.
        scores: Scores on the test tiles; None if there are none.
        comparison: Comparison with the previous champion; None if there was none, or if it could not be compared.
        replaced: Version that `previous` now points at; None if there was no champion before.
        forced: The gate's objection that `--force` overrode; None if the gate did not object.
        unchanged: Whether the run was champion already.
    """

    name: str
    version: int
    candidate: Candidate
    export: Export
    scores: Scores | None
    comparison: Comparison | None
    replaced: int | None
    forced: str | None
    unchanged: bool


def promote(client: MlflowClient, run_id: str, *, force: bool) -> Promotion:
    """Make a run's model the champion of its task, if it passes the gate, and export it.

    Args:
        client: MLflow client.
        run_id: Id of a finished run whose model was kept.
        force: Promote even if the gate objects; its objection is recorded on the version.

    Returns:
        The result. A run that is champion already stays as it is; its export is written again if it was damaged.

    Raises:
        ConfigError, DataError, WeightsError: The run, its tiles or its model cannot be used.
        PromotionRefused: The gate objected, or the export's probabilities differ too much from the network's.
    """
    candidate = load_candidate(client, run_id)
    name = model_name(candidate)
    with locked(satx_home() / "locks" / f"promote-{name}"):
        aliases = aliases_of(client, name)
        old = aliases.get(CHAMPION)
        scores = _test_scores(client, candidate)
        if old is not None and client.get_model_version(name, str(old)).run_id == run_id:
            export = _whole_export(client, candidate, name, old)
            if (
                "promoted_at" not in client.get_model_version(name, str(old)).tags
            ):  # stopped right after the alias was set
                client.set_model_version_tag(name, str(old), "promoted_at", now_utc())
            return Promotion(name, old, candidate, export, scores, None, aliases.get(PREVIOUS), None, True)
        comparison, objection = _judge(client, candidate, scores, name, old)
        if objection is not None and not force:
            raise PromotionRefused(objection)
        version = _version_for(client, candidate, name, scores, objection)
        export = _export(client, candidate, name, version)
        if old is not None:
            client.set_registered_model_alias(name, PREVIOUS, str(old))
        client.set_registered_model_alias(name, CHAMPION, str(version))
        client.set_model_version_tag(name, str(version), "promoted_at", now_utc())
    return Promotion(name, version, candidate, export, scores, comparison, old, objection, False)


def _test_scores(client: MlflowClient, candidate: Candidate) -> Scores | None:
    """Score the candidate on the test tiles and log the scores once; return None if there are no test tiles."""
    if not len(candidate.store.rows("test")):
        return None
    scores = score(candidate.classifier, candidate.store, candidate.session.positive_class)
    if "test_auc" not in candidate.run.data.metrics:
        store, session = candidate.store, candidate.session
        log_split_scores(client, candidate.run, "test", scores.probabilities, store=store, session=session)
    return scores


def _judge(
    client: MlflowClient, candidate: Candidate, scores: Scores | None, name: str, old: int | None
) -> tuple[Comparison | None, str | None]:
    """Return the comparison with the champion and the gate's objection; either may be None."""
    run_id = candidate.run.info.run_id
    if scores is None:
        return None, (
            f"Run {run_id}: expected a session with a test split, got one without, so the model cannot be scored on tiles that "
            f"took no part in its selection. Add test/ to the tiles and train again, or pass --force."
        )
    if old is None:
        return None, None
    try:
        champion = fetch_classifier(client, get_run(client, str(client.get_model_version(name, str(old)).run_id)))
    except (ConfigError, DataError, WeightsError) as error:
        return None, f"The champion, version {old}, cannot be evaluated: {error} Fix that, or pass --force."
    try:
        comparison = compare(candidate, scores, champion)
    except PromotionRefused as refusal:
        return None, str(refusal)
    if comparison.surely_worse:
        return comparison, (
            f"Run {run_id}: expected a test AUC not worse than the champion's, version {old}, on the same "
            f"{len(scores.probabilities)} tiles; got {scores.auc} against {comparison.champion.auc}, a difference of "
            f"{comparison.auc} with its whole 95% interval below 0. Pick another run, or pass --force, which will be recorded."
        )
    return comparison, None


def _version_for(
    client: MlflowClient, candidate: Candidate, name: str, scores: Scores | None, objection: str | None
) -> int:
    """Create a version for this run, or reuse the newest one if a promotion of this run stopped after creating it."""
    run_id, tags = str(candidate.run.info.run_id), candidate.run.data.tags
    described = {
        "run_id": run_id,
        "backbone": candidate.classifier.model.backbone,
        "session": tags.get("session", candidate.session.experiment_name),
        "data_digest": candidate.store.digest,
        "sample": str(candidate.classifier.sample).lower(),
        "test_auc": str(scores.auc) if scores else "",
        "test_accuracy": str(scores.accuracy) if scores else "",
        "forced": str(objection is not None).lower(),
        "forced_past": objection or "",
        "not_served": named_counts(candidate.store.report.not_served),
    }
    _register(client, candidate, name)
    log_mlflow_model(client, candidate, golden_files(candidate.store)[0])
    newest: ModelVersion | None = next(iter(versions_of(client, name)), None)
    if newest is None or newest.run_id != run_id or "promoted_at" in newest.tags:
        source = f"runs:/{run_id}/model"
        newest = client.create_model_version(
            name, source, run_id, tags=described, description=_description(candidate, scores), await_creation_for=0
        )
    else:
        for key, value in described.items():
            client.set_model_version_tag(name, str(newest.version), key, value)
    client.set_tag(run_id, "promoted", str(newest.version))  # from here on its model is never deleted
    return int(newest.version)


def _description(candidate: Candidate, scores: Scores | None) -> str:
    """Return the text that MLflow shows with the version, in Markdown."""
    classifier = candidate.classifier
    session = candidate.run.data.tags.get("session", candidate.session.experiment_name)
    sentences = [
        f"{classifier.model.backbone}, trained: {part_label(classifier.model.unfreeze)}, "
        f"on {classifier.image_size_px} px tiles of {session}"
        + (" (rendered sample tiles)." if classifier.sample else "."),
        f"Test AUC {scores.auc}, accuracy {scores.accuracy}." if scores else "Not scored: there were no test tiles.",
        f"From run {run_link(candidate.run)}.",
        f"Its export decodes {', '.join(SERVED_FORMATS)} wherever it is served.",
    ]
    others = candidate.store.report.not_served
    return " ".join(
        [*sentences, *([f"The session also has tiles in other formats: {named_counts(others)}."] if others else [])]
    )


def _register(client: MlflowClient, candidate: Candidate, name: str) -> None:
    """Create the registered model with its description, unless it exists; add one where it is missing."""
    classes, positive = candidate.classifier.classes, candidate.classifier.positive_class
    text = (
        f"Classifies square aerial tiles as {' or '.join(classes)}; the class of interest is **{positive}**. "
        f"`{CHAMPION}` is the version in use, `{PREVIOUS}` the one before. `mlflow.pyfunc.load_model("
        f"'models:/{name}@{CHAMPION}')` takes image files in the column `{IMAGE_COLUMN}` and returns a probability per class."
    )
    try:
        client.create_registered_model(name, tags={TASK_TAG: name}, description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if not client.get_registered_model(name).description:  # registered by satx 0.2; a user's text stays
            client.update_registered_model(name, text)


def _export(client: MlflowClient, candidate: Candidate, name: str, version: int) -> Export:
    run = candidate.run
    provenance = Provenance(
        name,
        version,
        str(run.info.run_id),
        run.data.tags.get("weights_sha256", ""),
        candidate.store.report.not_served,
    )
    export = export_saved_model(
        candidate.classifier,
        export_folder(name, version),
        provenance=provenance,
        golden_bytes=golden_files(candidate.store),
    )
    client.set_model_version_tag(name, str(version), "export_digest", export.digest)
    return export


def _whole_export(client: MlflowClient, candidate: Candidate, name: str, version: int) -> Export:
    """Return the champion's export; write it again if it is missing or damaged."""
    digest = client.get_model_version(name, str(version)).tags.get("export_digest")
    folder = export_folder(name, version)
    if export_state(folder, digest) == "intact":
        return verify_export(folder, digest=digest)
    return _export(client, candidate, name, version)
