"""Tables of paths and labels, as spreadsheets, scripts and colleagues write them."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from netkit.core.errors import DataError, NetkitError, UsageError
from netkit.data import image_files, registry
from netkit.data.options import Options
from netkit.data.table import read_paths


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> Path:
    """The folder of the table, with eight images."""
    for number in range(8):
        Image.new("L", (5, 6), 10 * number).save(tmp_path / f"{number}.png")
    return tmp_path


def table_of(folder: Path, text: str, *, name: str = "all.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "header"), [("all.csv", "path{}label"), ("all.TSV", " Path {}LABEL{}note, if any")])
def test_separators_encodings_and_header_spellings_are_recognized(
    images: Path, separator: str, encoding: str, name: str, header: str
) -> None:
    lines = [header.format(separator, separator)] + [f"{n}.png{separator}{'äb'[n % 2]}" for n in range(8)]
    if separator == ",":
        lines[0] = lines[0].partition(",note")[0]
    table = table_of(images, "\r\n".join(lines), name=name, encoding=encoding)
    entries = image_files.list_images(table).train
    assert [(Path(entry.path).name, entry.label) for entry in entries] == [(f"{n}.png", "äb"[n % 2]) for n in range(8)]
    assert registry.load(str(table)).labels == ("b", "ä")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_line_that_names_the_separator_for_excel_is_skipped(images: Path, encoding: str) -> None:
    table = table_of(images, "sep=;\r\npath;label\r\n0.png;a\r\n1.png;\r\n", encoding=encoding)
    with pytest.raises(DataError, match="line 4: a row needs a value"):
        image_files.list_images(table)
    assert list(read_paths(table, "path")) == [f"{images}/0.png", f"{images}/1.png"]


def test_columns_can_be_chosen(images: Path) -> None:
    rows = [f"{number}.png,{'ab'[number % 2]},cd" for number in range(8)]
    table = table_of(images, "\n".join(["file,species,label", *rows]))
    data = registry.load(str(table), Options(path_column="FILE", label_column="species"))
    assert data.labels == ("a", "b") and data.reading == {"path_column": "FILE", "label_column": "species"}


def test_blanks_around_labels_are_removed_with_a_message(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = table_of(images, "path,label\n0.png, a\n1.png,b\n2.png,a\t\n3.png,b\n")
    assert {entry.label for entry in image_files.list_images(table).train} == {"a", "b"}
    assert caplog.messages == [f"{table}: blanks around 2 labels removed, such as ' a'"]


def test_blanks_around_paths_are_removed_unless_a_file_has_them(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (images / "4.png ").touch()
    (images / " sub").mkdir()
    (images / " sub/5.png").touch()
    rows = [" 0.png,a", "1.png\t,b", "4.png ,a", " sub/5.png,b", f" {(images / '6.png').as_uri()} ,a"]
    table = table_of(images, "\n".join(["path,label", *rows]))
    paths = [f"{images}/{name}" for name in ("0.png", "1.png", "4.png ", " sub/5.png")] + [f"file://{images}/6.png"]
    assert [entry.path for entry in image_files.list_images(table).train] == paths
    assert caplog.messages == [f"{table}: blanks around 3 paths removed, such as ' 0.png'"]
    assert list(read_paths(table, "path")) == paths


def test_equal_rows_are_used_once(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = table_of(images, "path,label\n0.png,a\n./0.png,a\n1.png,b\n")
    assert [entry.name for entry in image_files.list_images(table).train] == ["0.png", "1.png"]
    assert caplog.messages == [f"{table}: 1 rows are repeated and are used once"]


def test_missing_files_are_reported_in_one_line(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(8)]
    table = table_of(images, "\n".join(["path,label", *rows, *(f"gone{n}.png,a" for n in range(4))]))
    data = registry.load(str(table))
    assert len(data.train_labels) + len(data.test_labels) == 8
    messages = [message for message in caplog.messages if "gone" in message]
    assert len(messages) == 1 and messages[0].startswith(f"{table}: 4 files do not exist: {images}/gone")
    with pytest.raises(DataError, match=r"4 of 12 images cannot be read.*gone\d\.png: no such file"):
        registry.load(str(table), Options(max_unreadable=0))


def test_the_same_file_under_two_spellings_is_an_error(images: Path) -> None:
    urls = f"file://{images}/%32.png,b\n"
    table = table_of(images, f"path,label\n0.png,a\n{images}/0.png,b\n1.png,a\nx/../1.png,b\n2.png,a\n{urls}")
    with pytest.raises(
        DataError, match=r"3 rows repeat a file with another label or split: .*0\.png \(a and b\), x/\.\./1\.png"
    ):
        image_files.list_images(table)


def test_a_path_in_windows_spelling_is_found_unless_a_file_has_that_name(images: Path) -> None:
    (images / "in").mkdir()
    (images / "in/0.png").touch()
    (images / "in\\1.png").touch()
    table = table_of(images, "path,label\nin\\0.png,a\nin\\1.png,b\n")
    assert [entry.path for entry in image_files.list_images(table).train] == [
        f"{images}/in/0.png",
        f"{images}/in\\1.png",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\n0.png,Café\n".encode("cp1252"), r"line 2: the label 'Caf\\udce9' is not UTF-8; save the table"),
        (b"\npath,label\n0.png,a\n", "the first line is empty; it must name the columns"),
        ("path,label\n0.png,a\n".encode("utf-16-le"), r"its columns are 'p\\x00a\\x00t\\x00h\\x00', "),
        (b"path,label\n", "lists no images"),
    ],
)
def test_a_table_that_cannot_be_used_is_an_error_that_says_why(images: Path, content: bytes, message: str) -> None:
    (images / "all.csv").write_bytes(content)
    with pytest.raises(NetkitError, match=message):
        registry.load(str(images / "all.csv"))


@pytest.mark.parametrize("source", ["http://host/photos", "s3://bucket/all.csv"])
def test_a_data_set_at_a_url_is_an_error_that_says_what_to_do(source: str) -> None:
    with pytest.raises(UsageError, match="a data set cannot be a URL; copy it to this machine, or list URLs"):
        registry.load(source)


def test_a_data_set_may_be_a_file_url(images: Path, tmp_path: Path) -> None:
    (tmp_path / "my photos").mkdir()
    rows = [f"{images}/{number}.png,{'ab'[number % 2]}" for number in range(8)]
    table = table_of(tmp_path / "my photos", "\n".join(["path,label", *rows]))
    assert registry.load(table.as_uri()).source == str(table)
    assert registry.has_image_files(table.as_uri()) and registry.has_image_files(table.parent.as_uri())
    registry.require_fitting(table.as_uri(), ["path_column"])
    with pytest.raises(UsageError, match="--layout is for a folder of images"):
        registry.require_fitting(table.as_uri(), ["layout"])


def test_paths_may_be_urls_or_absolute(images: Path, tmp_path: Path) -> None:
    rows = [f"{(images / f'{n}.png').as_uri() if n % 2 else images / f'{n}.png'},{'ab'[n // 4]}" for n in range(8)]
    (tmp_path / "other").mkdir()
    data = registry.load(str(table_of(tmp_path / "other", "\n".join(["path,label", *rows]))))
    brightness = sorted(int(image[0, 0, 0]) for part in (data.train_images, data.test_images) for image in part[:])
    assert brightness == [10 * number for number in range(8)]
