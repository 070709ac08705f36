"""What the machine offers: cores from the affinity mask and the cgroup's quota, and a CUDA driver or the cause."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy.random._pcg64 as some_library
import pytest

from nets import machine
from nets.machine import cgroup_quota, usable_cores

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")


def version2(root: Path, text: str) -> Path:
    (root / "cpu.max").write_text(text)
    return root


def version1(root: Path, quota: str, period: str) -> Path:
    (root / "cpu").mkdir()
    (root / "cpu/cpu.cfs_quota_us").write_text(quota)
    (root / "cpu/cpu.cfs_period_us").write_text(period)
    return root


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("10000 50000\n", 0.2),
        ("max 100000\n", None),
        ("", None),
        ("many\n", None),
    ],
)
def test_quota_of_cgroup_version_2_is_read(tmp_path: Path, text: str, cores: float | None) -> None:
    assert cgroup_quota(version2(tmp_path, text)) == cores


@pytest.mark.parametrize(
    ("quota", "cores"), [("400000\n", 4.0), ("50000\n", 0.5), ("-1\n", None), ("0\n", None), ("\n", None)]
)
def test_quota_of_cgroup_version_1_is_read(tmp_path: Path, quota: str, cores: float | None) -> None:
    assert cgroup_quota(version1(tmp_path, quota, "100000\n")) == cores


def test_no_cgroup_sets_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) is None
    assert cgroup_quota(tmp_path / "absent") is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000\n")  # without its period
    assert cgroup_quota(tmp_path) is None


@linux
@pytest.mark.parametrize(("text", "most"), [("100000 100000", 1), ("5000 100000", 1), ("199000 100000", 1)])
def test_a_quota_below_the_mask_sets_the_cores_and_at_least_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, most: int
) -> None:
    monkeypatch.setattr(machine, "CGROUP", version2(tmp_path, text))
    assert usable_cores() == most


@linux
@pytest.mark.parametrize("text", ["max 100000", "100000000 100000"])
def test_a_quota_above_the_mask_leaves_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(machine, "CGROUP", version2(tmp_path, text))
    assert usable_cores() == len(os.sched_getaffinity(0))


@linux
def test_a_process_restricted_to_one_core_uses_one() -> None:
    program = "import os; from nets.machine import usable_cores; os.sched_setaffinity(0, {%d}); print(usable_cores())"
    core = min(os.sched_getaffinity(0))
    done = subprocess.run([sys.executable, "-c", program % core], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.skipif(sys.platform != "linux", reason="LD_LIBRARY_PATH is Linux's")
@pytest.mark.parametrize(
    ("library", "answer"),
    [("good", "None"), ("damaged", "no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded)")],
)
def test_a_driver_is_there_exactly_when_its_library_loads(tmp_path: Path, library: str, answer: str) -> None:
    """Any library that loads may stand in for the driver's: it is only opened."""
    if library == "good":
        shutil.copy(some_library.__file__, tmp_path / "libcuda.so.1")
    else:
        (tmp_path / "libcuda.so.1").write_text("no library")
    program = "from nets.machine import missing_cuda_driver; print(missing_cuda_driver())"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{answer}\n"
