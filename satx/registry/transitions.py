"""How the champion changes: an order of writes that is completed after a crash, and the history of changes.

MLflow cannot set two aliases at once. So the change is recorded in a tag of the registered model before the first alias is
set, and the tag is deleted after the last write. A process that finds the tag does the writes again; each gives the same
result however often it is done.

MLflow has no transactions either. A process therefore reads tag and alias again after it has set the tag. Two machines that
start a change within the same fraction of a second may still both go on; the champion is then that of the last write.
"""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from satx.errors import PromotionRefused
from satx.registry.served import serve_both, serve_champion, served_version
from satx.registry.versions import (
    CHAMPION,
    HISTORY_TAG,
    PENDING_TAG,
    PREVIOUS,
    aliases_of,
    now_utc,
    promotion_lock,
    registered_state,
    registered_tags,
    versions_of,
)
from satx.storage import is_held
from satx.tracking.client import MlflowClient

MAX_HISTORY_CHARACTERS = 4_900  # MLflow stores 5,000 characters of a registered model's tag
MAX_REASON_CHARACTERS = 300
LONGEST_CHANGE = timedelta(minutes=10)  # a change of another machine that is older was stopped


@dataclass(frozen=True)
class Transition:
    """A change of the champion.

    Attributes:
        kind: What changed it.
        champion: Version that becomes champion.
        before: Version that was champion; None if there was none.
        by: User and host.
        at: Time in UTC, ISO 8601.
        reason: Why a rollback was done, or a promotion forced; may be empty.
    """

    kind: Literal["promotion", "rollback"]
    champion: int
    before: int | None
    by: str
    at: str
    reason: str


def new_transition(
    kind: Literal["promotion", "rollback"], champion: int, before: int | None, reason: str
) -> Transition:
    """Return a change of the champion by the present user at the present time."""
    return Transition(kind, champion, before, user_at_host(), now_utc(), reason[:MAX_REASON_CHARACTERS])


def user_at_host() -> str:
    """Return the present user and host, as `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def change_champion(client: MlflowClient, name: str, transition: Transition) -> None:
    """Make another version champion; if the process is killed meanwhile, `complete_pending` does the rest.

    Raises:
        PromotionRefused: Another machine has changed the champion since this process read it, or is changing it.
    """
    pending = json.dumps(asdict(transition))
    _check_unchanged(client, name, transition, pending=None)
    client.set_registered_model_tag(name, PENDING_TAG, pending)
    _check_unchanged(client, name, transition, pending=pending)
    _write(client, name, transition)


def complete_pending(client: MlflowClient, name: str) -> Transition | None:
    """Complete a change of the champion that was stopped; return it, or None if there is none.

    A change is dropped if the champion has become another one since, or its version was deleted. Servers on this machine get the
    registry's champion.

    Raises:
        PromotionRefused: Another machine has begun a change in the last ten minutes, and may still be doing it.
    """
    aliases, tags = registered_state(client, name)
    transition = Transition(**json.loads(tags[PENDING_TAG])) if PENDING_TAG in tags else None
    if transition is not None:
        versions = {int(registered.version) for registered in versions_of(client, name)}
        if _is_recent_elsewhere(transition):
            raise PromotionRefused(_being_changed(name, transition))
        if transition.champion in versions and aliases.get(CHAMPION) in (transition.before, transition.champion):
            _write(client, name, transition)
        else:
            client.delete_registered_model_tag(name, PENDING_TAG)
            transition = None
    _serve_registered(client, name)
    return transition


def is_in_progress(name: str, pending: Transition) -> bool:
    """Return whether a change that has begun may still be going on: here, or recently on another machine."""
    lock = promotion_lock(name)
    return _is_recent_elsewhere(pending) or is_held(lock.with_name(f"{lock.name}.lock"))


def _check_unchanged(client: MlflowClient, name: str, transition: Transition, *, pending: str | None) -> None:
    """Check that the champion is still the one that this process read, and that the tag of a change is as expected.

    Args:
        client: MLflow client.
        name: Name of the registered model.
        transition: The change that this process makes.
        pending: Expected value of the tag: this change, or None before it is set.

    Raises:
        PromotionRefused: One of them is not.
    """
    aliases, tags = registered_state(client, name)
    found, champion = tags.get(PENDING_TAG), aliases.get(CHAMPION)
    if found == pending and champion == transition.before:
        return
    if found is not None and found == pending:
        client.delete_registered_model_tag(name, PENDING_TAG)
    _serve_registered(client, name)
    if found not in (None, pending):
        raise PromotionRefused(_being_changed(name, Transition(**json.loads(found))))
    raise PromotionRefused(
        f"{name}: expected version {transition.before or 'none'} as champion, got {champion}: another promotion moved it. Run "
        f"the same command again."
    )


def _is_recent_elsewhere(transition: Transition) -> bool:
    host = transition.by.rpartition("@")[2]
    return host != socket.gethostname() and datetime.now(UTC) - datetime.fromisoformat(transition.at) < LONGEST_CHANGE


def _being_changed(name: str, transition: Transition) -> str:
    minutes = int(LONGEST_CHANGE.total_seconds()) // 60
    return (
        f"{name}: expected no other change of the champion, got a {transition.kind} to version {transition.champion}, begun by "
        f"{transition.by} at {transition.at}. Wait until it is done. If it was stopped, repeat this command {minutes} minutes "
        f"after it began."
    )


def _serve_registered(client: MlflowClient, name: str) -> None:
    """Let servers on this machine follow the registry, from which they differ after a change on another machine."""
    aliases = aliases_of(client, name)
    if CHAMPION in aliases:
        serve_champion(name, aliases[CHAMPION], aliases.get(PREVIOUS))


def _write(client: MlflowClient, name: str, transition: Transition) -> None:
    if served_version(name) != transition.champion:
        serve_both(name, transition.before, transition.champion)
    if transition.before is not None:
        client.set_registered_model_alias(name, PREVIOUS, str(transition.before))
    client.set_registered_model_alias(name, CHAMPION, str(transition.champion))
    serve_champion(name, transition.champion, transition.before)
    for version, tags in _version_tags(transition).items():
        for key, value in tags.items():
            client.set_model_version_tag(name, str(version), key, value)
    _append_to_history(client, name, transition)
    client.delete_registered_model_tag(name, PENDING_TAG)


def _version_tags(transition: Transition) -> dict[int, Mapping[str, str]]:
    """Return the tags that record a change on the versions it concerns."""
    if transition.kind == "promotion" or transition.before is None:
        return {transition.champion: {"promoted_at": transition.at}}
    removed = {
        "rolled_back_at": transition.at,
        "rolled_back_by": transition.by,
        "rolled_back_reason": transition.reason,
    }
    return {transition.before: removed, transition.champion: {"restored_at": transition.at}}


def _append_to_history(client: MlflowClient, name: str, transition: Transition) -> None:
    """Add a change to the model's history once; the oldest are dropped where MLflow's limit of a tag is reached."""
    history = [Transition(**event) for event in json.loads(registered_tags(client, name).get(HISTORY_TAG, "[]"))]
    if transition not in history:
        history.append(transition)
    while len(text := json.dumps([asdict(event) for event in history])) > MAX_HISTORY_CHARACTERS:
        history = history[1:]
    client.set_registered_model_tag(name, HISTORY_TAG, text)
