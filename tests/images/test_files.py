"""Which files in a folder count as images."""

import os
from pathlib import Path

import pytest

from netkit.images.files import Skipped, find_images, is_image_name


def test_image_names_are_recognized_by_their_suffix_in_any_case() -> None:
    assert is_image_name("a.png") and is_image_name("b/c.JPeG") and is_image_name(".webp")
    assert not is_image_name("png") and not is_image_name("a.png/b") and not is_image_name("a.png.txt")


def test_everything_named_like_an_image_is_found_in_sorted_order(tmp_path: Path) -> None:
    for name in ("z.png", "sub/y.jpg", "sub/notes.txt", ".hidden.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png/inside.png").touch()
    os.symlink("nowhere", tmp_path / "link.png")
    paths = [os.path.relpath(path, tmp_path) for path in find_images(str(tmp_path))]
    assert paths == ["folder.png", "link.png", "sub/y.jpg", "z.png"]


def test_what_is_skipped_is_counted_by_reason(tmp_path: Path) -> None:
    for name in (
        *("a/1.HEIC", "a/2.heic", "b/3.heic", "a/4.CR2", "a/5.png", "._5.png", ".DS_Store", "notes.txt", "b/6"),
        *(".ipynb_checkpoints/6.png", "a/@EADIR/5.png/THUMB.jpg", "b/@eaDir/7.jpg", "__MACOSX/a/._5.png"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    skipped = Skipped()
    assert not skipped
    assert list(find_images(str(tmp_path), skipped)) == [str(tmp_path / "a/5.png")]
    reasons = {
        *("3 .heic files (format not supported)", "1 .cr2 file (format not supported)", "1 hidden image file"),
        *("1 .txt file (format not supported)", "1 file without a usual suffix"),
        *("1 hidden folder", "2 folders @eaDir", "1 folder __MACOSX"),
    }
    assert {*str(skipped).removeprefix("skipped ").split(", ")} == reasons


def test_ten_kinds_of_skipped_files_are_listed_and_the_rest_is_counted(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"a.x{number}").touch()
    assert not list(find_images(str(tmp_path), skipped := Skipped()))
    assert str(skipped).count("(format not supported)") == 10 and str(skipped).endswith(", 2 of other kinds")


@pytest.mark.parametrize("name", [".hidden", "@eaDir"])
def test_a_folder_that_the_user_names_is_searched_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "1.jfif").touch()
    assert list(find_images(str(tmp_path / name))) == [str(tmp_path / name / "1.jfif")]
