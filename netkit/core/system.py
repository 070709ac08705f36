"""What this machine offers: cores to use, and a CUDA driver or the reason why not. Standard library only."""

import ctypes
import os
import sys
from pathlib import Path

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
CGROUP, MEMBER = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """How many cores this process may use: the smaller of its CPU affinity mask and its cgroup's quota; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(CGROUP, MEMBER)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def cgroup_quota(root: Path, member: Path) -> float | None:
    """The CPU quota in cores of this process's cgroup (version 2 or 1); None where it has none.

    `root` is where cgroups are mounted; the file `member` names the one that the process is in. Of those that lie in
    each other, as systemd nests them, the smallest quota counts.
    """
    try:
        own = next((line[3:] for line in member.read_text().splitlines() if line.startswith("0::/")), "/")
    except OSError:
        own = "/"
    folder = root / own.lstrip("/")
    folders = [folder, *folder.parents]
    quotas = [_quota_in(each) for each in folders[: folders.index(root) + 1]]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_in(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu/cpu.cfs_quota_us").read_text()
            period = (folder / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no cgroup here, or "max": no quota
        return None


def free_memory() -> int:
    """Bytes that can be taken without swapping, by what Linux says; elsewhere 4 GiB, as a guess."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 * 2**30


def missing_cuda_driver() -> str | None:
    """Why CUDA cannot run here for lack of a driver, or None where the driver's library loads."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return f"no NVIDIA driver on this machine ({DRIVER} cannot be loaded)"
    return None


def cuda_version() -> str:
    """The newest CUDA that the driver, which must be there, can run, as "13.0"."""
    number = ctypes.c_int()
    ctypes.CDLL(DRIVER).cuDriverGetVersion(ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"
