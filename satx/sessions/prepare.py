"""Preparation of a session before any training starts: settings, tiles and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from satx.catalogue import BACKBONES
from satx.config import Configuration, validated
from satx.environment import environment
from satx.errors import ConfigError, DataError, WeightsError, nearest_name
from satx.models.weights import find_weights, random_weights
from satx.models.weights_file import Weights
from satx.sample.sample import render_sample
from satx.search.space import SweepConfig, load_sweep
from satx.session_config import SessionConfig, load_session
from satx.sessions.lineage import ancestors
from satx.sessions.manifest import load_manifest
from satx.sessions.used import refuse_other_manifest
from satx.sessions.verified import tiles_of_manifest, verify_store
from satx.storage import project_root, satx_home
from satx.tiles.layout import TileFolder, read_layout
from satx.tiles.report import CheckReport, named_counts
from satx.tiles.store import TileStore, build_store
from satx.tiles.unread import HIDDEN, NOT_AN_IMAGE
from satx.tiles.walk import first_few

SAMPLE_SIZE_PX = 96
SAMPLE_SWEEP = "quick"
OnStage = Callable[[str, int, int], None]  # stage, number done, total


def _silent(_what: str, _done: int, _total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class SessionRequest:
    """The session and options that the caller requested; None means the default.

    Attributes:
        session: Name of the session.
        data: Folder of the tiles; by default the one in the session's YAML.
        weights: Folder of weights files, or `none` for random weights.
        image_size_px: Edge of the tiles, in pixels.
    """

    session: str
    data: Path | None = None
    weights: str | None = None
    image_size_px: int | None = None


@dataclass(frozen=True)
class PreparedSession:
    """A session whose tiles, weights and settings were checked.

    Attributes:
        session: The session; one with sample tiles has `sample` in its name and task.
        defaults: The session's settings, with the requested image size.
        store: The decoded tiles.
        weights: Weights of each requested backbone.
        notices: Messages to show to the user prominently.
    """

    session: SessionConfig
    defaults: Configuration
    store: TileStore
    weights: dict[str, Weights]
    notices: tuple[str, ...]


def notices_ahead(request: SessionRequest) -> tuple[str, ...]:
    """Return what a user should know before the tiles are read: that they will be rendered, if the folder is missing.

    Raises:
        DataError: The folder is missing and cannot be replaced by a sample.
    """
    session = load_session(request.session)
    if not _needs_sample(request, session):
        return ()
    notice = (
        f"{session.data_dir} is missing, so this is the SAMPLE session: rendered tiles, not imagery. Its runs, studies and "
        f"models have `sample` in their names and never replace real ones. Pass DATA=DIR to use your own tiles."
    )
    return (notice,)


def find_tiles(request: SessionRequest, session: SessionConfig, *, on_progress: OnStage = _silent) -> TileFolder:
    """Find the session's tiles; if its folder is missing, render sample tiles.

    Raises:
        DataError: The folder is missing and cannot be replaced by a sample, or it is not a tile folder.
    """
    if not _needs_sample(request, session):
        return read_layout(request.data or _own_folder(session))
    sample = render_sample(
        satx_home() / "sample" / session.experiment_name,
        session=int(session.session),
        on_progress=lambda done, total: on_progress("rendering the sample", done, total),
    )
    return read_layout(sample)


def _needs_sample(request: SessionRequest, session: SessionConfig) -> bool:
    """Return whether the session's tiles must be rendered; raise a DataError if they cannot be."""
    if request.data is not None or _own_folder(session).is_dir():
        return False
    if not session.session.isdigit() or session.manifest is not None:
        raise DataError(
            f"{_own_folder(session)}: expected the tiles of {session.experiment_name}, found no folder. Pass DATA=DIR."
        )
    return True


def _own_folder(session: SessionConfig) -> Path:
    return (project_root() or Path.cwd()) / session.data_dir


def prepare(request: SessionRequest, backbones: tuple[str, ...], *, on_progress: OnStage = _silent) -> PreparedSession:
    """Check and decode the tiles, and find the weights of each backbone.

    Raises:
        ConfigError, DataError, WeightsError: An error that the user can fix.
    """
    session = load_session(request.session)
    folder = find_tiles(request, session, on_progress=on_progress)
    return prepare_folder(folder, session, request, backbones, on_progress=on_progress)


def prepare_folder(
    folder: TileFolder,
    session: SessionConfig,
    request: SessionRequest,
    backbones: tuple[str, ...],
    *,
    on_progress: OnStage = _silent,
) -> PreparedSession:
    """Prepare a session from a tile folder that was found already: check and decode the tiles, and find the weights.

    If the session has a manifest, the folder must have its tiles and no others.
    """
    if folder.sample:
        session = session.model_copy(
            update={"session": f"{session.experiment_name}-sample", "task": f"{session.task}-sample"}
        )
    if session.positive_class not in folder.classes:
        raise DataError(
            f"{folder.root}: expected the positive class {session.positive_class!r} of {session.experiment_name}, got "
            f"{', '.join(folder.classes)}. {nearest_name(session.positive_class, folder.classes)}"
        )
    usual_px = SAMPLE_SIZE_PX if folder.sample else session.defaults.image_size_px
    size_px = usual_px if request.image_size_px is None else request.image_size_px
    defaults = validated(Configuration, session.defaults.model_dump() | {"image_size_px": size_px}, source="SIZE")
    for name in backbones:
        if size_px < BACKBONES[name].min_size_px:
            raise ConfigError(
                f"SIZE: expected at least {BACKBONES[name].min_size_px} px for {name}, got {size_px}. Pass a larger SIZE, or "
                f"a sweep without {name}."
            )
    store = checked_store(folder, session, image_size_px=size_px, on_progress=on_progress)
    weights, notices = weights_for(request, backbones, store, defaults.train.seed, on_progress=on_progress)
    return PreparedSession(session, defaults, store, weights, (*_notice_of_unused(store.report), *notices))


def checked_store(folder: TileFolder, session: SessionConfig, *, image_size_px: int, on_progress: OnStage) -> TileStore:
    """Open the store of a session's tiles, or build it; if the session has a manifest, the tiles must be those that it lists.

    Raises:
        ConfigError: An ancestor of the session is missing or another, or a run of the session recorded another manifest.
        DataError: The tiles cannot be used, or are not those of the manifest.
    """
    cache_dir = satx_home() / "cache"

    def on_tiles(done: int, total: int) -> None:
        on_progress("reading tiles", done, total)

    if session.manifest is None:
        return build_store(folder, image_size_px=image_size_px, cache_dir=cache_dir, on_progress=on_tiles)
    ancestors(session)
    manifest = load_manifest(session.manifest)
    refuse_other_manifest(session)
    listed = tiles_of_manifest(folder, manifest, on_tiles)
    store = build_store(listed, image_size_px=image_size_px, cache_dir=cache_dir, on_progress=on_tiles)
    verify_store(store, listed, manifest)
    return store


def _notice_of_unused(report: CheckReport) -> tuple[str, ...]:
    """Return a notice if images of the folder are not used; notes and hidden files beside them are no images."""
    unused = {reason: names for reason, names in report.unused.items() if reason not in (NOT_AN_IMAGE, HIDDEN)}
    if not unused:
        return ()
    counts = named_counts({reason: len(names) for reason, names in unused.items()})
    examples = first_few([name for names in unused.values() for name in names])
    advice = f" `{report.check_command}` says why." if report.check_command else ""
    return (f"Files of {report.root} that are not used: {counts} ({examples}).{advice}",)


def weights_for(
    request: SessionRequest, backbones: tuple[str, ...], store: TileStore, seed: int, *, on_progress: OnStage = _silent
) -> tuple[dict[str, Weights], tuple[str, ...]]:
    """Find the weights of each backbone, and return them with notices for the user.

    Raises:
        WeightsError: The weights cannot be found, and the tiles are not a sample or a weights folder was given.
    """
    cache_dir = satx_home() / "cache"

    def each(weights_of: Callable[[str], Weights]) -> dict[str, Weights]:
        found = {}
        for number, name in enumerate(backbones):
            on_progress("looking for weights", number, len(backbones))
            found[name] = weights_of(name)
        on_progress("looking for weights", len(backbones), len(backbones))
        return found

    def random() -> dict[str, Weights]:
        tiles = store.pixels(), store.rows("train")
        return each(lambda name: random_weights(name, *tiles, seed=seed, cache_dir=cache_dir))

    if request.weights == "none":
        return random(), ("RANDOM weights, as requested with --weights none: no backbone is pretrained.",)
    folder = environment().weights_dir if request.weights is None else Path(request.weights)
    try:
        size_px = store.image_size_px
        return each(lambda name: find_weights(name, folder, cache_dir=cache_dir, image_size_px=size_px)), ()
    except WeightsError as error:
        if not store.sample or folder is not None:
            raise
        notice = (
            f"RANDOM weights, since the ImageNet weights were not found. Training continues, since these are sample tiles; its "
            f"runs are tagged `weights=random`. With ImageNet weights, scores are higher after fewer epochs. Reason: {error}"
        )
        return random(), (notice,)


def sweep_for(request: SessionRequest, name: str | None) -> SweepConfig:
    """Load the sweep to run. Call it before the tiles are decoded, so that a typo in its YAML costs no time."""
    session = load_session(request.session)
    if name is not None:
        return load_sweep(name)
    if request.data is not None:
        sample = read_layout(request.data).sample
    else:
        folder = (project_root() or Path.cwd()) / session.data_dir
        sample = not folder.is_dir() or read_layout(folder).sample
    return load_sweep(SAMPLE_SWEEP if sample else session.sweep)
