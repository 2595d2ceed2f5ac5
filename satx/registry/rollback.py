"""Rollback: champion and previous swap back, after the export that is to serve again has been verified or written again."""

from __future__ import annotations

from dataclasses import dataclass

from satx.errors import ConfigError, PromotionRefused, SatxError, WeightsError
from satx.inference.manifest import Export
from satx.registry.served import serve_champion
from satx.registry.transitions import Transition, change_champion, complete_pending, new_transition
from satx.registry.versions import CHAMPION, PREVIOUS, aliases_of, promotion_lock, task_name, verified_export
from satx.storage import locked
from satx.tracking.client import MlflowClient


@dataclass(frozen=True)
class Rollback:
    """Result of a rollback.

    Attributes:
        name: Name of the registered model.
        transition: Which version became champion, which one it replaced, by whom, when and why.
        export: The export of the version that is champion now.
        completed: Whether an earlier rollback was completed that had been stopped, instead of a new one.
    """

    name: str
    transition: Transition
    export: Export
    completed: bool


def rollback(client: MlflowClient, *, task: str | None, reason: str) -> Rollback:
    """Make the previous champion champion again; the present one becomes previous, so that a second rollback undoes the first.

    A rollback that was stopped is completed, not done a second time. A missing or damaged export of the previous champion is
    written again first.

    Args:
        client: MLflow client.
        task: Name of the registered model; None if there is only one.
        reason: Recorded in the history; may be empty.

    Raises:
        ConfigError: There is no such task, several and none was named, or no previous champion.
        PromotionRefused: The export of the previous champion is damaged and cannot be written again; another machine changes
            the champion; or a promotion had been stopped. The promotion is then completed, and nothing is rolled back.
    """
    name = task_name(client, task)
    with locked(promotion_lock(name)):
        completed = complete_pending(client, name)
        if completed is not None and completed.kind == "rollback":
            export = _intact(client, name, completed.champion)
            serve_champion(name, completed.champion, completed.before)  # not listed while its export was missing here
            return Rollback(name, completed, export, completed=True)
        aliases = aliases_of(client, name)
        old, new = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        if completed is not None:
            back = (
                f"To go back to version {new}, repeat `satx rollback`." if new else "There is no version to go back to."
            )
            raise PromotionRefused(
                f"{name}: expected no stopped promotion, got that to version {old}. It is completed now: version {old} is the "
                f"champion. Nothing was rolled back. {back}"
            )
        if old is None or new is None or new == old:
            raise ConfigError(
                f"{name}: expected a champion and a previous one to go back to, got only "
                f"{'version ' + str(old) if old else 'versions that were never promoted'}. `satx show` prints the history."
            )
        export = _intact(client, name, new)
        transition = new_transition("rollback", new, old, reason.strip())
        change_champion(client, name, transition)
        return Rollback(name, transition, export, completed=False)


def _intact(client: MlflowClient, name: str, version: int) -> Export:
    """Return a version's export; write it again if it is missing or damaged."""
    registered = client.get_model_version(name, str(version))
    try:
        return verified_export(registered)
    except WeightsError as damage:
        from satx.registry.candidate import load_candidate  # here, because they load TensorFlow
        from satx.registry.staging import write_again

        try:
            return write_again(client, load_candidate(client, str(registered.run_id)), registered)
        except SatxError as error:
            raise PromotionRefused(
                f"{name}: expected an intact export of version {version}, or its model to write one from. {damage} Writing it "
                f"again failed too: {error} The champion is version {aliases_of(client, name).get(CHAMPION)}."
            ) from error
