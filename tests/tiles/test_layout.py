from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from satx.errors import DataError
from satx.tiles.layout import SAMPLE_MARKER, read_layout, read_split_folders

from .folders import write_tiles


def put(root: Path, *relatives: str) -> Path:
    for relative in relatives:
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"never opened by the layout")
    return root


FOUR = ("train/school/a.jpg", "train/not-school/b.jpg", "valid/school/c.jpg", "valid/not-school/d.jpg")


def write_csv(root: Path, *lines: str, header: str = "path,label,split,slice") -> None:
    (root / "tiles.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def test_files_are_sorted_by_split_label_and_name(tmp_path: Path) -> None:
    folder = read_layout(write_tiles(tmp_path, num_each=2))
    assert [file.relative for file in folder.files[:5]] == [
        "train/not-school/0.png",
        "train/not-school/1.png",
        "train/school/0.png",
        "train/school/1.png",
        "valid/not-school/0.png",
    ]
    assert folder.classes == ("not-school", "school")
    assert [file.split for file in folder.files] == ["train"] * 4 + ["valid"] * 4 + ["test"] * 4
    assert not folder.sample


def test_other_spellings_of_splits_classes_and_extensions_are_accepted(tmp_path: Path) -> None:
    put(tmp_path, "Training/School/a.JPG", "Training/not_school/b.Tiff", "validation/school/c.webp")
    put(tmp_path, "validation/Not School/d.png", "testing/SCHOOL/e.jpeg", "testing/Not-School/f.tif")
    folder = read_layout(tmp_path)
    assert folder.classes == ("not-school", "school")
    assert [(file.split, file.label) for file in folder.files] == [
        (split, label) for split in ("train", "valid", "test") for label in ("not-school", "school")
    ]


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, *FOUR, "train/school/.DS_Store", "train/school/._a.jpg", "__MACOSX/x.jpg")
    put(tmp_path, "train/.cache/e.jpg", "train/school/rural/f.jpg")
    assert [file.relative for file in read_layout(tmp_path).files if file.label == "school"] == [
        "train/school/a.jpg",
        "train/school/rural/f.jpg",
        "valid/school/c.jpg",
    ]


def test_the_marker_of_rendered_tiles_is_kept(tmp_path: Path) -> None:
    put(tmp_path, *FOUR)
    (tmp_path / SAMPLE_MARKER).write_text('{"seed": 7}')
    for folder in (read_layout(tmp_path), read_split_folders(tmp_path / "train", tmp_path / "valid")):
        assert folder.sample
        assert folder.marker == '{"seed": 7}'


def test_two_split_folders_of_any_name_are_read_as_one_tile_folder(tmp_path: Path) -> None:
    put(
        tmp_path, "here/mine/school/a.jpg", "here/mine/not_school/b.jpg", "there/school/a.jpg", "there/not-school/b.jpg"
    )
    folder = read_split_folders(tmp_path / "here/mine", tmp_path / "there")
    assert [file.relative for file in folder.files] == [
        "train/not_school/b.jpg",
        "train/school/a.jpg",
        "valid/not-school/b.jpg",
        "valid/school/a.jpg",
    ]
    assert all(file.path.is_file() for file in folder.files)


def test_one_folder_for_train_and_valid_is_refused(tmp_path: Path) -> None:
    put(tmp_path, *FOUR)
    with pytest.raises(DataError) as error:
        read_split_folders(tmp_path / "train", tmp_path / "valid" / ".." / "train")
    assert str(tmp_path / "train") in str(error.value)


def test_a_csv_takes_precedence_over_the_folders(tmp_path: Path) -> None:
    put(tmp_path, *FOUR, "loose/1.png")
    write_csv(
        tmp_path,
        "train/school/a.jpg,School,training,rural,Ödland",
        '"./train/not-school/b.jpg", not_school ,train,,x',
        "valid/school/c.jpg,school,val,urban,x",
        "loose/1.png,not-school,VALID,,x",
        header="path,label,split,slice,source_class",
    )
    assert [(file.relative, file.label, file.split, file.slice) for file in read_layout(tmp_path).files] == [
        ("train/not-school/b.jpg", "not-school", "train", ""),
        ("train/school/a.jpg", "school", "train", "rural"),
        ("loose/1.png", "not-school", "valid", ""),
        ("valid/school/c.jpg", "school", "valid", "urban"),
    ]


def test_a_csv_needs_no_slice_column_and_keeps_words_like_na(tmp_path: Path) -> None:
    put(tmp_path, *FOUR)
    lines = [f"{relative},{'NA' if 'not' in relative else 'school'},{relative.split('/')[0]}" for relative in FOUR]
    write_csv(tmp_path, *lines, header="path,label,split")
    folder = read_layout(tmp_path)
    assert folder.classes == ("na", "school")
    assert {file.slice for file in folder.files} == {""}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("../secret.jpg,school,train,", ["line 6", "'../secret.jpg'"]),
        ("/etc/secret.jpg,school,train,", ["line 6", "'/etc/secret.jpg'"]),
        (",school,train,", ["line 6", "''"]),
        ("C:\\tiles\\a.jpg,school,train,", ["line 6", "Windows path"]),
        ("train/../../a.jpg,school,train,", ["line 6", "'train/../../a.jpg'"]),
        ("train/school/z.jpg,school", ["line 6", "no split"]),
        ("train/school/z.jpg,school,train,rural,left over", ["line 6", "4 cells, got 5"]),
        ("a\0.jpg,school,train,", ["UTF-8"]),
        (f"{'z' * 300}.jpg,school,train,", ["5 files", " 1 "]),
        ("train/school/a.jpg,school,train,", ["lines 2 and 6", "train/school/a.jpg"]),
        ("./train//school/a.jpg,school,train,", ["lines 2 and 6", "train/school/a.jpg"]),
        ("train/school/z.jpg,school,tarin,", ["line 6", "'tarin'"]),
        ("train/school/z.jpg,,train,", ["line 6", "label ''"]),
        ("train/school/z.jpg,school,train,", ["5 files", " 1 ", "train/school/z.jpg"]),
    ],
)
def test_a_wrong_line_of_a_csv_is_refused_with_the_reason(tmp_path: Path, line: str, named: list[str]) -> None:
    put(tmp_path, *FOUR)
    lines = [f"{relative},{relative.split('/')[1]},{relative.split('/')[0]}," for relative in FOUR]
    write_csv(tmp_path, *lines, line)
    with pytest.raises(DataError) as error:
        read_layout(tmp_path)
    assert [value for value in named if value not in str(error.value)] == []


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "tiles.csv"),
        (b"file,label\na.jpg,school\n", "path, split: found file, label"),
        (b"path,label,split\n", "tiles.csv"),
        (b"path,label,split\n\xff\xfe.jpg,school,train\n", "UTF-8"),
        (b'path,label,split\na.jpg,b,"c\n', "tiles.csv"),
    ],
)
def test_a_csv_that_is_not_a_list_of_tiles_is_refused(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "tiles.csv").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_layout(tmp_path)
    assert named in str(error.value)


def test_a_missing_folder_a_file_and_an_empty_folder_have_different_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path, "file.jpg")
    messages = set()
    for name in ("none", "file.jpg", "empty"):
        with pytest.raises(DataError) as error:
            read_layout(tmp_path / name)
        assert "train/<class>/*.jpg" in str(error.value)
        assert error.value.exit_code == 2
        messages.add(str(error.value).replace(str(tmp_path / name), ""))
    assert len(messages) == 3


def test_the_error_for_a_folder_of_text_files_lists_its_content(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "b.txt", "c.md")
    with pytest.raises(DataError, match=r"train/.* valid/.* 2 \.txt files, 1 \.md file"):
        read_layout(tmp_path)


def test_the_error_for_class_folders_of_text_files_lists_their_content(tmp_path: Path) -> None:
    put(tmp_path, *(relative.replace(".jpg", ".txt") for relative in FOUR))
    with pytest.raises(DataError, match=r"train/ .* 2 \.txt files .*; valid/ .* 2 \.txt files "):
        read_layout(tmp_path)


def test_the_error_for_images_without_class_folders_lists_the_content(tmp_path: Path) -> None:
    put(tmp_path, "train/a.jpg", "train/b.jpg", "valid/c.jpg")
    with pytest.raises(DataError) as error:
        read_layout(tmp_path)
    assert "2 .jpg files" in str(error.value)


def test_the_error_for_a_folder_without_splits_names_the_folders_found(tmp_path: Path) -> None:
    put(tmp_path, "school/a.jpg", "not-school/b.jpg")
    with pytest.raises(DataError) as error:
        read_layout(tmp_path)
    assert "not-school/, school/" in str(error.value)


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    put(tmp_path, *FOUR, "val/school/e.jpg")
    with pytest.raises(DataError) as error:
        read_layout(tmp_path)
    assert "val/ and valid/" in str(error.value)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/school/a.jpg", "valid/school/b.jpg")
    with pytest.raises(DataError) as error:
        read_layout(tmp_path)
    assert "'school'" in str(error.value)


@pytest.mark.parametrize(
    ("extra", "split", "label"),
    [
        ("train/clinic/e.jpg", "valid", "clinic"),
        ("valid/clinic/e.jpg", "train", "clinic"),
        ("test/school/e.jpg", "test", "not-school"),
    ],
)
def test_a_class_that_is_missing_in_a_split_is_refused_and_named(
    tmp_path: Path, extra: str, split: str, label: str
) -> None:
    put(tmp_path, *FOUR, extra)
    with pytest.raises(DataError, match=f"{split} split .* {label},"):
        read_layout(tmp_path)


def test_an_empty_class_folder_is_refused_and_named(tmp_path: Path) -> None:
    put(tmp_path, *FOUR, "train/clinic/notes.txt")
    with pytest.raises(DataError) as error:
        read_layout(tmp_path)
    assert str(tmp_path / "train/clinic") in str(error.value) and "1 .txt file" in str(error.value)


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
def test_a_link_upwards_is_not_entered(tmp_path: Path, target: str) -> None:
    put(tmp_path / "data", *FOUR)
    (tmp_path / "data/train/school/up").symlink_to(target)
    folder = read_layout(tmp_path / "data")
    if target != "../../..":  # leads out of the folder, and back into it
        assert [file.relative for file in folder.files] == sorted(FOUR)
    assert len(folder.files) == 4


def test_folders_that_link_to_each_other_are_entered_once(tmp_path: Path) -> None:
    put(tmp_path, *FOUR)
    for one in range(12):
        put(tmp_path, f"train/school/f{one}/tile.jpg")
        for other in range(12):
            if one != other:
                (tmp_path / f"train/school/f{one}/to{other}").symlink_to(f"../f{other}")
    assert len(read_layout(tmp_path).files) == 4 + 12


def test_links_that_lead_nowhere_and_deep_folders_do_not_stop_the_reading(tmp_path: Path) -> None:
    put(tmp_path, *FOUR)
    (tmp_path / "train/school/loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "train/school/gone.jpg").symlink_to("nowhere")
    (tmp_path / "train/school/through.jpg").symlink_to("a.jpg/x")
    (tmp_path / "train/loop").symlink_to("loop")
    put(tmp_path, f"train/school/{'a/' * 300}deep.jpg")
    assert len(read_layout(tmp_path).files) == 4 + 3 + 1


def test_a_table_that_is_a_link_to_nowhere_or_a_pipe_is_refused(tmp_path: Path) -> None:
    put(tmp_path, *FOUR)
    (tmp_path / "tiles.csv").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"tiles\.csv: expected a file"):
        read_layout(tmp_path)


def test_a_folder_name_that_is_too_long_is_told_like_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        read_layout(tmp_path / ("a" * 300))


def test_symbolic_links_to_class_folders_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "data", *FOUR)
    shutil.move(tmp_path / "data/train/school", tmp_path / "elsewhere")
    (tmp_path / "data/train/school").symlink_to(tmp_path / "elsewhere")
    assert len(read_layout(tmp_path / "data").files) == 4


def test_the_real_session_is_read(real_tiles: Path) -> None:
    folder = read_layout(real_tiles)
    assert len(folder.files) == 732
    assert {file.slice for file in folder.files} >= {"built-up", "open-land"}
