from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from satx.errors import DataError
from satx.storage import write_json
from satx.tiles import store_writer
from satx.tiles.check import OnProgress, no_progress
from satx.tiles.layout import SAMPLE_MARKER, TileFile, TileFolder, read_layout
from satx.tiles.store import TileStore, build_store, data_digest, open_store
from satx.tiles.store_writer import tile_id

from .folders import image_bytes, noise_image, write_tiles

BUILD = """
import resource, sys, time
from pathlib import Path
from satx.errors import DataError
from satx.tiles.layout import read_layout
from satx.tiles.store import build_store
root, cache, mode = sys.argv[1:]
decoded = 0
def progress(done, total):
    global decoded
    decoded = done if done < total or decoded else 0
    if mode == "tell" and done == total and not decoded:
        print("hashed", flush=True)
    if mode == "slow" and done == 9:
        print("half", flush=True)
        time.sleep(60)
if mode == "small disk":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
if mode == "wait":
    print("ready", flush=True)
    sys.stdin.readline()
try:
    store = build_store(read_layout(Path(root)), image_size_px=32, cache_dir=Path(cache), on_progress=progress)
    print("built" if decoded else "shared", (store.folder / "pixels.npy").stat().st_ino, int(store.pixels().sum()))
except DataError as error:
    print("DataError", error)
"""


def build(root: Path, cache: Path, size_px: int = 32, *, on_progress: OnProgress = no_progress) -> TileStore:
    return build_store(read_layout(root), image_size_px=size_px, cache_dir=cache, on_progress=on_progress)


def start(root: Path, cache: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(root), str(cache), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    return write_tiles(tmp_path / "tiles")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_store_holds_every_tile_resized_and_an_index(tiles: Path, cache: Path) -> None:
    store = build(tiles, cache)
    pixels = store.pixels()
    assert store.folder == cache / f"tiles-{store.digest[:16]}-32px"
    assert (pixels.shape, pixels.dtype) == ((18, 32, 32, 3), np.uint8)
    assert isinstance(pixels, np.memmap)
    assert not pixels.flags.writeable
    assert list(store.index.columns) == [
        "row",
        "relative",
        "label",
        "label_index",
        "split",
        "slice",
        "content_digest",
        "file_digest",
        "format",
        "tile_id",
    ]
    for row in store.index.itertuples():
        image = Image.open(tiles / str(row.relative)).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels[row.row], np.asarray(image))
        assert str(row.relative).startswith(f"{row.split}/{row.label}/")
        assert store.classes[store.labels()[row.row]] == row.label
    assert not store.sample


def test_the_rows_of_the_splits_partition_the_store(tiles: Path, cache: Path) -> None:
    store = build(tiles, cache)
    rows = np.concatenate([store.rows(split) for split in ("train", "valid", "test")])
    assert rows.dtype == store.labels().dtype == np.int64
    assert np.array_equal(rows, np.arange(18))
    assert set(store.index.loc[store.rows("valid"), "split"]) == {"valid"}


def test_a_second_build_decodes_nothing(tiles: Path, cache: Path) -> None:
    first = build(tiles, cache)
    calls: list[tuple[int, int]] = []
    second = build(tiles, cache, on_progress=lambda *call: calls.append(call))
    assert calls == [(18, 18)], "only hashing reports progress"
    assert second.folder == first.folder
    assert second.report == first.report
    pd.testing.assert_frame_equal(second.index, first.index)


def test_each_image_is_decoded_exactly_once(tiles: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    real = store_writer.read_and_decode

    def counting(file: TileFile, *, digest: str | None) -> object:
        decoded.append(file.relative)
        return real(file, digest=digest)

    monkeypatch.setattr(store_writer, "read_and_decode", counting)
    build(tiles, cache)
    assert sorted(decoded) == sorted(file.relative for file in read_layout(tiles).files)


def test_the_store_does_not_depend_on_the_names_of_folder_and_files(tiles: Path, cache: Path) -> None:
    first = build(tiles, cache / "a")
    moved = shutil.copytree(tiles, tiles.parent / "elsewhere")
    for number, path in enumerate(sorted(moved.rglob("*.png"))):
        path.rename(path.with_name(f"renamed{97 * (number + 1) % 101}.png"))
    second = build(moved, cache / "b")
    assert second.digest == first.digest
    assert np.array_equal(second.pixels(), first.pixels())


def folder_of(files: list[TileFile], *, marker: str | None = None) -> TileFolder:
    return TileFolder(Path("anywhere"), tuple(files), ("no", "yes"), marker, (), "")


tile_files = st.builds(
    TileFile,
    path=st.just(Path("x")),
    relative=st.text(min_size=1, max_size=5),
    label=st.sampled_from(["no", "yes"]),
    split=st.sampled_from(["train", "valid", "test"]),
    slice=st.sampled_from(["", "rural", "urban"]),
)
listings = st.lists(st.tuples(st.text("0123456789abcdef", min_size=4, max_size=4), tile_files), min_size=1, max_size=12)


@given(listing=listings, seed=st.integers(0, 10**6), names=st.text(max_size=5))
def test_the_digest_does_not_depend_on_order_or_names(
    listing: list[tuple[str, TileFile]], seed: int, names: str
) -> None:
    digest = data_digest(folder_of([file for _, file in listing]), [content for content, _ in listing])
    shuffled = random.Random(seed).sample(listing, len(listing))
    renamed = [TileFile(Path(names), names, file.label, file.split, file.slice) for _, file in shuffled]
    assert data_digest(folder_of(renamed), [content for content, _ in shuffled]) == digest


@given(listing=listings)
def test_the_digest_depends_on_content_slice_count_and_marker(listing: list[tuple[str, TileFile]]) -> None:
    contents, files = [content for content, _ in listing], [file for _, file in listing]
    digest = data_digest(folder_of(files), contents)
    first = files[0]
    others = [
        data_digest(folder_of(files), ["other", *contents[1:]]),
        data_digest(folder_of([*files, first]), [*contents, contents[0]]),
        data_digest(folder_of(files, marker="{}"), contents),
        data_digest(
            folder_of([TileFile(first.path, first.relative, first.label, first.split, "coast"), *files[1:]]), contents
        ),
    ]
    assert digest not in others
    assert len(set(others)) == len(others)


def test_another_size_is_another_store_of_the_same_data(tiles: Path, cache: Path) -> None:
    small, large = build(tiles, cache, 16), build(tiles, cache, 48)
    assert small.digest == large.digest
    assert small.folder != large.folder
    assert large.pixels().shape == (18, 48, 48, 3)
    with pytest.raises(DataError, match=r"48 px.* 16 px"):
        open_store(small.folder, image_size_px=48)


def test_a_store_records_that_its_tiles_were_rendered(tiles: Path, cache: Path) -> None:
    photographed = build(tiles, cache)
    (tiles / SAMPLE_MARKER).write_text("{}")
    rendered = build(tiles, cache)
    assert rendered.sample
    assert open_store(rendered.folder).sample
    assert rendered.digest != photographed.digest


def test_broken_leaking_and_conflicting_tiles_are_left_out_and_reported(tmp_path: Path, cache: Path) -> None:
    tiles = write_tiles(tmp_path / "tiles", num_each=10)
    (tiles / "train/school/0.png").write_bytes(b"broken")
    (tiles / "test/school/leak.png").write_bytes((tiles / "train/school/1.png").read_bytes())
    (tiles / "train/not-school/conflict.png").write_bytes((tiles / "valid/school/2.png").read_bytes())
    store = build(tiles, cache)
    left_out = {"train/school/0.png", "train/school/1.png", "train/not-school/conflict.png", "valid/school/2.png"}
    everything = {file.relative for file in read_layout(tiles).files}
    assert set(store.index["relative"]) == everything - left_out
    assert store.pixels().shape[0] == len(store.index) == 58
    assert store.index["row"].tolist() == list(range(58))
    for reopened in (store, build(tiles, cache), open_store(store.folder)):
        assert [problem.kind for problem in reopened.report.problems] == ["broken", "conflict", "leak"]
        assert reopened.report.broken == ("train/school/0.png",)
        assert reopened.report.counts["train", "school"] == 8


def test_rows_that_are_left_out_are_closed_up_wherever_they_lie(tmp_path: Path, cache: Path) -> None:
    tiles = write_tiles(tmp_path / "tiles", num_each=10)
    leaks = [f"train/{label}/{number}.png" for label in ("school", "not-school") for number in (0, 3, 4, 9)]
    for number, name in enumerate(leaks):
        copy = tiles / "test" / name.split("/")[1] / f"copy{number}.bmp"
        with Image.open(tiles / name) as image:
            copy.write_bytes(image_bytes(image, "BMP"))
    store = build(tiles, cache)
    assert {p.relative for p in store.report.problems if p.kind == "leak"} == set(leaks)
    assert store.pixels().shape[0] == len(store.index) == 60
    for row in store.index.itertuples():
        image = Image.open(tiles / str(row.relative)).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(store.pixels()[row.row], np.asarray(image))


def test_a_file_that_changes_between_hashing_and_decoding_is_refused(tiles: Path, cache: Path) -> None:
    changed = read_layout(tiles).files[5].path

    def change_once_hashed(done: int, total: int) -> None:
        changed.write_bytes(image_bytes(noise_image(300)))

    with pytest.raises(DataError) as error:
        build(tiles, cache, on_progress=change_once_hashed)
    assert str(changed) in str(error.value)


def test_a_file_that_cannot_be_read_for_a_moment_leaves_no_store_without_it(tiles: Path, cache: Path) -> None:
    gone = read_layout(tiles).files[5].path
    data = gone.read_bytes()
    with pytest.raises(DataError, match="changed"):
        build(tiles, cache, on_progress=lambda done, total: gone.unlink(missing_ok=True))
    gone.write_bytes(data)
    assert len(build(tiles, cache).index) == 18


def test_the_report_of_an_existing_store_is_about_the_folder_as_it_is_now(tiles: Path, cache: Path) -> None:
    assert build(tiles, cache).report.unused == {}
    moved = tiles.rename(tiles.with_name("moved"))
    (moved / "train/loose.png").write_bytes(image_bytes(noise_image(200)))
    (moved / "train/school/notes.txt").write_text("notes")
    report = build(moved, cache).report
    assert report.root == moved
    assert report.unused == {
        "in no class folder of a split": ("train/loose.png",),
        "not an image": ("train/school/notes.txt",),
    }
    assert [problem.kind for problem in report.problems] == ["not-read", "not-read"]


def test_files_beside_the_tiles_do_not_change_the_data(tiles: Path, cache: Path) -> None:
    before = build(tiles, cache)
    (tiles / "train/school/0.png.aux.xml").write_text("<xml/>")
    after = build(tiles, cache)
    assert (after.digest, after.folder) == (before.digest, before.folder)
    assert build(tiles, cache / "new").report.unused == {"not an image": ("train/school/0.png.aux.xml",)}


def test_the_npy_header_has_room_for_a_count_with_fewer_digits(tmp_path: Path, cache: Path) -> None:
    tiles = write_tiles(tmp_path / "tiles", num_each=17)  # 102 tiles, 99 of them valid
    for number in range(3):
        (tiles / f"train/school/{number}.png").write_bytes(b"broken")
    store = build(tiles, cache)
    assert store.pixels().shape == (99, 32, 32, 3)
    with Image.open(tiles / store.index["relative"].iloc[-1]) as image:
        assert np.array_equal(store.pixels()[-1], np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)))


def test_more_than_5_percent_broken_tiles_are_refused_and_leave_no_store(tiles: Path, cache: Path) -> None:
    (tiles / "train/school/0.png").write_bytes(b"broken")
    with pytest.raises(DataError) as error:
        build(tiles, cache)
    values = ("1 of 18", "train/school/0.png", f"`satx data check {tiles}`")
    assert [value for value in values if value not in str(error.value)] == []
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def cut_pixels(folder: Path) -> None:
    os.truncate(folder / "pixels.npy", 5000)


def cut_about(folder: Path) -> None:
    os.truncate(folder / "store.json", 40)


def change_index(folder: Path) -> None:
    table = pd.read_parquet(folder / "index.parquet")
    table.assign(label_index=1).to_parquet(folder / "index.parquet", index=False)


def lose_index(folder: Path) -> None:
    (folder / "index.parquet").unlink()


def age(folder: Path) -> None:
    about = json.loads((folder / "store.json").read_text())
    write_json(folder / "store.json", about | {"format": 0})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (cut_pixels, "tiles-"),
        (cut_about, "store.json"),
        (change_index, "tiles-"),
        (lose_index, "index.parquet"),
        (age, "format 0"),
    ],
)
def test_a_damaged_store_is_refused_when_opened_and_rebuilt_when_built(
    tiles: Path, cache: Path, damage: object, named: str
) -> None:
    store = build(tiles, cache)
    before = store.pixels().copy()
    assert callable(damage)
    damage(store.folder)
    with pytest.raises(DataError) as error:
        open_store(store.folder)
    assert str(store.folder) in str(error.value) and named in str(error.value)
    assert error.value.exit_code == 2
    again = build(tiles, cache)
    assert again.folder == store.folder
    assert np.array_equal(again.pixels(), before)
    pd.testing.assert_frame_equal(again.index, store.index)


def test_a_store_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(DataError) as error:
            open_store(path)
        assert str(path) in str(error.value)


def test_a_build_killed_half_way_leaves_no_store_and_the_next_one_cleans_up(tiles: Path, cache: Path) -> None:
    process = start(tiles, cache, "slow")
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(cache.glob("tiles-*"))
    assert list(cache.glob(".tiles-*/"))
    store = build(tiles, cache)
    assert store.pixels().shape == (18, 32, 32, 3)
    assert not list(cache.glob(".tiles-*/"))


def test_two_processes_at_once_share_one_build(tiles: Path, cache: Path) -> None:
    processes = [start(tiles, cache, "wait") for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0].split() for process in processes]
    assert outputs[0][1:] == outputs[1][1:]
    assert sorted(output[0] for output in outputs) == ["built", "shared"]


def test_a_process_waits_for_a_build_in_another_process(tiles: Path, cache: Path) -> None:
    builder = start(tiles, cache, "slow")
    assert builder.stdout is not None
    assert builder.stdout.readline() == "half\n"
    waiting = start(tiles, cache, "tell")
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "hashed\n"
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=1)
    builder.kill()
    builder.communicate()
    assert waiting.communicate()[0].startswith("built")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tiles: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tiles)
    monkeypatch.setattr(store_writer.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    calls: list[tuple[int, int]] = []
    with pytest.raises(DataError) as error:
        build(tiles, cache, on_progress=lambda *call: calls.append(call))
    assert str(cache) in str(error.value) and "0.000 GB" in str(error.value) and "`satx gc`" in str(error.value)
    assert calls == [(18, 18)], "only hashing reports progress"
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_a_disk_that_fills_up_during_a_build_leaves_no_store(tiles: Path, cache: Path) -> None:
    output = start(tiles, cache, "small disk").communicate()[0]
    assert output.startswith("DataError ") and "`satx gc`" in output
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_memory_does_not_grow_with_the_number_of_tiles(tmp_path: Path, cache: Path) -> None:
    def peak_bytes(num_each: int) -> int:
        folder = read_layout(write_tiles(tmp_path / f"tiles{num_each}", num_each=num_each, size_px=8))
        tracemalloc.start()
        build_store(folder, image_size_px=128, cache_dir=cache)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    growth = peak_bytes(120) - peak_bytes(40)  # 480 more tiles of 49,152 bytes
    assert growth < 0.2 * 480 * 128 * 128 * 3


@pytest.mark.parametrize(
    ("relative", "expected"),
    [
        ("train/school/18-160123-130456.png", "18-160123-130456"),
        ("train/school/18_160123_130456.tif", "18-160123-130456"),
        ("train/school/2-4-0.png", "2-4-0"),
        ("train/school/2_4_0.png", "2_4_0"),
        ("train/school/airport_145.jpg", "airport_145"),
        ("train/school/2020-01-02.jpg", "2020-01-02"),
        ("a.b.jpg", "a.b"),
    ],
)
def test_the_id_of_a_tile_is_its_grid_position_if_its_file_name_has_one(relative: str, expected: str) -> None:
    assert tile_id(relative) == expected


@pytest.mark.parametrize("session", [1, 2])
def test_all_real_tiles_are_stored(session: int, cache: Path, real_tiles: Path) -> None:
    store = build(real_tiles.with_name(f"session{session}"), cache, 64)
    assert store.report.problems == ()
    assert store.pixels().shape == ({1: 471, 2: 732}[session], 64, 64, 3)
    assert store.pixels().std() > 20


def test_slices_of_a_csv_are_in_the_index(tiles: Path, cache: Path) -> None:
    files = read_layout(tiles).files
    lines = [f"{file.relative},{file.label},{file.split},{'rural' if '0' in file.relative else ''}" for file in files]
    (tiles / "tiles.csv").write_text("\n".join(["path,label,split,slice", *lines]))
    index = build(tiles, cache).index
    assert (index["slice"] == "rural").sum() == 6
    assert (index.loc[index["relative"].str.contains("0"), "slice"] == "rural").all()


def test_an_added_tile_makes_another_store(tiles: Path, cache: Path) -> None:
    first = build(tiles, cache)
    (tiles / "train/school/new.png").write_bytes(image_bytes(noise_image(1234)))
    second = build(tiles, cache)
    assert second.digest != first.digest
    assert len(second.index) == 19
    assert open_store(first.folder).digest == first.digest
