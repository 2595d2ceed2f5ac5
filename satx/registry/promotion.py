"""Promotion of a run to champion, in an order that keeps the old champion serving if it is killed at any point.

The order is: evaluation, export into a staging folder, verdicts of the gate, version, export to its final folder, tags and
model card, aliases. Until the first alias is set, only a version that nothing points at can be left; the next promotion of
the same run continues with it. From there on `transitions.py` completes what was begun.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import RunTag

from satx.errors import ConfigError, PromotionRefused, WeightsError
from satx.inference.manifest import Export
from satx.registry.candidate import Candidate, load_candidate
from satx.registry.comparison import ChampionScores, score_champion
from satx.registry.evaluate import evaluate, model_name, with_operating_point
from satx.registry.gate import GateConfig
from satx.registry.judged import Evaluation, Forced, GateFile, Verdict
from satx.registry.model_card import CardFacts
from satx.registry.records import recorded_forced, recorded_verdicts, refusal_of
from satx.registry.registration import describe_version, expected_version, register_version
from satx.registry.rules import Facts, judge
from satx.registry.served import serve_champion
from satx.registry.staging import median_seconds_per_tile, publish, size_gb, stage, staging, write_again
from satx.registry.transitions import Transition, change_champion, complete_pending, new_transition, user_at_host
from satx.registry.versions import (
    CHAMPION,
    PREVIOUS,
    aliases_of,
    export_folder,
    now_utc,
    promotion_lock,
    verified_export,
)
from satx.storage import locked
from satx.tracking.client import MlflowClient
from satx.tracking.database_errors import first_line
from satx.tracking.results import log_split_scores


@dataclass(frozen=True)
class Judgement:
    """What a promotion knows when it decides.

    Attributes:
        name: Name of the registered model.
        candidate: The run.
        evaluation: The run on its validation and test tiles.
        champion: The champion on the same test tiles; None if there is none, or no test tiles.
        verdicts: Verdict of each rule of the gate.
        gate: The file with the rules; None if they were set in Python.
        export: The staged export.
    """

    name: str
    candidate: Candidate
    evaluation: Evaluation
    champion: ChampionScores | None
    verdicts: tuple[Verdict, ...]
    gate: GateFile | None
    export: Export


@dataclass(frozen=True)
class Promotion:
    """Result of a promotion.

    Attributes:
        name: Name of the registered model.
        version: Version of the current champion.
        candidate: The promoted run.
        export: Its SavedModel.
        judgement: What the promotion decided on; None if the run was champion already.
        verdicts: Verdict of each rule of the gate, now or when the run was promoted.
        replaced: Version that `previous` now points at; None if there was no champion before.
        forced: Why, by whom and when the gate was overridden; None if it did not refuse.
        completed: A promotion or rollback that had been stopped and was completed first; None if there was none.
    """

    name: str
    version: int
    candidate: Candidate
    export: Export
    judgement: Judgement | None
    verdicts: tuple[Verdict, ...]
    replaced: int | None
    forced: Forced | None
    completed: Transition | None


def promote(
    client: MlflowClient,
    run_id: str,
    *,
    gate: GateConfig,
    force: str | None,
    on_judged: Callable[[Judgement], object] = lambda judgement: None,
) -> Promotion:
    """Make a run's model the champion of its task, if it passes the gate, and export it.

    Args:
        client: MLflow client.
        run_id: Id of a finished run whose model was kept.
        gate: The rules that it must pass.
        force: Reason for a promotion even if rules refuse, recorded on the version; None to be refused.
        on_judged: Called once with what the promotion decides on, before it decides.

    Returns:
        The result. A run that is champion already stays as it is; its export is written again if it was damaged.

    Raises:
        ConfigError: The run cannot be used, or the reason is empty.
        DataError, WeightsError: Its tiles or its model cannot be used.
        PromotionRefused: A rule refused, the export's probabilities differ too much from the network's, or another machine
            changed the champion meanwhile, or is changing it.
    """
    if force is not None and not force.strip():
        raise ConfigError("--force: expected a reason, got an empty text. It is recorded with the version; say why.")
    candidate = load_candidate(client, run_id)
    name = model_name(candidate)
    with locked(promotion_lock(name)):
        completed = complete_pending(client, name)
        old = aliases_of(client, name).get(CHAMPION)
        if old is not None and client.get_model_version(name, str(old)).run_id == run_id:
            return _already_champion(client, candidate, name, old, completed)
        with staging(name) as folder:
            version = expected_version(client, name, run_id)
            judgement = _judge(client, candidate, gate, folder, name=name, version=version, old=old)
            on_judged(judgement)
            forced = _decide(client, judgement, force, old=old, completed=completed)
            registered, export = _finish(client, judgement, folder, version=version, old=old, forced=forced)
            return Promotion(name, registered, candidate, export, judgement, judgement.verdicts, old, forced, completed)


def _judge(
    client: MlflowClient,
    candidate: Candidate,
    gate: GateConfig,
    folder: Path,
    *,
    name: str,
    version: int,
    old: int | None,
) -> Judgement:
    """Evaluate a candidate, stage its export, and ask every rule of the gate."""
    evaluation = evaluate(candidate, gate.threshold)
    if len(evaluation.labels) and "test_auc" not in candidate.run.data.metrics:
        raw, session = evaluation.raw_probabilities, candidate.session
        log_split_scores(client, candidate.run, "test", raw, store=candidate.store, session=session)
    champion = None
    if old is not None and len(evaluation.labels):
        champion = score_champion(client, candidate, name, old)
    classifier = with_operating_point(candidate.classifier, evaluation)
    export = stage(candidate, classifier, folder, name=name, version=version)
    facts = Facts(
        evaluation=evaluation,
        positive_index=classifier.positive_index,
        champion=champion,
        export=export,
        export_gb=size_gb(export.folder),
        latency_seconds=median_seconds_per_tile(export, candidate.golden_files[0]),
    )
    return Judgement(name, candidate, evaluation, champion, judge(gate, facts), gate.file, export)


def _decide(
    client: MlflowClient, judgement: Judgement, force: str | None, *, old: int | None, completed: Transition | None
) -> Forced | None:
    """Return how the gate was overridden; None if no rule refused.

    Raises:
        PromotionRefused: A rule refused, and no reason was given. The run's tags tell it.
    """
    refusal = refusal_of(judgement.verdicts)
    if not refusal:
        return None
    if force is None:
        kept = f"Version {old} is still the champion" if old is not None else "There is still no champion"
        if completed is not None:
            kept = f"The stopped {completed.kind} was completed first: version {old} is the champion"
        unrecorded = _record_refusal(client, judgement)
        raise PromotionRefused(
            f"Run {judgement.candidate.run.info.run_id} does not pass the gate of {judgement.name}. {refusal}\n{kept}. Pick "
            f"another run, or pass --force with a reason, which will be recorded.{unrecorded}"
        )
    return Forced(force.strip(), user_at_host(), now_utc())


def _record_refusal(client: MlflowClient, judgement: Judgement) -> str:
    """Tell in a run's tags by whom and when its promotion was tried, and which rules refused it last.

    Returns:
        A sentence for the message of the refusal if that failed; else nothing.
    """
    rules = ", ".join(verdict.rule for verdict in judgement.verdicts if not verdict.passed)
    about = {"refused_at": now_utc(), "refused_by": user_at_host(), "refused_rules": rules}
    try:
        client.log_batch(judgement.candidate.run.info.run_id, tags=[RunTag(*tag) for tag in about.items()])
    except Exception as error:  # whatever it is, it must not hide the refusal
        return f" The refusal is not recorded on the run: {first_line(error)}."
    return ""


def _finish(
    client: MlflowClient, judgement: Judgement, folder: Path, *, version: int, old: int | None, forced: Forced | None
) -> tuple[int, Export]:
    """Register the version, publish its export, describe it, and move the aliases; return version and export."""
    name, candidate = judgement.name, judgement.candidate
    registered, export = register_version(client, candidate, name), judgement.export
    if registered != version:  # another machine registered one meanwhile; the number is in the export
        classifier = with_operating_point(candidate.classifier, judgement.evaluation)
        export = stage(candidate, classifier, folder, name=name, version=registered)
    export = publish(export, export_folder(name, registered))
    facts = CardFacts(
        candidate=candidate,
        name=name,
        version=registered,
        evaluation=judgement.evaluation,
        verdicts=judgement.verdicts,
        forced=forced,
        champion_text=judgement.champion.text if judgement.champion else (),
        export=export,
        gate=judgement.gate,
    )
    describe_version(client, facts)
    change_champion(client, name, new_transition("promotion", registered, old, forced.reason if forced else ""))
    return registered, export


def _already_champion(
    client: MlflowClient, candidate: Candidate, name: str, version: int, completed: Transition | None
) -> Promotion:
    """Repair what a promotion of this champion left undone or what was damaged since."""
    registered = client.get_model_version(name, str(version))
    try:
        export = verified_export(registered)
    except WeightsError:
        export = write_again(client, candidate, registered)
    previous = aliases_of(client, name).get(PREVIOUS)
    serve_champion(name, version, previous)
    if "promoted_at" not in registered.tags:  # made champion in MLflow itself
        client.set_model_version_tag(name, str(version), "promoted_at", now_utc())
    verdicts, forced = recorded_verdicts(registered.tags), recorded_forced(registered.tags)
    return Promotion(name, version, candidate, export, None, verdicts, previous, forced, completed)
