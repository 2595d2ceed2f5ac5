from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from satx.catalogue import BACKBONES, NONE
from satx.config import AugmentationConfig, Configuration
from satx.errors import SatxError, TrialFailed, WeightsError
from satx.models.backbones import Network, build_backbone
from satx.storage import locked
from satx.training import cache_room
from satx.training import shards as shards_module
from satx.training import trunk as trunk_module
from satx.training.augmentation import views
from satx.training.cache_room import entry_gb, make_room, room_on_disk_gb, why_not_cached
from satx.training.devices import precision_policy
from satx.training.trunk import TrunkSource, build_all, entries_of, is_cached, trunk_source

RECIPE = AugmentationConfig(num_flips=2, num_variants=2, rotation_degrees=20)

BUILD = """
import sys
from pathlib import Path
from satx.config import AugmentationConfig
from satx.models.weights_file import Weights
from satx.tiles.store import open_store
from satx.training.trunk import TrunkSource, trunks_of
store, weights, digest, cache = sys.argv[1:]
source = TrunkSource(open_store(Path(store)), Weights("mobilenetv2", weights, digest, "random"), Path(cache),
                       AugmentationConfig(num_flips=2, num_variants=2, rotation_degrees=20))
print("ready", flush=True)
sys.stdin.readline()
features = source.split("train", 3)
print("built" if trunks_of.cache_info().misses else "shared", float(features.astype("float64").sum()), flush=True)
"""


@pytest.fixture(scope="module")
def source(tiny_store: Any, tiny_weights: Any, tmp_path_factory: pytest.TempPathFactory) -> TrunkSource:
    return TrunkSource(tiny_store, tiny_weights, tmp_path_factory.mktemp("features"), RECIPE)


def computed(source: TrunkSource, split: str, view: int) -> np.ndarray:
    """Return the features of a split, computed in one batch directly by the backbone."""
    backbone = build_backbone(source.weights.backbone, source.store.image_size_px, Path(source.weights.file))
    rows = source.store.rows(split)
    pixels = views(source.store.pixels(), rows, np.full(len(rows), view), config=source.augmentation)
    return np.asarray(keras.ops.convert_to_numpy(Network(source.weights.backbone, backbone, None, None)(pixels)))


@pytest.mark.parametrize(("split", "view"), [("valid", 0), ("train", 3)])
def test_cached_features_equal_the_backbones_within_float16_in_store_order(
    source: TrunkSource, split: str, view: int
) -> None:
    found = source.split(split, view)
    expected = computed(source, split, view)
    assert found.dtype == np.float16
    assert found.shape == expected.shape == (len(source.store.rows(split)), 1280)
    assert expected.std() > 0.1
    assert np.allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_different_views_have_different_features(source: TrunkSource) -> None:
    found = [np.asarray(source.split("valid", view)) for view in range(4)]
    for one in range(4):
        for other in range(one):
            assert not np.array_equal(found[one], found[other])


def test_cached_features_are_not_computed_again(source: TrunkSource) -> None:
    source.split("valid")
    path = source.folder / "none" / "valid-flip0-0000.npy"
    written_at = path.stat().st_mtime_ns
    fresh, asked = replace(source), trunk_module.trunks_of.cache_info()
    again = fresh.split("valid")
    assert np.array_equal(again, source.split("valid"))
    assert path.stat().st_mtime_ns == written_at
    assert trunk_module.trunks_of.cache_info() == asked


@pytest.mark.parametrize("how", ["flipped bit", "half", "empty", "no note", "broken note", "gone"])
def test_a_damaged_file_is_computed_again(source: TrunkSource, how: str) -> None:
    before = np.array(source.split("valid"))
    path = source.folder / "none" / "valid-flip0-0000.npy"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"flipped bit": bytes(content), "half": bytes(content[: len(content) // 2]), "empty": b""}
    if how in damaged:
        path.write_bytes(damaged[how])
    elif how == "no note":
        path.with_suffix(".json").unlink()
    elif how == "broken note":
        path.with_suffix(".json").write_text("{")
    else:
        path.unlink()
    shards_module._known.clear()  # as in a new process
    assert np.array_equal(source.split("valid"), before)
    assert json.loads(path.with_suffix(".json").read_text())["build_seconds"] > 0


def test_cached_features_do_not_depend_on_the_precision_of_the_trial(source: TrunkSource, tmp_path: Path) -> None:
    with precision_policy("mixed_bfloat16"):
        found = replace(source, cache_dir=tmp_path).split("valid")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert np.array_equal(found, source.split("valid"))


def test_other_weights_sizes_or_tiles_have_their_own_cache_folders(source: TrunkSource) -> None:
    folders = {
        source.folder,
        replace(source, weights=replace(source.weights, digest="0" * 64)).folder,
        replace(source, weights=replace(source.weights, backbone="xception")).folder,
        replace(source, store=replace(source.store, digest="0" * 64)).folder,
        replace(source, store=replace(source.store, image_size_px=64)).folder,
    }
    assert len(folders) == 5


def test_trainings_that_differ_only_in_their_seed_share_every_view(source: TrunkSource) -> None:
    for split, view in entries_of(RECIPE):
        source.split(split, view)
    for seed in (5, 6):
        configuration = Configuration.model_validate({"augmentation": RECIPE, "train": {"seed": seed}})
        assert is_cached(trunk_source(configuration, source.store, source.weights, source.cache_dir), NONE)


def test_changed_weights_are_refused_rather_than_used(source: TrunkSource, tmp_path: Path) -> None:
    changed = replace(source, cache_dir=tmp_path, weights=replace(source.weights, digest="0" * 64))
    with pytest.raises(WeightsError, match="0" * 12):
        changed.split("valid")


def test_features_beyond_float16_are_refused(source: TrunkSource, tmp_path: Path) -> None:
    huge = replace(source, cache_dir=tmp_path)
    for built in (trunk_module.trunks_of, trunk_module._frozen_backbone):
        built.cache_clear()
    trunk = trunk_module.trunks_of(huge.weights, 32, huge.cuts).trunk
    for variable in trunk.get_layer("Conv_1_bn").variables:
        if "beta" in variable.path:
            variable.assign(variable + 1e6)
    trunk.get_layer("out_relu").max_value = None
    with pytest.raises(SatxError, match="65504"), np.errstate(over="ignore"):
        huge.split("valid")
    trunk_module.trunks_of(huge.weights, 32, (NONE,)).trunk.get_layer("out_relu").max_value = None
    with pytest.raises(TrialFailed), np.errstate(over="ignore"):
        huge.encode(huge.store.pixels()[:2], NONE)
    for built in (trunk_module.trunks_of, trunk_module._frozen_backbone):
        built.cache_clear()
    assert not list(tmp_path.rglob("*.npy"))


def test_build_all_reports_progress_and_leaves_nothing_to_build(source: TrunkSource, tmp_path: Path) -> None:
    fresh = replace(source, cache_dir=tmp_path)
    reported: list[tuple[int, int]] = []
    build_all(fresh, (NONE,), limit_gb=1, on_progress=lambda done, total: reported.append((done, total)))
    tiles = len(fresh.store.rows("valid")) + 4 * len(fresh.store.rows("train"))
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)
    assert reported[-1] == (tiles, tiles)
    assert len(list(fresh.folder.glob("none/*.npy"))) == 5
    spent = fresh.build_seconds()
    assert spent > 0
    build_all(replace(fresh), (NONE,), limit_gb=1)
    assert fresh.build_seconds() == spent
    assert fresh.build_seconds(since_seconds=time.time() + 1) == 0


def test_in_random_mode_only_unaugmented_tiles_are_cached(source: TrunkSource, tmp_path: Path) -> None:
    fresh = replace(source, cache_dir=tmp_path, augmentation=AugmentationConfig(mode="random", rotation_degrees=9))
    build_all(fresh, (NONE,), limit_gb=1)
    assert sorted(path.name for path in fresh.folder.glob("none/*.npy")) == [
        "train-flip0-0000.npy",
        "valid-flip0-0000.npy",
    ]


CUTS = tuple(BACKBONES["mobilenetv2"].cuts)


def test_an_entry_is_the_trunks_output_whatever_the_order_of_requests(source: TrunkSource, tmp_path: Path) -> None:
    one, other = replace(source, cache_dir=tmp_path / "one"), replace(source, cache_dir=tmp_path / "other")
    build_all(one, (NONE, *CUTS), limit_gb=1)
    build_all(other, ("block14",), limit_gb=1)
    build_all(other, (NONE, "block16"), limit_gb=1)
    assert is_cached(one, "block7") and not is_cached(other, "block7")
    rows = source.store.rows("valid")
    for cut in (NONE, "block14", "block16"):
        first, second = one.open("valid", 0, cut), other.open("valid", 0, cut)
        assert first is not None and second is not None
        assert np.array_equal(np.concatenate(first), np.concatenate(second))
        computed_now = source.encode(source.store.pixels()[rows], cut)
        assert first[0].dtype == computed_now.dtype == np.float16
        assert np.allclose(first[0], computed_now, rtol=2e-3, atol=2e-3)
        assert np.abs(computed_now.astype(np.float32)).max() > 0.1


def test_missing_shards_are_built_and_the_others_are_kept(source: TrunkSource, tmp_path: Path) -> None:
    whole = replace(source, cache_dir=tmp_path, shard_tiles=32)
    whole.build("train", 1, (NONE, "block16"))
    shards = whole.open("train", 1, "block16")
    assert shards is not None and [len(shard) for shard in shards][:-1] == [32] * (len(shards) - 1)
    places = np.array([0, 40, 33, 31, len(source.store.rows("train")) - 1])
    out = np.empty((5, *shards[0].shape[1:]), np.float16)
    shards_module.gather(shards, places, out)
    assert np.array_equal(out, np.concatenate(shards)[places])
    lost = whole.folder / "block16" / "train-flip1-0001.npy"
    kept = whole.folder / "block16" / "train-flip1-0000.npy"
    written_at, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert whole.open("train", 1, "block16") is None
    reported: list[int] = []
    whole.build("train", 1, (NONE, "block16"), on_progress=lambda done, total: reported.append(done))
    assert lost.read_bytes() == content
    assert kept.stat().st_mtime_ns == written_at
    assert reported[-1] == len(source.store.rows("train"))


def test_a_folder_that_is_removed_while_it_is_written_to_is_written_again(
    source: TrunkSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, removed = replace(source, cache_dir=tmp_path), []
    write_json = shards_module.write_json

    def as_another_makes_room(path: Path, value: Any) -> None:
        if not removed:
            removed.append(path)
            shutil.rmtree(path.parent)
            raise FileNotFoundError(path)
        write_json(path, value)

    monkeypatch.setattr(shards_module, "write_json", as_another_makes_room)
    found = whole.split("valid")
    assert removed and np.array_equal(found, source.split("valid"))


def test_a_shard_that_another_builder_has_locked_is_waited_for_last(source: TrunkSource, tmp_path: Path) -> None:
    whole = replace(source, cache_dir=tmp_path, shard_tiles=16)
    num_shards = -(-len(source.store.rows("train")) // 16)
    with locked(whole.folder / "train-flip0-0000"):
        builder = threading.Thread(target=whole.build, args=("train", 0, (NONE,)))
        builder.start()
        deadline = time.monotonic() + 60
        others = [whole.folder / NONE / f"train-flip0-{number:04d}.json" for number in range(1, num_shards)]
        while not all(path.exists() for path in others) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert others and all(path.exists() for path in others)
        assert builder.is_alive() and whole.open("train", 0, NONE) is None
    builder.join(60)
    assert whole.open("train", 0, NONE) is not None


def test_the_least_recently_used_cut_is_evicted_and_its_open_files_stay_readable(
    source: TrunkSource, tmp_path: Path
) -> None:
    whole = replace(source, cache_dir=tmp_path)
    build_all(whole, ("block14", "block16"), limit_gb=1)
    reading = whole.open("valid", 0, "block16")
    assert reading is not None
    for cut, used_at in (("block14", 2_000), ("block16", 1_000)):
        assert whole.open("valid", 0, cut) is not None
        os.utime(whole.folder / cut / "used", (used_at, used_at))
    sum_before = float(reading[0].astype(np.float32).sum())
    size_gb = sum(path.stat().st_size for path in (whole.folder / "block14").glob("*.npy")) / 1e9
    make_room(tmp_path, needed_gb=0.001, limit_gb=0.001 + 1.5 * size_gb, keep=set())
    assert is_cached(whole, "block14") and not is_cached(whole, "block16")
    assert float(reading[0].astype(np.float32).sum()) == sum_before, "open files stay readable"
    make_room(tmp_path, needed_gb=0.001, limit_gb=0.001, keep={whole.folder / "block14"})
    assert is_cached(whole, "block14")


def test_a_cut_is_cached_only_if_it_pays_and_fits(source: TrunkSource) -> None:
    kept: dict[str, tuple[str, ...]] = {}

    def why(num_trainings: float = 1, **changes: Any) -> str | None:
        values = {"model.backbone": "mobilenetv2", "augmentation.num_flips": 8, "train.finetune_epochs": 4} | changes
        configuration = Configuration().with_values(values, source="test")
        return why_not_cached(
            "mobilenetv2",
            "block14",
            source.store,
            configuration,
            source.cache_dir,
            num_trainings=num_trainings,
            kept=kept,
        )

    assert why() == "not worth it: 8 views for 4 epochs"
    heads = Configuration().with_values({"augmentation.num_flips": 8, "train.head_epochs": 8}, source="test")
    reason = why_not_cached("mobilenetv2", NONE, source.store, heads, source.cache_dir)
    assert reason is None, "pooled features are read in the epochs of the head"
    assert why(2) is None
    assert why(2, cache="off") == "off (cache: off)"
    assert str(why(2, cache_gb=1e-9)).startswith("does not fit")
    alone_gb = entry_gb("mobilenetv2", "block14", source.store, 8)
    kept["mobilenetv2"] = (NONE, "block14")
    assert str(why(2, cache_gb=alone_gb)).endswith("GB of it reserved for other cuts")
    kept["mobilenetv2"] = ("block14",)
    assert why(2, cache_gb=alone_gb) is None


def test_a_cut_is_evicted_if_the_disk_is_nearly_full(
    source: TrunkSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(source, cache_dir=tmp_path)
    build_all(whole, ("block14", "block16"), limit_gb=1)
    sizes = {}
    for cut, used_at in (("block14", 2_000), ("block16", 1_000)):
        assert is_cached(whole, cut)
        os.utime(whole.folder / cut / "used", (used_at, used_at))
        sizes[cut] = sum(path.stat().st_size for path in (whole.folder / cut).glob("*.npy"))

    class Disk:
        free = 1e9 - sizes["block16"] / 2  # 1 GB must stay free for other files

    monkeypatch.setattr(cache_room.shutil, "disk_usage", lambda _: Disk)
    assert room_on_disk_gb(tmp_path) == pytest.approx((sizes["block14"] + sizes["block16"] / 2) / 1e9)
    make_room(tmp_path, needed_gb=0.0, limit_gb=20.0, keep=set())
    assert is_cached(whole, "block14") and not is_cached(whole, "block16")


def test_entries_that_another_process_removes_meanwhile_cause_no_error(
    source: TrunkSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(source, cache_dir=tmp_path)
    build_all(whole, ("block14", NONE), limit_gb=1)
    before_gb, listed = room_on_disk_gb(tmp_path), cache_room._listed

    def removed_after_it_was_listed(folder: Any) -> Any:
        found = listed(folder)
        if Path(folder) == whole.folder:
            shutil.rmtree(whole.folder / "block14", ignore_errors=True)
        return found

    monkeypatch.setattr(cache_room, "_listed", removed_after_it_was_listed)
    assert room_on_disk_gb(tmp_path) == pytest.approx(before_gb, abs=0.5)
    make_room(tmp_path, needed_gb=1.0, limit_gb=1.0, keep=set())
    assert not is_cached(whole, NONE)
    assert whole.build_seconds() == 0


@pytest.mark.slow
def test_of_two_processes_that_start_together_one_builds_and_the_other_reads(
    source: TrunkSource, tmp_path: Path
) -> None:
    weights = source.weights
    command = [sys.executable, "-c", BUILD, source.store.folder, weights.file, weights.digest, tmp_path]
    started = [
        subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    reported = []
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        reported.append(process.communicate(timeout=300)[0].split())
        assert process.returncode == 0
    assert sorted(what for what, _ in reported) == ["built", "shared"]
    expected = float(source.split("train", 3).astype(np.float64).sum())
    assert [float(total) for _, total in reported] == [pytest.approx(expected, abs=1e-6)] * 2
