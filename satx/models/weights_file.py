"""A backbone's starting weights as a file with a digest, which studies record and which is verified before loading."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from satx.errors import WeightsError
from satx.storage import file_digest


@dataclass(frozen=True)
class Weights:
    """One backbone's starting weights.

    Attributes:
        backbone: The backbone's name in the catalogue.
        file: Local path of the `.h5`.
        digest: SHA-256 of that file.
        source: `file`, `imagenet` (downloaded by Keras) or `random`.
    """

    backbone: str
    file: str
    digest: str
    source: str

    def as_dict(self) -> dict[str, str]:
        """Return the fields as a JSON-compatible dict."""
        return asdict(self)

    def verified_file(self) -> Path:
        """Return the path, after checking that the file still has the recorded digest.

        Raises:
            WeightsError: The file is missing or has changed.
        """
        path = Path(self.file)
        if not path.is_file():
            raise WeightsError(
                f"{path}: expected the weights this study started from, found no file. Restore it, or start a new sweep."
            )
        found = file_digest(path)
        if found != self.digest:
            raise WeightsError(
                f"{path}: expected SHA-256 {self.digest[:12]}…, got {found[:12]}…. The weights changed since the study began; "
                f"restore the old file, or start a new sweep."
            )
        return path
