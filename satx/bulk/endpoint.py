"""Score tiles at a serving endpoint: `satx serve`, or TensorFlow Serving with an export of satx.

The tiles' files are sent as they are, and the endpoint decodes them. All replies come from one version of the model: its
number is in the path of every request.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

from satx.bulk.block_file import ModelIdentity
from satx.bulk.endpoint_http import NOT_SERVING, NUM_PARALLEL, Connection, Gone, Refused, brief
from satx.errors import ConfigError, DataError
from satx.imagery.contract import REFUSED, Unscored
from satx.storage import digest_of
from satx.tiles.formats import HEAD_BYTES, SERVED_FORMATS, image_format

# as in `inference.graph`, which imports Keras
EXPLAIN_SIGNATURE, IMAGES_SIGNATURE, IMAGES_NAME, OUTPUT_NAME = "explain", "images", "images", "probabilities"
BATCH_SIZE = 32  # TensorFlow Serving's default for the largest batch
OPENING_SECONDS = 20.0  # a wrong address should be told soon
OUTAGE_SECONDS = 600.0

_URL = re.compile(
    r"(?P<base>https?://[^/?#@\s]+(?:/[^?#@\s]+?)?)/v1/models/(?P<name>[^/:?#@\s]+)(?:/versions/(?P<version>[0-9]{1,18}))?"
    r"(?::predict)?/?"
)
_SAMPLE = "-sample"  # at the end of the names of models that were trained on rendered tiles
_GREY = np.full((64, 64, 3), 128, np.uint8)


class EndpointScorer:
    """Implements `scorer.Scorer` with a serving endpoint; thread-safe."""

    batch_size, num_parallel = BATCH_SIZE, NUM_PARALLEL

    def __init__(self, connection: Connection, path: str, model: ModelIdentity) -> None:
        """Use a model that `open_endpoint` has looked at; `path` names its version."""
        self.model = model
        self._connection, self._path = connection, path
        self._slots, self._alone = threading.Semaphore(NUM_PARALLEL), threading.Lock()

    def score(self, tiles: np.ndarray, files: Sequence[bytes]) -> list[np.ndarray | Unscored]:
        """Send the files, and find those that the endpoint refuses by halving the batch.

        WebP and TIFF are sent as PNG of the decoded tile, since TensorFlow Serving does not take them.

        Args:
            tiles: `(n, S, S, 3)` uint8, with `n` up to `batch_size`.
            files: The same tiles as image files.

        Returns:
            For each tile its calibrated probabilities, `(num_classes,)` float32, or that the endpoint refused it.

        Raises:
            DataError: The endpoint was not reachable or overloaded for `OUTAGE_SECONDS`, no longer has this version, or
                answered with something else than probabilities. No tile is marked as failed; a new run continues.
            Interrupted: The scorer was closed meanwhile.
        """
        return self._scores([_servable(tile, data) for tile, data in zip(tiles, files, strict=True)])

    def about(self) -> dict[str, Any]:
        """Return the endpoint, and how many requests had to be repeated."""
        where = self._connection.base + self._path
        return {"endpoint": where, "num_repeated_requests": self._connection.num_repeated}

    def close(self) -> None:
        """End the connections; a `score` that waits for the endpoint raises `Interrupted`."""
        self._connection.close()

    def _scores(self, files: Sequence[bytes]) -> list[np.ndarray | Unscored]:
        try:
            with self._slots:
                return [*self._predicted(files)]
        except Refused:
            if len(files) > 1:
                middle = len(files) // 2
                return self._scores(files[:middle]) + self._scores(files[middle:])
        # TensorFlow Serving joins requests to batches, and a bad tile fails all requests of its batch. So this one is sent
        # again while no other request of this process runs. Those of other clients may still fail it.
        try:
            with self._all_slots():
                return [*self._predicted(files)]
        except Refused as refusal:
            return [Unscored(REFUSED, f"the endpoint refused it: {refusal}")]

    @contextmanager
    def _all_slots(self) -> Iterator[None]:
        taken = 0
        with self._alone:  # two threads with half of the slots each would wait for each other
            try:
                for _ in range(NUM_PARALLEL):
                    self._slots.acquire()
                    taken += 1
                yield
            finally:
                for _ in range(taken):
                    self._slots.release()

    def _predicted(self, files: Sequence[bytes]) -> np.ndarray:
        """Return the probabilities of files from one request, `(n, num_classes)` float32."""
        where = self._connection.base + self._path
        try:
            rows = self._connection.predict(self._path, files, patience_seconds=OUTAGE_SECONDS)
        except Gone as error:
            raise DataError(
                f"{where}: expected version {self.model.version} of {self.model.name}, with which this run began, got {error}. "
                f"The run stops, since all tiles need scores of one version. Serve that version again and run the same command, "
                f"or begin a new run with another --out."
            ) from error
        found = _probabilities(rows, len(self.model.classes))
        if found is None:
            raise DataError(
                f"{where}: expected {len(self.model.classes)} probabilities in 0..1 for each of {len(files)} tiles, got "
                f"{brief(json.dumps(rows))}. The run stops, and no tile of this batch has a score. {NOT_SERVING}"
            )
        return found


@dataclass(frozen=True)
class _Explained:
    """What the signature `explain` tells of a model."""

    version: int
    classes: tuple[str, ...]
    threshold: float


def open_endpoint(url: str, *, name: str | None = None, version: int | None = None) -> EndpointScorer:
    """Look at the model of an endpoint, and return a scorer that uses one version of it.

    Args:
        url: `http://HOST:PORT/v1/models/NAME`, or with `/versions/N`; `:predict` at its end is accepted.
        name: The model that it must be; None for whichever it is.
        version: The version to use; None for the URL's, or the one that answers without a number.

    Raises:
        ConfigError: The URL has another form, there is no such model or version, or it is no export of satx.
        DataError: The endpoint does not answer.
    """
    found = _URL.fullmatch(url.strip())
    if found is None:
        raise ConfigError(
            f"--endpoint: expected http://HOST:PORT/v1/models/NAME or http://HOST:PORT/v1/models/NAME/versions/N, got "
            f"{_without_secrets(url)}. User names, passwords and parameters are not accepted, since the URL is written down."
        )
    served, in_url = unquote(found["name"]), int(found["version"]) if found["version"] else None
    connection = Connection(found["base"])
    try:
        path = f"/v1/models/{found['name']}"
        number = _offered_version(connection, path, name=name, version=version, in_url=in_url)
        if number is None:
            number = _explained(connection, path).version
        pinned = f"{path}/versions/{number}"
        model = _identity(connection, pinned, served, number)
    except BaseException:
        connection.close()
        raise
    return EndpointScorer(connection, pinned, model)


def _offered_version(
    connection: Connection, path: str, *, name: str | None, version: int | None, in_url: int | None
) -> int | None:
    """Return the version to use, if one is named, after a look at what is served."""
    served, states = unquote(path.rpartition("/")[2]), _states(connection, path)
    offered = [number for number, state in states.items() if state == "AVAILABLE" and in_url in (number, None)]
    wanted = in_url if version is None else version
    if name not in (served, None) or wanted not in (*offered, None) or not offered:
        listed = ", ".join(f"version {number} ({state})" for number, state in states.items()) or "no version"
        raise ConfigError(
            f"{connection.base}{path}{'' if in_url is None else f'/versions/{in_url}'}: expected model {name or served}, version "
            f"{'any' if wanted is None else wanted}, got model {served}, {listed}. Pass another --endpoint, or leave out --model "
            f"and --version to use what it serves."
        )
    return wanted


def _states(connection: Connection, path: str) -> dict[int, str]:
    """Return the state of each version of a model."""
    where = connection.base + path
    try:
        status = connection.get(path, patience_seconds=OPENING_SECONDS)
        return {int(entry["version"]): str(entry["state"]) for entry in status["model_version_status"]}
    except (Gone, Refused) as error:
        raise ConfigError(f"{where}: expected a model that is served, got {error}. {NOT_SERVING}") from error
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: expected the status of a model, got other JSON. {NOT_SERVING}") from error


def _explained(connection: Connection, path: str) -> _Explained:
    """Ask the signature `explain` about one grey tile."""
    try:
        (row,) = connection.predict(path, [_png(_GREY)], signature=EXPLAIN_SIGNATURE, patience_seconds=OPENING_SECONDS)
        classes = tuple(str(label) for label in row["class_names"])
        explained = _Explained(int(row["version"]), classes, float(row["threshold"]))
        if _probabilities([row[OUTPUT_NAME]], len(classes)) is None:
            raise ValueError(f"{OUTPUT_NAME} {row[OUTPUT_NAME]} of the classes {', '.join(classes)}")
    except (Refused, Gone, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{connection.base}{path}: expected an export of satx, whose signature {EXPLAIN_SIGNATURE} tells classes, threshold "
            f"and version, got: {brief(f'{type(error).__name__}: {error}')}. Promote the model with this satx, and serve its "
            f"export."
        ) from error
    return explained


def _identity(connection: Connection, path: str, name: str, version: int) -> ModelIdentity:
    where = connection.base + path
    explained = _explained(connection, path)
    if explained.version != version:
        raise ConfigError(
            f"{where}: expected version {version}, got a model that says it is version {explained.version}. Serve each export "
            f"from the folder that is named by its version."
        )
    try:
        signatures = connection.get(f"{path}/metadata", patience_seconds=OPENING_SECONDS)["metadata"]["signature_def"]
        dims = signatures["signature_def"][IMAGES_SIGNATURE]["inputs"][IMAGES_NAME]["tensor_shape"]["dim"]
        _, height_px, width_px, num_bands = (int(dim["size"]) for dim in dims)
    except (Refused, Gone, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}/metadata: expected the signature {IMAGES_SIGNATURE} with the size of the tiles, got none. Promote the "
            f"model with this satx, and serve its export."
        ) from error
    if height_px != width_px or height_px < 1 or num_bands != 3:
        raise ConfigError(f"{where}: expected a model of square RGB tiles, got {height_px}x{width_px}x{num_bands}.")
    said = {"signatures": signatures, "name": name, "version": explained.version, "threshold": explained.threshold}
    return ModelIdentity(
        name=name,
        version=explained.version,
        digest=digest_of(said | {"classes": explained.classes}),
        classes=explained.classes,
        positive_class=_positive_class(where, name, explained.classes),
        threshold=explained.threshold,
        image_size_px=height_px,
        sample=name.endswith(_SAMPLE),
    )


def _positive_class(where: str, name: str, classes: tuple[str, ...]) -> str:
    """Return the class that the model is named by, or of two classes `X` and `not-X` the first."""
    task = name.removesuffix(_SAMPLE)
    chosen = [label for label in classes if label == task] or [label for label in classes if f"not-{label}" in classes]
    if len(chosen) != 1:
        raise ConfigError(
            f"{where}: expected a class with the model's name ({task}), or classes X and not-X, got {', '.join(classes)}. Serve "
            f"the model under the name of its class of interest, or predict without --endpoint."
        )
    return chosen[0]


def _probabilities(rows: list[Any], num_classes: int) -> np.ndarray | None:
    """Return rows of an answer as `(n, num_classes)` float32; None if they are not probabilities."""
    try:
        values = np.array(rows, np.float32)
    except (TypeError, ValueError):  # a ragged list, or objects
        return None
    # NaN is in no range
    is_right = values.shape == (len(rows), num_classes) and bool(np.all((values >= 0) & (values <= 1)))
    return values if is_right else None


def _servable(tile: np.ndarray, data: bytes) -> bytes:
    return data if image_format(data[:HEAD_BYTES]) in SERVED_FORMATS else _png(tile)


def _png(tile: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _without_secrets(url: str) -> str:
    return re.sub(r"[^/\s]*@", "…@", re.split("[?#]", url)[0])
