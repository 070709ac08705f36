"""Folders behind URLs: the same rows as of the same files here, by both engines."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from conftest import Netkit
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from pyarrow import parquet as pq
from test_cluster import in_turn

from infer import cluster, job, paths
from infer.model import Model
from infer.rows import Row
from infer.session import open_session
from infer.shards import Plan
from nets.data.dataset import HeldDataSet
from nets.errors import UsageError
from nets.images import Decoder

URL = "memory:///bucket/images"


@pytest.fixture
def local(tmp_path: Path, digits_data: HeldDataSet) -> Path:
    """Digits in folders, a text beside them, and images that are none."""
    folder = tmp_path / "images"
    for number in range(40):
        path = folder / str(digits_data.test_labels[number]) / f"{number}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits_data.test_images[number][0]).save(path, "PNG")
    (folder / "notes.txt").write_text("no image, by its name")
    (folder / "1/empty.png").write_bytes(b"")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "large.png").write_bytes(bytes(70_000))
    return folder


@pytest.fixture
def bucket(local: Path) -> Iterator[MemoryFileSystem]:
    """All of it in memory, behind URL."""
    system = fsspec.filesystem("memory")
    system.put(str(local), "/bucket/images", recursive=True)
    yield system
    system.rm("/bucket", recursive=True)


def rows_of(inputs: list[str], model: Model) -> list[Row]:
    rows: list[Row] = []
    decoder = replace(Decoder(model.card.input), largest_file=60_000)
    alone = job.Job(tuple(inputs), decoder, 8, None, 1, rows.extend, False)
    session = open_session(model, device="cpu", threads=1)
    job.run(alone, session, paths.find(inputs), advance=lambda count, note: None)
    return rows


@pytest.mark.usefixtures("bucket")
def test_rows_of_a_url_are_those_of_the_same_folder_here(local: Path, model: Model) -> None:
    here = [row._replace(path=row.path.replace(str(local), URL)) for row in rows_of([str(local)], model)]
    assert rows_of([URL], model) == here
    assert {row.status for row in here} == {"ok", "not-an-image", "too-large"} and len(here) == 43


@pytest.mark.usefixtures("bucket")
def test_globs_and_files_are_found_and_a_file_that_is_named_is_a_row(model: Model) -> None:
    assert list(paths.find([f"{URL}/*.jpg"])) == [f"{URL}/broken.jpg"]
    assert [row.status for row in rows_of([f"{URL}/none.png", f"{URL}/broken.jpg"], model)] == [
        "vanished", "not-an-image",
    ]  # fmt: skip


def test_what_cannot_be_asked_for_is_told_before_anything_is_run(bucket: MemoryFileSystem) -> None:
    bucket.mkdir("/bucket/bare")
    for url, told in (
        ("memory:///bucket/bare", "memory:///bucket/bare: no images there"),
        ("memory:///bucket/*.gif", "no images there"),
        ("nowhere://bucket", "nowhere://bucket: cannot be listed: Protocol not known: nowhere"),
    ):
        with pytest.raises(UsageError, match=told.replace("*", r"\*")):
            paths.find([url])


@pytest.mark.usefixtures("bucket")
def test_shards_hold_the_rows_of_a_url(tmp_path: Path, model: Model) -> None:
    plan = Plan(
        tmp_path / "out", model.sha256, replace(Decoder(model.card.input), largest_file=60_000), "cpu", 8, 1, True
    )
    found = paths.find([URL])
    cluster.run(plan, model, [URL], found, in_turn, workers=1, resume=False, advance=lambda count, note: None)
    expected = [(row.path, row.label, row.status) for row in rows_of([URL], model)]
    table = pq.read_table(tmp_path / "out").to_pylist()
    assert [(row["path"], row["label"], row["status"]) for row in table] == expected


def test_both_engines_take_urls_from_the_command_line(netkit: Netkit, local: Path, workplace: Path) -> None:
    command = ("infer", local.as_uri(), "--model", str(workplace / "runs/residual/model.onnx"))
    alone = netkit(*command, "--out", "alone.parquet", cwd=local.parent)
    on_ray = netkit(*command, "--engine", "ray", "--out", "out", cwd=local.parent)
    assert alone.returncode == on_ray.returncode == 1, alone.stderr + on_ray.stderr
    rows = pq.read_table(local.parent / "alone.parquet").to_pylist()
    assert len(rows) == 43 and rows[0]["path"].startswith("file:///")
    parts = [pq.read_table(part).to_pylist() for part in sorted((local.parent / "out").glob("part-*"))]
    assert [row for part in parts for row in part] == rows
