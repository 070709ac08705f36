"""A million files: each has its row, the first ones come soon, and neither memory nor speed depend on their number."""

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

SOURCES = 100  # files that the others are links to: a file can have some 60,000 names


def linked(folder: Path, sources: list[Path], *, folders: int) -> None:
    """`folders` folders of 1,000 files."""
    for outer in range(folders):
        (folder / f"{outer:04}").mkdir(parents=True)
        for inner in range(1000):
            os.link(sources[(outer + inner) % SOURCES], folder / f"{outer:04}" / f"{inner:03}.png")


def measured(folder: Path, model: Path, out: Path) -> tuple[float, float, int]:
    """Seconds to the first row and in all, and the largest resident memory in KiB, of a run with rows on stdout."""
    # wait4 gives the memory of that child alone
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
        _, status, usage = os.wait4(process.pid, 0)
        copier.join()
        process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return first_s, time.monotonic() - started, usage.ru_maxrss


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a child as Linux gives it")
def test_a_million_files_have_a_million_rows_in_the_memory_of_ten_thousand(
    tmp_path: Path, workplace: Path, digits_data: ArrayDataSet
) -> None:
    model = workplace / "runs/residual/model.onnx"
    sources = [tmp_path / f"{index}.png" for index in range(SOURCES)]
    for path, image in zip(sources, digits_data.test_images, strict=False):
        Image.fromarray(image[0]).save(path)
    linked(tmp_path / "few", sources, folders=10)
    linked(tmp_path / "many", sources, folders=1000)
    _, few_s, few_kib = measured(tmp_path / "few", model, tmp_path / "few.csv")
    first_s, many_s, many_kib = measured(tmp_path / "many", model, tmp_path / "many.csv")
    assert first_s < 5
    assert many_kib <= 1.2 * few_kib
    assert many_s < 100 * few_s  # start-up is counted once, so the speed fell by no more than that
    with open(tmp_path / "many.csv") as file:
        rows = list(csv.reader(file))[1:]
    assert len(rows) == len({row[0] for row in rows}) == 1_000_000
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    labels: dict[int, str] = {}
    for name, label, *_ in rows:
        source = (int(name[-12:-8]) + int(name[-7:-4])) % SOURCES
        assert labels.setdefault(source, label) == label  # the same image, the same answer
    assert {row[3] for row in rows} == {"ok"}
