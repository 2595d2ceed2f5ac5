"""Identity of a study: all that its scores depend on. The study's name ends in its digest, so scores never mix."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.storages import RDBStorage

from satx.environment import environment
from satx.search.space import SweepConfig
from satx.storage import digest_of


def identity_of(
    *,
    sweep: SweepConfig,
    fixed: dict[str, Any],
    data_digest: str,
    weights: dict[str, str],
    image_size_px: int,
    trainer: int,
    backend: str,
) -> dict[str, Any]:
    """Return what a study's scores depend on, part by part; the number of trials is not included.

    Args:
        sweep: The sweep.
        fixed: The settings that the sweep does not draw, including the session's defaults.
        data_digest: Digest of the tiles.
        weights: Digest of each backbone's weights.
        image_size_px: Edge of the tiles.
        trainer: Version of the trainer.
        backend: Keras's backend; rounding differs between backends.
    """
    space = sweep.model_dump(exclude={"trials", "keep_models_per_backbone", "confirm", "set"})
    return {
        "space": digest_of([space, fixed]),
        "data": data_digest,
        "weights": digest_of(weights),
        "image_size_px": image_size_px,
        "trainer": trainer,
        "backend": backend,
    }


def keras_backend() -> str:
    """Return the Keras backend that this process trains with, without importing Keras."""
    return environment().keras_backend


def study_name(experiment: str, sweep: str, identity: dict[str, Any]) -> str:
    """Return the name of a study, such as `session2-quick-1a2b3c4d`."""
    return f"{experiment}-{sweep}-{digest_of(identity)[:8]}"


def what_changed(storage: RDBStorage, prefix: str, name: str, identity: dict[str, Any]) -> str | None:
    """Describe what changed since the newest other study of the same session and sweep.

    Returns:
        The message, or None if there is no other study or this study exists already.
    """
    summaries = optuna.get_all_study_summaries(storage=storage)
    same_kind = [s for s in summaries if s.study_name.rpartition("-")[0] == prefix]
    others = [s for s in same_kind if s.study_name != name and "identity" in s.user_attrs and s.datetime_start]
    if not others or any(s.study_name == name for s in summaries):
        return None
    newest = max(others, key=lambda summary: str(summary.datetime_start))
    changed = [part for part, value in identity.items() if newest.user_attrs["identity"].get(part) != value]
    return f"{', '.join(changed)} changed since study {newest.study_name}"
