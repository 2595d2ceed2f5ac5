"""The sessions from which a session was made, one after the other."""

from __future__ import annotations

from itertools import pairwise

from satx.errors import ConfigError
from satx.session_config import ManifestConfig, SessionConfig, load_session
from satx.sessions.manifest import Manifest, load_manifest, manifest_config


def open_manifest(name: str) -> tuple[SessionConfig, Manifest]:
    """Return a session and its manifest, after a check of its ancestors.

    Raises:
        ConfigError: There is no such session, it has no manifest, or an ancestor is missing or another.
        DataError: The manifest cannot be read, or was changed.
    """
    session = load_session(name)
    ancestors(session)
    return session, load_manifest(manifest_config(session))


def ancestors(session: SessionConfig) -> tuple[SessionConfig, ...]:
    """Return the parent of a session, its parent, and so on.

    Args:
        session: A session with a manifest.

    Raises:
        ConfigError: The session or one of these has no manifest, an ancestor is missing or is its own ancestor, or has another
            digest than its child recorded.
    """
    links = [_named(manifest_config(session))]
    names, found = [links[0][0]], []
    while (parent := links[-1][1].parent) is not None:
        if parent in names:
            raise ConfigError(
                f"experiments/session{links[-1][0]}.yaml: expected an earlier session as the parent, got a cycle: "
                f"{' → '.join([*names, parent])}. Correct `parent`."
            )
        found.append(_parent(parent, child=names[-1]))
        names.append(parent)
        links.append((parent, manifest_config(found[-1])))
    for (child, of_child), (parent, of_parent) in pairwise(links):
        if of_child.parent_digest != of_parent.digest:
            raise ConfigError(
                f"experiments/session{child}.yaml was made from session {parent} with the digest "
                f"{str(of_child.parent_digest)[:12]}…, but experiments/session{parent}.yaml has {of_parent.digest[:12]}…. "
                f"Restore the parent, for example with `git checkout`, or make session {child} again."
            )
    return tuple(found)


def _named(config: ManifestConfig) -> tuple[str, ManifestConfig]:
    """Return a manifest with the name of its session, which a session of rendered tiles has with an addition."""
    return config.file.removeprefix("experiments/session").removesuffix(".csv"), config


def _parent(name: str, *, child: str) -> SessionConfig:
    try:
        return load_session(name)
    except ConfigError as error:
        raise ConfigError(
            f"experiments/session{child}.yaml: expected its parent, session {name}, which cannot be read: {error} Restore "
            f"experiments/session{name}.yaml, for example with `git checkout`."
        ) from error
