"""Which files in a folder count as images."""

import os
from pathlib import Path

from netkit.images.files import find_images, is_image_name


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
    assert paths == [".git/x.png", ".hidden.png", "folder.png", "link.png", "sub/y.jpg", "z.png"]
    visible = [os.path.relpath(path, tmp_path) for path in find_images(str(tmp_path), skip_hidden=True)]
    assert visible == ["folder.png", "link.png", "sub/y.jpg", "z.png"]
