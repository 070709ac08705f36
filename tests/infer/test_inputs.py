"""Arguments are expanded to input paths, in order and without duplicates; wrong arguments are rejected."""

import os
import tracemalloc
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from netkit.core.errors import ImageError, UsageError
from netkit.core.model_card import ModelCard
from netkit.images.decoder import Decoder
from netkit.infer.pipeline.inputs import find_inputs


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()
    return path


def test_a_folder_yields_files_with_an_image_suffix_also_in_linked_subfolders(card: ModelCard) -> None:
    not_utf8 = os.fsdecode(b"\xff\xfe.png")
    for name in ("a/z.png", "a-b/y.tiff", "B/x.WebP", "b.PNG", "c.jpeg", "d.txt", "png", "g.png/in.png", not_utf8):
        touch(f"in/{name}")
    touch("o/o.png")
    os.mkfifo("in/pipe.png")
    for name, target in (("e.png", "b.PNG"), ("f.png", "nowhere"), ("linked", "../o"), ("loop", ".")):
        os.symlink(target, f"in/{name}")
    names = ["B/x.WebP", "a/z.png", "a-b/y.tiff", "b.PNG", "c.jpeg", "e.png", "f.png", "g.png"]
    names += ["linked/o.png", "pipe.png", not_utf8]
    assert list(find_inputs(["in"])) == [f"in/{name}" for name in names]
    with pytest.raises(ImageError, match="the file is empty"):  # the file is found and opened
        Decoder(card.input)(f"in/{not_utf8}")
    arguments = ["in/linked", "in/d.txt", "o", "o/o.png", "no.PNG"]
    assert list(find_inputs(arguments)) == ["in/linked/o.png", "in/d.txt", "o/o.png", "o/o.png", "no.PNG"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("in/[ab].png", ["in/[ab].png"]),  # a file has exactly this name
        ("in/?.png", ["in/a.png", "in/b.png"]),
        ("in/s*", ["in/sub/c.png"]),
        ("**/*.png", ["in/[ab].png", "in/a.png", "in/b.png", "in/sub/c.png"]),
        (  # the same as "in"
            "in/**",
            ["in/[ab].png", "in/a.png", "in/b.png", "in/sub/c.png"],
        ),
        # matches the folder in/sub and the file in/sub/c.png
        ("in/**/*", ["in/[ab].png", "in/a.png", "in/b.png", "in/sub/c.png", "in/t.txt"]),
        ("in/*/", ["in/sub/c.png"]),
        ("*/*/c.*", ["in/sub/c.png"]),
        ("./in/?.png", ["./in/a.png", "./in/b.png"]),
        ("in/.*", ["in/.git/d.png", "in/.hidden.png"]),
        ("in/@*", ["in/@eaDir/e.png"]),
        ("in/.hidden.png", ["in/.hidden.png"]),
        ("**/**/*.png", "**/**/*.png: a pattern may contain '**' only once"),
        ("nowhere/**", "nowhere/**: matches nothing"),
        ("in/n*", "in/n*: matches nothing, or only folders without images"),
        ("in/notes", "in/notes: no images in this folder (looked for .png, .apng"),
        ("nowhere", "nowhere: no such file or folder"),
        ("in/*.gif", "in/*.gif: matches nothing"),
    ],
)
def test_patterns_yield_each_file_once_in_order_and_are_rejected_if_they_match_nothing(
    argument: str, expected: list[str] | str
) -> None:
    for name in (
        "b.png",
        "a.png",
        "[ab].png",
        "t.txt",
        "sub/c.png",
        "notes/n.txt",
        ".hidden.png",
        ".git/d.png",
        "@eaDir/e.png",
    ):
        touch(f"in/{name}")
    os.symlink("..", "in/sub/up")  # leads back, so it is not followed
    if isinstance(expected, list):
        assert list(find_inputs([argument])) == expected
    else:
        with pytest.raises(UsageError) as caught:
            find_inputs(["in/a.png", argument])
        assert str(caught.value).startswith(expected)


def test_brackets_are_a_pattern_only_if_they_match_and_no_file_has_that_name() -> None:
    assert list(find_inputs(["a[1].png", "photo [copy].JPG"])) == ["a[1].png", "photo [copy].JPG"]
    Path("a1.png").touch()
    assert list(find_inputs(["a[1].png"])) == ["a1.png"]
    Path("a[1].png").touch()
    assert list(find_inputs(["a[1].png"])) == ["a[1].png"]


@pytest.mark.parametrize("argument", ["in", "in/**/*.png", "in/*/*.png", "i*"])
def test_memory_grows_only_with_the_largest_folder(argument: str) -> None:
    peaks = []
    for folders in (range(10), range(10, 100)):
        for folder in folders:
            os.makedirs(f"in/{folder}")
            for name in range(100):
                os.mknod(f"in/{folder}/{name}.png")
        tracemalloc.start()
        assert sum(1 for _ in find_inputs([argument])) == 100 * (folders.stop)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 90 * 500  # bytes: room for the names of 90 folders, but not of their files


def test_folders_nested_deeper_than_the_recursion_limit_are_searched() -> None:
    folders = ["d" + "/d" * depth for depth in range(1200)]
    for folder in folders:
        os.mkdir(folder)
    path = touch(f"{folders[-1]}/x.png")
    try:
        assert list(find_inputs(["d"])) == [path]
    finally:  # pytest removes folders recursively, which would fail
        os.unlink(path)
        for folder in reversed(folders):
            os.rmdir(folder)


def test_a_folder_that_cannot_be_listed_becomes_an_input_with_an_error(card: ModelCard, tmp_path: Path) -> None:
    for _ in range(20):  # longer in total than the longest possible path
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.chdir(tmp_path)
    (path,) = find_inputs(["."])
    with pytest.raises(ImageError, match="cannot be read: File name too long"):
        Decoder(card.input)(path)


def test_a_pattern_finds_images_in_linked_folders() -> None:
    touch("elsewhere/deep/a.png")
    os.mkdir("in")
    os.symlink("../elsewhere", "in/linked")
    assert list(find_inputs(["in/**/*.png"])) == list(find_inputs(["in"])) == ["in/linked/deep/a.png"]


def test_file_urls_are_searched_like_paths() -> None:
    touch("elsewhere/deep/a.png")
    os.mkdir("in")
    os.symlink("../elsewhere", "in/linked")
    os.symlink("..", "in/linked/up")  # leads back, so it is not followed
    root = f"file://{os.getcwd()}/in"
    for argument in (root, f"{root}/", f"{root}/linked", f"{root}/*/deep/*.png", f"{root}/**/*.png"):
        assert list(find_inputs([argument])) == [f"{root}/linked/deep/a.png"]
    assert list(find_inputs([f"{root}/none.png"])) == [f"{root}/none.png"]
    with pytest.raises(UsageError, match="in/none: no such file or folder"):
        find_inputs([f"{root}/none"])


@pytest.mark.parametrize(
    "name", ["a b.png", "a#b.png", "a%20b.png", "100%.png", "q?x.png", "s[1].png", "a+b.png", "ü.png"]
)
def test_file_urls_name_files_with_or_without_percent_escapes(card: ModelCard, name: str) -> None:
    Path("a dir").mkdir()
    Image.new("L", (28, 28), 77).save(path := Path("a dir", name).absolute())
    for url in (path.as_uri(), path.as_uri().replace("///", "//localhost/"), f"file://{path}"):
        assert list(find_inputs([url])) == [url]
        assert set(Decoder(card.input)(url).flat) == {77}
    for folder in (path.parent.as_uri(), f"{path.parent.as_uri()}/*.png", f"{path.parent.as_uri()}/{quote(name[0])}*"):
        assert list(find_inputs([folder])) == [path.as_uri()]
    Path("a dir/list.csv").write_text(f"path\n{path.as_uri()}\n")
    assert list(find_inputs([Path("a dir/list.csv").absolute().as_uri()])) == [path.as_uri()]


def test_escapes_in_file_urls_are_decoded_unless_only_the_name_as_written_exists(card: ModelCard) -> None:
    for name, level in (("a b.png", 1), ("a%20b.png", 2)):
        Image.new("L", (28, 28), level).save(name)
    urls = [f"file://{os.getcwd()}/{name}" for name in ("a b.png", "a%20b.png", "a%2520b.png")]
    assert [Decoder(card.input)(url).max() for url in urls] == [1, 1, 2]
    assert [Decoder(card.input)(url).max() for url in find_inputs([f"file://{os.getcwd()}"])] == [1, 2]
    Path("a b.png").unlink()
    assert Decoder(card.input)(urls[1]).max() == 2


def test_a_folder_without_readable_images_is_rejected_with_what_it_contains() -> None:
    touch("in/a.heic")
    with pytest.raises(
        UsageError, match=r"no images in this folder .*; skipped 1 \.heic file \(format not supported\)"
    ):
        find_inputs(["in"])


@pytest.mark.parametrize(("name", "separator"), [("list.csv", ","), ("list.TSV", "\t"), ("list.csv", ";")])
def test_a_table_yields_its_paths_relative_to_its_folder(name: str, separator: str) -> None:
    table = Path(touch(f"in/{name}"))
    rows = [("Label", " PATH "), ("x", "a;1.png"), ("", ""), ("y", "s3://bucket/b.png"), ("x", "/c.png"), ("x", "")]
    text = "\n".join(separator.join(f'"{cell}"' if ";" in cell else cell for cell in row) for row in rows)
    table.write_text(text.replace(f"\n{separator}\n", "\n\n"))
    assert list(find_inputs([str(table)])) == ["in/a;1.png", "s3://bucket/b.png", "/c.png", ""]
    assert list(find_inputs([str(table)], path_column="label")) == ["in/x", "in/y", "in/x", "in/x"]
    with pytest.raises(
        UsageError, match=r"no column 'file'; its columns are 'Label', 'PATH'; choose with --path-column$"
    ):
        find_inputs([str(table)], path_column="file")


def test_a_carriage_return_is_dropped_unless_a_file_has_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("odd.png\r")
    reader, writer = os.pipe()
    os.write(writer, b"a.png\r\nodd.png\r\nb.png\r")
    os.close(writer)
    with open(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert list(find_inputs(["-"])) == ["a.png", "odd.png\r", "b.png"]
