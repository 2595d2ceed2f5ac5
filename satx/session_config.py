"""A session's settings: the contents of `experiments/session<N>.yaml`, read into frozen values."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from satx.config import Configuration, Frozen, Positive, read_yaml, validated
from satx.storage import shipped_file

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestConfig(Frozen):
    """What a session says of its manifest, the table of its pictures; `satx session` writes it."""

    file: str = Field(pattern=r"^experiments/session[a-z0-9-]+\.csv$", description="the table, relative to the project")
    digest: Sha256 = Field(description="of its pictures with their classes, slices and splits, and of what follows")
    parent: Name | None = Field(None, description="the session that it was made from")
    parent_digest: Sha256 | None = None
    test_version: Positive = Field(1, description="scores are compared within one version of the test split only")
    decisions_sha256: Sha256 | None = Field(None, description="of the decisions that were applied, beside the table")

    @model_validator(mode="after")
    def _parent_has_a_digest(self) -> Self:
        if (self.parent is None) != (self.parent_digest is None):
            raise ValueError("expected parent and parent_digest, or neither, got one of them. Restore the other.")
        return self


class SessionConfig(Frozen):
    """Contents of `experiments/session<N>.yaml`: one curated set of tiles, and the defaults of its trainings."""

    session: Name
    task: Name = Field(description="the classification task; names the registered model")
    positive_class: str
    data_dir: str = Field(description="folder of the tiles, relative to the project")
    sweep: str = Field(description="the sweep that `make sweep` runs on real tiles")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="probability at which slices report recall and false positives"
    )
    allow_embedding: bool = Field(True, description="whether model cards may contain thumbnails of tiles")
    defaults: Configuration = Configuration()
    manifest: ManifestConfig | None = Field(None, description="by which its tiles are known; None if it has none")

    @property
    def experiment_name(self) -> str:
        """Name of the MLflow experiment of this session's runs: `session2` for session 2, else the session's name."""
        return f"session{self.session}" if self.session.isdigit() else self.session


def load_session(session: str) -> SessionConfig:
    """Load a session by name: `2` reads `experiments/session2.yaml`."""
    path = shipped_file(f"experiments/session{session}.yaml")
    return validated(SessionConfig, read_yaml(path), source=path.name)
