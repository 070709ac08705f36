"""Folder walks: the order of files, and which folders are entered."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from netkit.core.walk import Entry, is_skipped, list_folder, walk


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b/2", "b/1", "b/sub/3", "a", "c", ".hidden/4", "b/.5"):
        path = tmp_path / "top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_files_and_subfolders_come_in_one_sorted_order() -> None:
    assert list(walk([("top", True)])) == [
        "top/.hidden/4", "top/a", "top/b/.5", "top/b/1", "top/b/2", "top/b/sub/3", "top/c",
    ]  # fmt: skip


def test_the_empty_path_is_the_current_folder() -> None:
    assert list(list_folder("")) == [("top", True)]
    assert list(list_folder(".")) == [("./top", True)]


@pytest.mark.parametrize("name", [".git", "._a.png", "__MACOSX", "@eaDir", "@EADIR", "lost+found", "$Recycle.Bin"])
def test_hidden_names_and_folders_of_the_system_are_skipped(name: str) -> None:
    assert is_skipped(name) and not is_skipped(f"a{name}")


def test_a_symbolic_link_to_a_folder_is_followed_unless_it_leads_back() -> None:
    os.makedirs("elsewhere/deep")
    Path("elsewhere/deep/6").touch()
    for name, target in (("b/link", "../../elsewhere"), ("b/up", "../b"), ("b/above", "../.."), ("self", "self")):
        os.symlink(target, f"top/{name}")
    os.symlink("../top/b", "elsewhere/b")
    assert list(walk([("top/b", True)])) == [
        "top/b/.5", "top/b/1", "top/b/2", "top/b/link/deep/6", "top/b/sub/3",
    ]  # fmt: skip
    assert ("top/self", False) in list_folder("top")


def test_folders_come_before_their_content_on_request() -> None:
    assert list(walk([("top/b", True)], with_folders=True))[:2] == ["top/b", "top/b/.5"]
    assert "top/b/sub" in walk([("top/b", True)], with_folders=True)


def test_a_folder_that_cannot_be_listed_is_yielded_in_place_of_its_files() -> None:
    def deny_b(folder: str) -> Iterator[Entry]:
        if folder == "top/b":
            raise PermissionError
        return list_folder(folder)

    assert list(walk([("top", True)], deny_b)) == ["top/.hidden/4", "top/a", "top/b", "top/c"]
    assert list(walk([("nowhere", True)])) == ["nowhere"]


def test_a_folder_is_listed_only_when_the_walk_reaches_it() -> None:
    listed: list[str] = []

    def record(folder: str) -> Iterator[Entry]:
        listed.append(folder)
        return list_folder(folder)

    files = walk([("top", True)], record)
    assert listed == []
    assert list(islice(files, 2)) == ["top/.hidden/4", "top/a"]
    assert listed == ["top", "top/.hidden"]
