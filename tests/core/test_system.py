"""Usable cores depend on CPU affinity and cgroup quota, and the message on a missing driver names its library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netkit.core.system import cgroup_quota, free_memory_bytes, missing_cuda_driver, usable_cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
        ({"cpu.max": "garbage"}, None),
    ],
)
def test_the_quota_of_cgroup_v1_and_v2_is_read(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cgroup_quota(tmp_path, tmp_path / "none") == cores


@pytest.mark.parametrize(
    ("membership", "cores"),
    [("0::/\n", 8.0), ("0::/a\n", 2.0), ("12:cpu:/x\n0::/a/b\n", 2.0), ("0::/a/c\n", 1.0), ("0::/gone\n", 8.0)],
)
def test_the_smallest_quota_of_nested_cgroups_applies(tmp_path: Path, membership: str, cores: float) -> None:
    for folder, quota in ((".", 8), ("a", 2), ("a/b", 3), ("a/c", 1)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "cpu.max").write_text(f"{quota}00000 100000\n")
    (tmp_path / "membership").write_text(membership)
    assert cgroup_quota(tmp_path, tmp_path / "membership") == cores


@pytest.mark.parametrize(
    ("membership", "cores"),
    [
        ("4:cpu:/a/b\n0::/\n", 2.0),
        ("3:cpu,cpuacct:/a\n", 2.0),
        ("4:memory:/a\n", 8.0),
        ("4:cpu:/host\n", 8.0),
        ("x", 8.0),
    ],
)
def test_nested_cgroups_of_version_1_apply(tmp_path: Path, membership: str, cores: float) -> None:
    for folder, quota in (("cpu", 800000), ("cpu/a", 200000), ("cpu/a/b", -1)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (tmp_path / folder / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "membership").write_text(membership)
    assert cgroup_quota(tmp_path, tmp_path / "membership") == cores


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)])
def test_a_quota_lowers_the_number_of_cores_but_not_below_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("netkit.core.system.CGROUP_ROOT", tmp_path)
    monkeypatch.setattr("netkit.core.system.CGROUP_MEMBERSHIP", tmp_path / "none")
    assert usable_cores() == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "5000\n", "memory.current": "3000\n", "memory.stat": "anon 9\ninactive_file 500\n"}, 2500),
        ({"memory.max": "5000\n", "memory.current": "6000\n", "memory.stat": ""}, 1),
        (
            {
                "memory/memory.limit_in_bytes": "5000\n",
                "memory/memory.usage_in_bytes": "3000\n",
                "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 900\n",
            },
            2900,
        ),
        (
            {
                "memory/a/memory.limit_in_bytes": "4000\n",
                "memory/a/memory.usage_in_bytes": "1000\n",
                "memory/a/memory.stat": "",
            },
            3000,
        ),
        ({"memory.max": "max\n", "memory.current": "3000\n", "memory.stat": ""}, None),
        ({"a/memory.max": "700\n", "a/memory.current": "0\n", "a/memory.stat": ""}, 700),
        ({"memory.max": "5000\n"}, None),
        ({}, None),
    ],
)
def test_memory_limits_of_cgroups_lower_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], free: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text("4:memory:/a/b\n0::/a/b\n")
    monkeypatch.setattr("netkit.core.system.CGROUP_ROOT", tmp_path)
    monkeypatch.setattr("netkit.core.system.CGROUP_MEMBERSHIP", tmp_path / "membership")
    if free is None:
        assert free_memory_bytes() > 2**24
    else:
        assert free_memory_bytes() == free


def test_affinity_limits_the_number_of_cores() -> None:
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    program += "from netkit.core.system import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_missing_driver_is_found() -> None:
    has_driver = Path("/proc/driver/nvidia/version").exists()
    assert missing_cuda_driver() == (None if has_driver else "no NVIDIA driver on this machine")
