"""Files at URLs give the same rows as the same files in a local folder, with both engines."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from pyarrow import fs as arrow
from pyarrow import parquet as pq

from netkit.core import remote
from netkit.core.errors import ImageError, MissingExtraError, UsageError
from netkit.data.dataset import ArrayDataSet
from netkit.images.decoder import Decoder
from netkit.images.files import Skipped
from netkit.infer import job
from netkit.infer.cluster import driver
from netkit.infer.cluster.shards import Plan
from netkit.infer.model.onnx_file import Model
from netkit.infer.output.prediction import Row
from netkit.infer.pipeline.inputs import find_inputs
from netkit.infer.runtime.session import open_session
from tests.support.clusters import engine_of, run_in_process
from tests.support.commands import run_netkit

URL = "memory:///bucket/images"


@pytest.fixture
def local(tmp_path: Path, digits_data: ArrayDataSet) -> Path:
    """A folder with images of digits in subfolders, a text file, and files that are only named like images."""
    folder = tmp_path / "images"
    for number in range(40):
        path = folder / str(digits_data.test_labels[number]) / f"{number}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits_data.test_images[number][0]).save(path, "PNG")
    (folder / "notes.txt").write_text("not an image, by its name")
    (folder / "1/empty.png").write_bytes(b"")
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "large.png").write_bytes(bytes(70_000))
    return folder


@pytest.fixture
def bucket(local: Path) -> Iterator[MemoryFileSystem]:
    """The same files in fsspec's memory file system, at URL."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(local), "/bucket/images", recursive=True)
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


def rows_of(inputs: list[str], model: Model) -> list[Row]:
    rows: list[Row] = []
    decoder = replace(Decoder(model.card.input), max_bytes=60_000)
    local_job = job.Job(tuple(inputs), decoder, 8, None, 1, rows.extend, False)
    session = open_session(model, device="cpu", threads=1)
    job.run(local_job, session, find_inputs(inputs), advance=lambda count, note: None)
    return rows


@pytest.mark.usefixtures("bucket")
def test_rows_of_a_url_equal_those_of_the_same_local_folder(local: Path, model: Model) -> None:
    expected = [row._replace(path=row.path.replace(str(local), URL)) for row in rows_of([str(local)], model)]
    assert rows_of([URL], model) == expected
    assert {row.status for row in expected} == {"ok", "not-an-image", "too-large"} and len(expected) == 43


@pytest.mark.usefixtures("bucket")
def test_each_folder_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    original_ls = MemoryFileSystem.ls

    def record(self: MemoryFileSystem, path: str, *more: object, **options: object) -> object:
        listed.append(path)
        return original_ls(self, path, *more, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", record)
    assert len(list(find_inputs([URL]))) == 43
    assert sorted(listed) == sorted(set(listed)) and len(listed) == 11


@pytest.mark.usefixtures("bucket")
def test_globs_are_expanded_and_a_missing_file_gives_a_row(model: Model) -> None:
    assert list(find_inputs([f"{URL}/*.jpg"])) == [f"{URL}/broken.jpg"]
    assert [row.status for row in rows_of([f"{URL}/none.png", f"{URL}/broken.jpg"], model)] == [
        "not-found", "not-an-image",
    ]  # fmt: skip


def test_hidden_and_system_names_behind_urls_are_skipped_and_counted(bucket: MemoryFileSystem) -> None:
    for name in ("._0.PNG", ".cache/a.png", "1/@eaDir/a.png", "a.heic"):
        bucket.pipe(f"/bucket/images/{name}", b"x")
    skipped = Skipped()
    assert len(list(find_inputs([URL], skipped=skipped))) == 43
    other = [f"1 {suffix} file (format not supported)" for suffix in (".heic", ".txt")]
    reasons = [*other, "1 folder @eaDir", "1 hidden folder", "1 hidden image file"]
    assert sorted(str(skipped).removeprefix("skipped ").split(", ")) == reasons
    assert len(list(find_inputs([f"{URL}/**/*.[pP]*"]))) == 42
    assert list(find_inputs([f"{URL}/.cache/*.png"])) == [f"{URL}/.cache/a.png"]


@pytest.mark.usefixtures("bucket")
def test_a_pattern_for_any_depth_gives_each_file_once() -> None:
    urls = list(find_inputs([f"{URL}/**"]))
    assert sorted(urls) == sorted(find_inputs([URL]))


def test_links_to_folders_are_followed_behind_file_urls_as_in_local_folders(tmp_path: Path) -> None:
    for name in ("in/a/0.png", "elsewhere/deep/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "in/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    local = list(find_inputs([str(tmp_path / "in")]))
    assert len(local) == 2
    for pattern in ("", "/*", "/**"):
        assert list(find_inputs([f"file://{tmp_path}/in{pattern}"])) == [f"file://{path}" for path in local]


def test_a_url_without_images_is_an_error_before_the_first_row(bucket: MemoryFileSystem) -> None:
    bucket.mkdir("/bucket/bare")
    for url, message in (
        ("memory:///bucket/bare", "memory:///bucket/bare: no images there"),
        ("memory:///bucket/*.gif", "no images there"),
        ("memory:///bucket/list.csv", "a table cannot be a URL"),
        ("nowhere://bucket", "nowhere://bucket: cannot be listed: Protocol not known: nowhere"),
    ):
        with pytest.raises(UsageError, match=message.replace("*", r"\*")):
            find_inputs([url])


@pytest.mark.usefixtures("bucket")
def test_shards_contain_the_rows_of_a_url(tmp_path: Path, model: Model) -> None:
    plan = Plan(tmp_path / "out", model.sha256, replace(Decoder(model.card.input), max_bytes=60_000), "cpu", 8, 1, True)
    paths = find_inputs([URL])
    engine = engine_of(run_in_process)
    driver.run(plan, model, paths, engine, workers=1, resume=False, advance=lambda count, note: None)
    expected = [(row.path, row.label, row.status) for row in rows_of([URL], model)]
    table = pq.read_table(tmp_path / "out").to_pylist()
    assert [(row["path"], row["label"], row["status"]) for row in table] == expected


@pytest.mark.slow
def test_both_engines_accept_urls_on_the_command_line(local: Path, workspace: Path) -> None:
    command = ("infer", local.as_uri(), "--model", str(workspace / "runs/residual/model.onnx"))
    locally = run_netkit(*command, "--out", "local.parquet", cwd=local.parent)
    on_ray = run_netkit(*command, "--engine", "ray", "--out", "out", cwd=local.parent)
    assert locally.returncode == on_ray.returncode == 1, locally.stderr + on_ray.stderr
    rows = pq.read_table(local.parent / "local.parquet").to_pylist()
    assert len(rows) == 43 and rows[0]["path"].startswith("file:///")
    parts = [pq.read_table(part).to_pylist() for part in sorted((local.parent / "out").glob("part-*"))]
    assert [row for part in parts for row in part] == rows


class HostFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """A file system whose URLs contain a host that is not part of the path, as with hdfs and ftp."""

    protocol = "hosted"
    cachable = False

    def __init__(self, host: str = "default", **options: object) -> None:
        super().__init__(**options)
        self.host = host

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        inner = "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path
        return inner.rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return {"host": path.partition("://")[2].partition("/")[0]}


@pytest.mark.usefixtures("bucket")
def test_urls_keep_their_host_and_their_chain(tmp_path: Path, local: Path) -> None:
    fsspec.register_implementation("hosted", HostFileSystem, clobber=True)
    urls = list(find_inputs(["hosted://there:80/bucket/images"]))
    assert len(urls) == 43 and {url[:31] for url in urls} == {"hosted://there:80/bucket/images"}
    assert list(find_inputs(["hosted://there:80/bucket/im*/1/e*"])) == ["hosted://there:80/bucket/images/1/empty.png"]
    shutil.make_archive(str(tmp_path / "all"), "zip", local)
    assert list(find_inputs([f"zip://*.jpg::file://{tmp_path}/all.zip"])) == [
        f"zip://broken.jpg::file://{tmp_path}/all.zip"
    ]
    urls_in_zip = list(find_inputs([f"zip://::file://{tmp_path}/all.zip"]))
    assert len(urls_in_zip) == 43
    assert remote.read(f"zip://broken.jpg::file://{tmp_path}/all.zip", max_bytes=100_000) == b"not an image"
    assert f"zip://broken.jpg::file://{tmp_path}/all.zip" in urls_in_zip


def test_a_name_with_glob_characters_is_a_file_if_it_exists(bucket: MemoryFileSystem) -> None:
    bucket.cp("/bucket/images/broken.jpg", "/bucket/images/a[1].png")
    assert list(find_inputs([f"{URL}/a[1].png"])) == [f"{URL}/a[1].png"]
    assert list(find_inputs(["memory:///bucket/imag*/1*"])) == list(find_inputs([f"{URL}/1"]))


def test_a_subfolder_that_cannot_be_listed_is_yielded_in_place_of_its_files(
    bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_ls = MemoryFileSystem.ls

    def deny_subfolder(self: MemoryFileSystem, path: str, detail: bool = True, **options: object) -> object:
        if path.endswith("/1"):
            raise PermissionError("Access Denied")
        return original_ls(self, path, detail=detail, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", deny_subfolder)
    urls = list(find_inputs([URL]))
    assert f"{URL}/1" in urls and not any(url.startswith(f"{URL}/1/") for url in urls)


def test_a_parquet_list_of_paths_may_be_at_a_url(bucket: MemoryFileSystem, tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": [f"{URL}/1/0.png", "b.png"]}), tmp_path / "list.parquet")
    bucket.put(str(tmp_path / "list.parquet"), "/bucket/list.parquet")
    assert list(find_inputs(["memory:///bucket/list.parquet"])) == [f"{URL}/1/0.png", "b.png"]
    with pytest.raises(UsageError, match=r"none\.parquet: cannot be read"):
        find_inputs(["memory:///bucket/none.parquet"])


class LocalFilesByArrow(ArrowFSWrapper):  # type: ignore[misc]  # fsspec ships no types
    """Local files read by Arrow, which fsspec also uses for hdfs://."""

    protocol = "on-arrow"

    def __init__(self, **options: object) -> None:
        super().__init__(arrow.LocalFileSystem(), **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.partition("://")[2] if "://" in path else path


def test_files_opened_by_arrow_give_the_same_rows(local: Path, model: Model) -> None:
    fsspec.register_implementation("on-arrow", LocalFilesByArrow, clobber=True)
    results = [(row.label, row.status) for row in rows_of([f"on-arrow://{local}"], model)]
    assert results == [(row.label, row.status) for row in rows_of([str(local)], model)]
    assert {status for _, status in results} == {"ok", "not-an-image", "too-large"}


def test_an_empty_file_is_not_requested(bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe("/bucket/none.png", b"")
    monkeypatch.setattr(bucket, "cat_file", None)  # object stores reject an empty range
    with pytest.raises(ImageError, match="the file is empty"):
        remote.read("memory:///bucket/none.png", max_bytes=1)


def test_a_missing_package_is_an_error_rather_than_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"s3://bucket/a\.png: .* the package s3fs; run: pip install s3fs$"):
        remote.read("s3://bucket/a.png", max_bytes=1)
    with pytest.raises(UsageError, match=r"sftp://host/a\.png: .* needs a package: SFTPFileSystem requires .*paramiko"):
        remote.read("sftp://host/a.png", max_bytes=1)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[remote\]'"):
        remote.read(f"{URL}/a.png", max_bytes=1)
