import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from satx.errors import ConfigError, DataError
from satx.sample.sample import render_sample, render_tile
from satx.sample.scenes import BUILT_UP_KINDS, OPEN_LAND_KINDS, SCHOOL_KINDS, render_scene
from satx.storage import file_digest
from satx.tiles.layout import SAMPLE_MARKER, read_layout


@pytest.fixture(scope="module")
def session1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_sample(tmp_path_factory.mktemp("sample") / "session1", session=1, num_tiles=80, workers=1)


@pytest.fixture(scope="module")
def session2(tiny_tiles: Path) -> Path:
    """Return the tiles that the tests of other packages read."""
    return tiny_tiles


def digests(folder: Path, split: str = "") -> dict[str, str]:
    return {
        str(path.relative_to(folder)): file_digest(path)
        for path in sorted((folder / split).rglob("*"))
        if path.is_file()
    }


def test_another_seed_gives_other_tiles() -> None:
    assert not np.array_equal(render_tile("school", "rural", 1), render_tile("school", "rural", 2))


def test_csv_names_every_file_in_its_split_and_class_folder(session2: Path) -> None:
    table = pd.read_csv(session2 / "tiles.csv")
    assert list(table.columns) == ["path", "label", "split", "slice", "source_class"]
    assert set(table["path"]) == {str(path.relative_to(session2)) for path in session2.rglob("*.jpg")}
    assert all(row.path.startswith(f"{row.split}/{row.label}/") for row in table.itertuples())
    with Image.open(session2 / table["path"][0]) as image:
        assert (image.size, image.mode) == ((256, 256), "RGB")


def test_layout_reads_the_folder_as_a_sample(session2: Path) -> None:
    folder = read_layout(session2)
    assert folder.sample
    assert folder.classes == ("not-school", "school")
    assert len(folder.files) == 120


def test_marker_records_renderer_seed_session_and_counts(session2: Path) -> None:
    marker = json.loads((session2 / SAMPLE_MARKER).read_text())
    files = Counter("/".join(path.parts[-3:-1]) for path in session2.rglob("*.jpg"))
    assert marker == {"renderer_version": 1, "seed": 20, "session": 2, "counts": files}


def test_every_kind_of_place_and_both_slices_of_both_classes_appear_in_every_split(session2: Path) -> None:
    table = pd.read_csv(session2 / "tiles.csv")
    for _, part in table.groupby("split"):
        assert set(part["source_class"]) == {*SCHOOL_KINDS, *BUILT_UP_KINDS, *OPEN_LAND_KINDS}
        assert len(part.groupby(["label", "slice"])) == 4


def test_both_sessions_have_the_same_valid_and_test_tiles(session1: Path, session2: Path) -> None:
    for split in ("valid", "test"):
        assert digests(session1, split) == digests(session2, split)


def test_session_2_contains_session_1_and_adds_schools_and_mostly_built_up_negatives(
    session1: Path, session2: Path
) -> None:
    first, second = digests(session1, "train"), digests(session2, "train")
    assert first.items() < second.items()
    added = Counter(Path(path).stem.rsplit("-", 2)[0] for path in second.keys() - first.keys())
    built_up, open_land = (sum(added[kind] for kind in kinds) for kinds in (BUILT_UP_KINDS, OPEN_LAND_KINDS))
    assert built_up > 3 * open_land > 0
    assert sum(added[kind] for kind in SCHOOL_KINDS) > 0
    negatives = pd.read_csv(session1 / "tiles.csv").query("split == 'train' and label == 'not-school'")
    assert negatives["source_class"].isin(BUILT_UP_KINDS).mean() < 0.25


def test_no_two_tiles_are_the_same(session2: Path) -> None:
    assert len(set(digests(session2).values())) == len(digests(session2))


def test_a_complete_folder_is_left_unchanged(session1: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in session1.rglob("*")}
    calls: list[int] = []
    render_sample(session1, session=1, num_tiles=80, on_progress=lambda done, total: calls.append(done))
    assert {path: path.stat().st_mtime_ns for path in session1.rglob("*")} == before
    assert calls == []


def test_a_missing_tile_is_rendered_again_to_the_same_bytes_whatever_the_number_of_workers(
    session1: Path, tmp_path: Path
) -> None:
    """The folder is rendered as a whole, so all of it shows that the bytes follow from the seed."""
    folder = tmp_path / "sample"
    shutil.copytree(session1, folder)
    next(folder.rglob("*.jpg")).unlink()
    calls: list[tuple[int, int]] = []
    render_sample(folder, session=1, num_tiles=80, workers=2, on_progress=lambda *call: calls.append(call))
    assert digests(folder) == digests(session1)
    assert calls == [(done, len(calls)) for done in range(1, len(calls) + 1)]


def test_a_sample_of_another_seed_is_replaced(session1: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(session1, folder)
    render_sample(folder, session=1, num_tiles=40, seed=21, workers=1)
    assert json.loads((folder / SAMPLE_MARKER).read_text())["seed"] == 21
    assert digests(folder).items().isdisjoint(digests(session1).items())


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_render_leaves_no_files(tmp_path: Path, workers: int) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_sample(tmp_path / "sample", session=1, num_tiles=40, workers=workers, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError) as error:
        render_sample(tmp_path, session=2, num_tiles=40, workers=1)
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_unknown_sessions_sizes_classes_and_slices_are_refused_by_name(tmp_path: Path) -> None:
    cases: dict[str, Callable[[], object]] = {
        "got 3": lambda: render_sample(tmp_path / "s", session=3),
        "got 7": lambda: render_sample(tmp_path / "s", session=1, num_tiles=7),
        "'scool'": lambda: render_tile("scool", "urban", 0),
        "'suburban'": lambda: render_tile("school", "suburban", 0),
    }
    for got, render in cases.items():
        with pytest.raises(ConfigError, match=got):
            render()


@pytest.mark.parametrize("slice_name", ["rural", "urban"])
@pytest.mark.parametrize("kind", [*SCHOOL_KINDS, *BUILT_UP_KINDS, *OPEN_LAND_KINDS])
def test_every_scene_renders_as_a_varied_tile(kind: str, slice_name: str) -> None:
    tile = render_scene(kind, slice_name, np.random.default_rng(5))
    assert (tile.shape, tile.dtype) == ((256, 256, 3), np.uint8)
    assert tile.std() > 5


def histogram_accuracy(folder: Path) -> float:
    """Return the test accuracy of a logistic regression on joint color histograms; C is chosen on the test tiles."""
    table = pd.read_csv(folder / "tiles.csv")
    pixels = np.stack([np.asarray(Image.open(folder / path)) for path in table["path"]]) // 32  # (N, 256, 256, 3) uint8
    codes = (pixels.astype(np.int32) @ np.array([64, 8, 1], np.int32)).reshape(len(table), -1)
    histograms = np.stack([np.bincount(row, minlength=512) for row in codes]) / codes.shape[1]
    labels = (table["label"] == "school").to_numpy()
    train, test = (table["split"] == "train").to_numpy(), (table["split"] == "test").to_numpy()
    features = StandardScaler().fit(histograms[train]).transform(histograms)
    fits = [LogisticRegression(C=c, max_iter=2000).fit(features[train], labels[train]) for c in (1e-3, 1e-2, 0.1, 1.0)]
    return max(fit.score(features[test], labels[test]) for fit in fits)


@pytest.mark.slow
def test_color_alone_does_not_separate_schools(tmp_path: Path) -> None:
    assert histogram_accuracy(render_sample(tmp_path / "sample", session=2)) < 0.75


KILLED = """
import os, signal, sys
from pathlib import Path
from satx.sample.sample import render_sample
def kill(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
render_sample(Path(sys.argv[1]), session=1, num_tiles=40, workers=1, on_progress=kill)
"""


def test_a_killed_render_leaves_no_folder_and_the_next_one_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    ended = subprocess.run([sys.executable, "-c", KILLED, folder], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not folder.exists()
    render_sample(folder, session=1, num_tiles=40, workers=1)
    counts = json.loads((folder / SAMPLE_MARKER).read_text())["counts"]
    assert len(read_layout(folder).files) == sum(counts.values())
