"""A version of a task's model in MLflow: its tags, its description, its model card, and the model that `mlflow.pyfunc` loads."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.entities.model_registry import ModelVersion

from satx.catalogue import part_label
from satx.inference.pyfunc import IMAGE_COLUMN
from satx.models.classifier import Classifier
from satx.registry.candidate import Candidate, golden_files
from satx.registry.evaluate import with_operating_point
from satx.registry.judged import Evaluation
from satx.registry.mlflow_model import log_mlflow_model
from satx.registry.model_card import CardFacts, model_card, shortened
from satx.registry.records import verdict_tags
from satx.registry.versions import CHAMPION, PREVIOUS, TASK_TAG, card_path, model_path, versions_of
from satx.tiles.formats import SERVED_FORMATS
from satx.tiles.report import named_counts
from satx.tracking.client import MlflowClient, MlflowException
from satx.tracking.naming import run_link
from satx.tracking.runs import log_files

MAX_DESCRIPTION_CHARACTERS = 5_000  # MLflow's limit


def expected_version(client: MlflowClient, name: str, run_id: str) -> int:
    """Return the version that a promotion of this run will get.

    It is the newest one if a promotion of this run stopped after creating it, else the one after the newest.
    """
    found = versions_of(client, name)
    if not found:
        return 1
    newest = found[0]
    return int(newest.version) + (0 if _is_unfinished(newest, run_id) else 1)


def _is_unfinished(version: ModelVersion, run_id: str) -> bool:
    """Return whether a promotion of this run registered a version and stopped before the version became champion."""
    own_model = str(version.source).endswith(model_path(int(version.version)))  # not so in satx 0.2
    return own_model and version.run_id == run_id and "promoted_at" not in version.tags


def register_version(client: MlflowClient, candidate: Candidate, name: str) -> int:
    """Create a version for a run, or find the one of a promotion that stopped; return its number.

    The number is another one than `expected_version` said before if another machine has registered a version since.
    """
    run_id = str(candidate.run.info.run_id)
    _register_model(client, candidate.classifier, name)
    version = expected_version(client, name, run_id)
    is_registered = any(int(found.version) == version for found in versions_of(client, name))
    while not is_registered:
        source = f"runs:/{run_id}/{model_path(version)}"
        created = int(client.create_model_version(name, source, run_id, await_creation_for=0).version)
        is_registered = created == version
        if not is_registered:  # the path names the number, which another machine took or a deleted version had
            client.delete_model_version(name, str(created))
            version = created + 1
    client.set_tag(run_id, "promoted", str(version))  # from here on its model is never deleted
    return version


def describe_version(client: MlflowClient, facts: CardFacts) -> None:
    """Write what belongs to a version: tags, description, model card, and the model that `mlflow.pyfunc` loads."""
    candidate, version = facts.candidate, str(facts.version)
    classifier = with_operating_point(candidate.classifier, facts.evaluation)
    log_mlflow_model(client, candidate.run, classifier, facts.version, golden_files(candidate.store)[0])
    card, path = model_card(facts), card_path(facts.version)
    log_files(
        client,
        candidate.run,
        {
            path.replace(".html", ".md"): lambda file: file.write_text(card.markdown, encoding="utf-8"),
            path: lambda file: file.write_text(card.html, encoding="utf-8"),
        },
    )
    for key, value in _tags(facts).items():
        client.set_model_version_tag(facts.name, version, key, value)
    client.update_model_version(facts.name, version, _description(facts, card.markdown))


def _tags(facts: CardFacts) -> Mapping[str, str]:
    candidate, evaluation = facts.candidate, facts.evaluation
    return {
        "run_id": str(candidate.run.info.run_id),
        "backbone": candidate.classifier.model.backbone,
        "session": candidate.run.data.tags.get("session", candidate.session.experiment_name),
        "data_digest": candidate.store.digest,
        "sample": str(candidate.classifier.sample).lower(),
        "test_auc": _score(evaluation, "auc"),
        "test_accuracy": _score(evaluation, "accuracy"),
        "weights_sha256": candidate.run.data.tags.get("weights_sha256", ""),
        "temperature": repr(float(evaluation.temperature)),  # exact, because exports are compared with it
        "threshold": repr(float(evaluation.threshold)),
        "threshold_rule": evaluation.threshold_rule,
        "not_served": named_counts(candidate.store.report.not_served),
        "card": card_path(facts.version),
        **verdict_tags(facts.verdicts, facts.forced, facts.gate),
    }


def _score(evaluation: Evaluation, metric: str) -> str:
    """Return a test score with its interval; "" if there are no test tiles."""
    return str(evaluation.after.interval(metric)) if len(evaluation.labels) else ""


def _description(facts: CardFacts, card: str) -> str:
    """Return the text that MLflow shows with the version: a summary, then the card as far as MLflow's limit allows."""
    candidate, classifier = facts.candidate, facts.candidate.classifier
    session = candidate.run.data.tags.get("session", candidate.session.experiment_name)
    auc, accuracy = _score(facts.evaluation, "auc"), _score(facts.evaluation, "accuracy")
    sentences = [
        f"{classifier.model.backbone}, trained: {part_label(classifier.model.unfreeze)}, "
        f"on {classifier.image_size_px} px tiles of {session}"
        + (" (rendered sample tiles)." if classifier.sample else "."),
        f"Test AUC {auc}, accuracy {accuracy}." if auc else "Not scored: there were no test tiles.",
        f"From run {run_link(candidate.run)}.",
        f"Its export decodes {', '.join(SERVED_FORMATS)} wherever it is served.",
    ]
    if others := candidate.store.report.not_served:
        sentences.append(f"The session also has tiles in other formats: {named_counts(others)}.")
    summary = " ".join(sentences)
    return f"{summary}\n\n{shortened(card, max_chars=MAX_DESCRIPTION_CHARACTERS - len(summary) - 2)}"


def _register_model(client: MlflowClient, classifier: Classifier, name: str) -> None:
    """Create the registered model with its description, unless it exists; add one where it is missing."""
    text = (
        f"Classifies square aerial tiles as {' or '.join(classifier.classes)}; the class of interest is "
        f"**{classifier.positive_class}**. `{CHAMPION}` is the version in use, `{PREVIOUS}` the one before. "
        f"`mlflow.pyfunc.load_model('models:/{name}@{CHAMPION}')` takes image files in the column `{IMAGE_COLUMN}` and returns "
        f"a probability per class."
    )
    try:
        client.create_registered_model(name, tags={TASK_TAG: name}, description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if not client.get_registered_model(name).description:  # registered by satx 0.2; a user's text stays
            client.update_registered_model(name, text)
