from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from satx.errors import DataError
from satx.tiles.check import check_tiles, in_parallel
from satx.tiles.layout import has_layout, read_layout, read_split_folders
from satx.tiles.report import CheckReport
from satx.tiles.store import build_store

from .folders import image_bytes, noise_image, png_bytes, write_tiles


def kinds(report: CheckReport) -> list[tuple[str, str, str]]:
    return [(problem.severity, problem.kind, problem.relative) for problem in report.problems]


def test_a_valid_folder_has_no_problems(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check_tiles(read_layout(write_tiles(tmp_path)), on_progress=lambda *call: calls.append(call))
    assert report.problems == ()
    assert report.num_tiles == 18
    assert report.counts == {(s, c): 3 for s in ("train", "valid", "test") for c in ("not-school", "school")}
    assert calls == [(16, 18), (18, 18)]
    assert (report.formats, report.sizes_px, report.unused) == ({"PNG": 18}, {"48x48": 18}, {})
    report.raise_if_unusable()


def test_broken_and_refused_tiles_are_listed_and_left_out_of_the_counts(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=10)
    (tmp_path / "train/school/3.png").write_bytes(b"")
    (tmp_path / "valid/school/4.png").write_bytes(png_bytes(bits=16, color=0, num_bands=1))
    (tmp_path / "test/school/5.png").write_bytes(image_bytes(noise_image(9, size_px=48, mode="L")))
    (tmp_path / "test/school/6.png").write_bytes(image_bytes(noise_image(10, size_px=48, mode="L")))
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [
        ("error", "broken", "train/school/3.png"),
        ("error", "refused", "valid/school/4.png"),
        ("note", "converted", "test/school/5.png"),
    ]
    assert report.problems[2].detail == "2 tiles converted to RGB from grey"
    assert report.broken == ("train/school/3.png", "valid/school/4.png")
    assert report.counts["train", "school"] == report.counts["valid", "school"] == 9
    report.raise_if_unusable()


def test_a_file_that_cannot_be_read_is_broken(tmp_path: Path) -> None:
    folder = read_layout(write_tiles(tmp_path, num_each=5))
    folder.files[0].path.unlink()
    report = check_tiles(folder)
    assert kinds(report) == [("error", "broken", "train/not-school/0.png")]
    assert "No such file" in report.problems[0].detail


def test_more_than_5_percent_broken_tiles_are_refused_and_5_percent_are_not(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=10)  # 60 tiles
    for number in range(3):
        (tmp_path / f"train/school/{number}.png").write_bytes(b"not an image")
    check_tiles(read_layout(tmp_path)).raise_if_unusable()
    (tmp_path / "train/school/3.png").write_bytes(b"neither")
    with pytest.raises(DataError) as error:
        check_tiles(read_layout(tmp_path)).raise_if_unusable()
    values = ("4 of 60", "train/school/0.png", f"`satx data check {tmp_path}`")
    assert [value for value in values if value not in str(error.value)] == []


def test_no_command_is_named_that_cannot_read_split_folders_of_other_names(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=10)
    train, valid = ((tmp_path / name).rename(tmp_path / f"my {name}") for name in ("train", "valid"))
    for number in range(4):
        (train / f"school/{number}.png").write_bytes(b"not an image")
    report = check_tiles(read_split_folders(train, valid))
    assert report.check_command is None
    with pytest.raises(DataError, match="4 of 40") as error:
        report.raise_if_unusable()
    assert "satx data check" not in str(error.value)
    with pytest.raises(DataError):
        read_layout(report.root)


@pytest.mark.parametrize(
    ("names", "readable"),
    [
        (("train/", "valid/"), True),
        (("Training/", "val/", "other/"), True),
        (("tiles.csv",), True),
        (("train/",), False),
        (("a train/", "a valid/"), False),
        (("train", "valid"), False),
        ((), False),
    ],
)
def test_a_folder_can_be_read_with_both_required_splits_or_a_tiles_csv(
    names: tuple[str, ...], readable: bool, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    assert has_layout(tmp_path) is readable
    assert not has_layout(tmp_path / "nowhere")


@pytest.mark.parametrize(("earlier", "later"), [("train", "valid"), ("train", "test"), ("valid", "test")])
def test_an_image_in_two_splits_stays_in_the_later_one(tmp_path: Path, earlier: str, later: str) -> None:
    write_tiles(tmp_path)
    data = (tmp_path / earlier / "school/1.png").read_bytes()
    (tmp_path / later / "school/copy.png").write_bytes(data)
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [("error", "leak", f"{earlier}/school/1.png")]
    assert f"{later}/school/copy.png" in report.problems[0].detail
    assert report.counts[earlier, "school"] == 2
    assert report.counts[later, "school"] == 4
    report.raise_if_unusable()


def test_copies_inside_a_split_are_noted_and_kept(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "train/school/copy.png").write_bytes((tmp_path / "train/school/1.png").read_bytes())
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [("note", "duplicate", "train/school/1.png")]
    assert report.counts["train", "school"] == 4


def test_an_image_under_two_labels_is_left_out_altogether(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    data = (tmp_path / "train/school/1.png").read_bytes()
    (tmp_path / "train/not-school/copy.png").write_bytes(data)
    (tmp_path / "test/school/copy.png").write_bytes(data)
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [("error", "conflict", "train/not-school/copy.png")]
    assert "not-school and school" in report.problems[0].detail
    assert report.counts["train", "school"] == 2
    assert report.counts["train", "not-school"] == report.counts["test", "school"] == 3


def test_a_class_without_tiles_after_leaks_are_removed_is_refused(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=1)
    (tmp_path / "test/school/copy.png").write_bytes((tmp_path / "train/school/0.png").read_bytes())
    report = check_tiles(read_layout(tmp_path))
    assert ("error", "empty-class", "train/school") in kinds(report)
    (tmp_path / "train/school/notes.txt").write_text("notes")
    with pytest.raises(DataError, match=r"train .* school.* 1 leak, 1 not an image"):
        check_tiles(read_layout(tmp_path)).raise_if_unusable()


def test_a_picture_saved_in_another_format_is_the_same_picture(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    leak, conflict, copy = (noise_image(seed, size_px=48) for seed in (100, 101, 102))
    (tmp_path / "test/school/leak.jpg").write_bytes(image_bytes(leak, "JPEG"))
    decoded = Image.open(tmp_path / "test/school/leak.jpg")
    (tmp_path / "train/school/other-name.png").write_bytes(image_bytes(decoded, "PNG"))
    (tmp_path / "train/school/a.bmp").write_bytes(image_bytes(conflict, "BMP"))
    (tmp_path / "train/not-school/b.webp").write_bytes(image_bytes(conflict, "WEBP", lossless=True))
    (tmp_path / "valid/school/c.tif").write_bytes(image_bytes(copy, "TIFF"))
    (tmp_path / "valid/school/d.png").write_bytes(image_bytes(copy.convert("RGBA")))
    report = check_tiles(read_layout(tmp_path))
    assert [found for found in kinds(report) if found[0] == "error"] == [
        ("error", "conflict", "train/not-school/b.webp"),
        ("error", "leak", "train/school/other-name.png"),
    ]
    assert ("note", "duplicate", "valid/school/c.tif") in kinds(report)
    assert (report.counts["train", "school"], report.counts["test", "school"]) == (3, 4)


def test_images_are_read_by_content_whatever_their_names(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    for number, (name, kind) in enumerate(
        [("a", "PNG"), ("b.jfif", "JPEG"), ("c.gif", "GIF"), ("d.bmp", "BMP"), ("e.txt", "WEBP"), ("f.jpg", "TIFF")]
    ):
        mode = "P" if kind == "GIF" else "RGB"
        (tmp_path / "train/school" / name).write_bytes(
            image_bytes(noise_image(100 + number, size_px=48, mode=mode), kind)
        )
    report = check_tiles(read_layout(tmp_path))
    assert (report.counts["train", "school"], report.num_tiles, report.unused) == (9, 24, {})
    assert report.formats == {"PNG": 19, "GIF": 1, "BMP": 1, "JPEG": 1, "WebP": 1, "TIFF": 1}
    assert report.not_served == {"WebP": 1, "TIFF": 1}
    assert {found for found in kinds(report) if found[1] == "not-served"} == {
        ("note", "not-served", "train/school/e.txt"),
        ("note", "not-served", "train/school/f.jpg"),
    }
    report.raise_if_unusable()


def test_every_file_that_is_not_read_is_counted_with_its_reason(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=20)
    png = (tmp_path / "train/school/0.png").read_bytes()
    for relative, data in {
        "train/school/1.png": b"<html>not found</html>",
        "train/school/2.jp2": b"\xff\x4f\xff\x51" + bytes(40),
        "train/school/notes.txt": b"notes",
        "train/school/1.png.aux.xml": b"<xml/>",
        "train/school/.DS_Store": b"x",
        "train/loose.png": png,
        "unlabelled/a": png,
        ".cache/b.png": png,
        "README": b"text",
    }.items():
        (tmp_path / relative).parent.mkdir(exist_ok=True)
        (tmp_path / relative).write_bytes(data)
    (tmp_path / "train/school/deeper").symlink_to(tmp_path / "train/school")
    report = check_tiles(read_layout(tmp_path))
    assert report.unused == {
        "a link to a folder that is read already": ("train/school/deeper",),
        "broken": ("train/school/1.png",),
        "hidden": (".cache", "train/school/.DS_Store"),
        "in no class folder of a split": ("train/loose.png", "unlabelled/a"),
        "not an image": ("README", "train/school/1.png.aux.xml", "train/school/notes.txt"),
        "refused": ("train/school/2.jp2",),
    }
    assert (report.num_tiles, sum(report.counts.values())) == (121, 119)
    not_read = {problem.detail: problem.severity for problem in report.problems if problem.kind == "not-read"}
    assert not_read["2 files or folders are not read: in no class folder of a split"] == "warning"
    assert not_read["3 files or folders are not read: not an image"] == "note"
    report.raise_if_unusable()


def test_files_that_a_csv_does_not_list_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiles(tmp_path)
    files = [file.relative for file in read_layout(tmp_path).files]
    lines = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in files if name != "train/school/1.png"]
    (tmp_path / "tiles.csv").write_text("\n".join(["path,label,split", *lines]))
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path, Path()):
        report = check_tiles(read_layout(root))
        assert report.unused == {"not listed in tiles.csv": ("train/school/1.png",)}


def test_a_listed_file_that_is_no_image_is_broken(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "page").write_text("<html>not found</html>")
    lines = [f"{file.relative},{file.label},{file.split}" for file in read_layout(tmp_path).files]
    table = ["path,label,split", *lines, "page,school,train", "train/school,school,train"]
    (tmp_path / "tiles.csv").write_text("\n".join(table))
    report = check_tiles(read_layout(tmp_path))
    assert report.unused == {"broken": ("page", "train/school")}
    with pytest.raises(DataError, match="2 of 20"):
        report.raise_if_unusable()


def test_a_tile_in_a_hidden_folder_that_a_csv_lists_is_used_and_its_neighbour_counted(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "train/school").rename(tmp_path / ".hidden")
    (tmp_path / ".hidden/other.png").write_bytes(image_bytes(noise_image(200)))
    names = [
        f"{split}/{label}/{n}.png" for split in ("train", "valid") for label in ("school", "not-school") for n in "012"
    ]
    lines = [f"{name.replace('train/school', '.hidden')},{name.split('/')[1]},{name.split('/')[0]}" for name in names]
    (tmp_path / "tiles.csv").write_text("\n".join(["path,label,split", *lines]))
    report = check_tiles(read_layout(tmp_path))
    assert report.counts["train", "school"] == 3
    assert ".hidden/other.png" in report.unused["not listed in tiles.csv"]
    assert "hidden" not in report.unused


def test_an_unreadable_folder_beside_the_tiles_is_named_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiles(tmp_path)
    (tmp_path / "lost+found").mkdir()
    real, may = os.scandir, os.access
    denied = str(tmp_path / "lost+found")

    def scandir(path: Any) -> Any:
        if str(path) == denied:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != denied and may(path, mode))
    assert check_tiles(read_layout(tmp_path)).unused == {"a folder that cannot be listed": ("lost+found",)}


def test_two_split_folders_name_their_files_as_their_tiles(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "train/loose.png").write_bytes(image_bytes(noise_image(200)))
    (tmp_path / "link").symlink_to(tmp_path / "train")
    report = check_tiles(read_split_folders(tmp_path / "link", tmp_path / "valid"))
    assert report.unused == {"in no class folder of a split": ("train/loose.png",)}


def test_pipes_and_files_too_large_are_named_and_not_read(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path / "tiles", num_each=20)
    for name in ("pipe", "pipe.png"):
        os.mkfifo(tiles / "train/school" / name)
    (tiles / "train/school/large.png").touch()
    os.truncate(tiles / "train/school/large.png", 3 * 10**9)  # sparse: it occupies no disk space
    folder = read_layout(tiles)
    store = build_store(folder, image_size_px=32, cache_dir=tmp_path / "cache")
    for report in (check_tiles(folder), store.report):
        assert report.unused == {
            "broken": ("train/school/pipe.png",),
            "not an image": ("train/school/pipe",),
            "refused": ("train/school/large.png",),
        }


def test_tiles_of_one_color_placeholders_and_small_ones_are_warned_of(tmp_path: Path) -> None:
    write_tiles(tmp_path, size_px=100)
    (tmp_path / "train/school/water.jpg").write_bytes(image_bytes(Image.new("RGB", (100, 100), (20, 60, 90)), "JPEG"))
    for number in range(5):
        (tmp_path / f"valid/school/none{number}.png").write_bytes(image_bytes(noise_image(99, size_px=100)))
    for number in range(4):
        (tmp_path / f"valid/school/twin{number}.png").write_bytes(image_bytes(noise_image(96, size_px=100)))
    for value, name in ((2, "plain"), (3, "rough")):
        plain = np.full((100, 100, 3), 80, np.uint8)
        plain[10, 10] += value
        (tmp_path / f"train/not-school/{name}.png").write_bytes(image_bytes(Image.fromarray(plain)))
    (tmp_path / "valid/not-school/just.png").write_bytes(image_bytes(noise_image(95, size_px=32)))
    (tmp_path / "test/school/dot.png").write_bytes(image_bytes(noise_image(98, size_px=1)))
    (tmp_path / "test/school/wide.png").write_bytes(image_bytes(noise_image(97, size_px=90).resize((90, 60))))
    report = check_tiles(read_layout(tmp_path), image_size_px=160)
    assert kinds(report) == [
        ("warning", "enlarged", "valid/not-school/just.png"),
        ("warning", "one-color", "train/not-school/plain.png"),
        ("warning", "placeholder", "valid/school/none0.png"),
        ("warning", "tiny", "test/school/dot.png"),
        ("note", "duplicate", "valid/school/twin0.png"),
        ("note", "not-square", "test/school/wide.png"),
    ]
    details = {problem.kind: problem.detail for problem in report.problems}
    assert details["one-color"].startswith("3 tiles") and details["tiny"].startswith("1 tile")
    assert report.sizes_px == {"100x100": 30, "32x32": 1, "1x1": 1, "90x60": 1}
    assert sum(report.counts.values()) == 33, "they are kept"
    assert "enlarged" not in {problem.kind for problem in check_tiles(read_layout(tmp_path)).problems}


def test_memory_that_does_not_suffice_is_an_error_and_never_leaves_a_tile_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(data: bytes, relative: str) -> None:
        raise MemoryError

    monkeypatch.setattr("satx.tiles.check.decode_tile", fail)
    with pytest.raises(DataError, match=r"0\.png: memory does not suffice"):
        check_tiles(read_layout(write_tiles(tmp_path)))


def test_imbalance_beyond_1_to_4_is_a_warning(tmp_path: Path) -> None:
    write_tiles(tmp_path, num_each=2)
    for number in range(6):
        (tmp_path / f"train/school/more{number}.png").write_bytes(image_bytes(noise_image(100 + number, size_px=48)))
    assert check_tiles(read_layout(tmp_path)).problems == ()
    (tmp_path / "train/school/last.png").write_bytes(image_bytes(noise_image(200, size_px=48)))
    report = check_tiles(read_layout(tmp_path))
    assert kinds(report) == [("warning", "imbalance", "train")]
    assert "1:4.5 (not-school 2, school 9)" in report.problems[0].detail


def test_parallel_results_are_in_order_and_only_a_few_are_computed_ahead() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * item

    results = in_parallel(work, range(5000))
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 4)]
    assert len(started) < 8 * (len(os.sched_getaffinity(0)) + 1) + 8
    results.close()
    assert list(in_parallel(work, range(100))) == [(item, item * item) for item in range(100)]
