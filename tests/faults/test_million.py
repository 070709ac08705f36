"""`netkit infer` over a million files: rows, latency of the first row, memory and speed."""

import csv
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from netkit.data.dataset import ArrayDataSet
from tests.support.commands import NETKIT

SOURCES = 100  # files with content; a file system allows about 60,000 hard links to each


def create_links(folder: Path, sources: list[Path], *, folders: int) -> None:
    """Create `folders` subfolders of 1,000 hard links each."""
    for outer in range(folders):
        (folder / f"{outer:04}").mkdir(parents=True)
        for inner in range(1000):
            os.link(sources[(outer + inner) % SOURCES], folder / f"{outer:04}" / f"{inner:03}.png")


def infer(folder: Path, model: Path, out: Path) -> tuple[float, float, int]:
    """Run with rows on stdout; return the seconds to the first row and in all, and the peak resident memory in KiB."""
    started = time.monotonic()
    with open(out, "wb") as file:
        process = subprocess.Popen(
            [NETKIT, "infer", folder, "--model", model], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        header, first = process.stdout.readline(), process.stdout.readline()
        first_s = time.monotonic() - started
        file.write(header + first)
        copier = threading.Thread(target=lambda: file.writelines(iter(lambda: process.stdout.read(1 << 20), b"")))  # type: ignore[union-attr]
        copier.start()
        _, status, usage = os.wait4(process.pid, 0)  # usage of this child only
        copier.join()
        process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return first_s, time.monotonic() - started, usage.ru_maxrss


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_a_million_files_give_a_million_rows_in_the_memory_of_ten_thousand(
    tmp_path: Path, workspace: Path, digits_data: ArrayDataSet
) -> None:
    model = workspace / "runs/residual/model.onnx"
    sources = [tmp_path / f"{index}.png" for index in range(SOURCES)]
    for path, image in zip(sources, digits_data.test_images, strict=False):
        Image.fromarray(image[0]).save(path)
    create_links(tmp_path / "few", sources, folders=10)
    create_links(tmp_path / "many", sources, folders=1000)
    _, few_s, few_kib = infer(tmp_path / "few", model, tmp_path / "few.csv")
    first_s, many_s, many_kib = infer(tmp_path / "many", model, tmp_path / "many.csv")
    assert first_s < 5
    assert many_kib <= 1.2 * few_kib
    assert many_s < 100 * few_s  # the speed may fall only by the share of start-up in few_s
    with open(tmp_path / "many.csv") as file:
        rows = list(csv.reader(file))[1:]
    assert len(rows) == len({row[0] for row in rows}) == 1_000_000
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    labels: dict[int, str] = {}
    for name, label, *_ in rows:
        source = (int(name[-12:-8]) + int(name[-7:-4])) % SOURCES
        assert labels.setdefault(source, label) == label  # equal images have equal labels
    assert {row[3] for row in rows} == {"ok"}
