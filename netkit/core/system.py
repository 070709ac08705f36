"""What this machine offers: CPU cores, memory, and the CUDA driver. Standard library only."""

import ctypes
import os
import sys
from pathlib import Path

CUDA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
CGROUP, MEMBER = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
FALLBACK_MEMORY = 4 * 2**30  # bytes, where the system does not say how much is free


def usable_cores() -> int:
    """The number of cores that this process may use, by CPU affinity and by cgroup quota; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(CGROUP, MEMBER)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def cgroup_quota(root: Path, member: Path) -> float | None:
    """The CPU quota of this process's cgroup (version 1 or 2) in cores; None if there is none.

    `root` is the mount point of the cgroups, and the file `member` names the cgroup of the process. Cgroups may be
    nested, as systemd does it: the smallest quota from there up to `root` counts.
    """
    try:
        own = next((line[3:] for line in member.read_text().splitlines() if line.startswith("0::/")), "/")
    except OSError:
        own = "/"
    folder = root / own.lstrip("/")
    folders = [folder, *folder.parents]
    quotas = [_quota_in(folder) for folder in folders[: folders.index(root) + 1]]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_in(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu/cpu.cfs_quota_us").read_text()
            period = (folder / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return None


def free_memory() -> int:
    """Bytes of memory that are available without swapping, as Linux reports them; 4 GiB elsewhere."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return FALLBACK_MEMORY


def missing_cuda_driver() -> str | None:
    """The reason why no CUDA driver is usable, or None if the driver's library loads."""
    try:
        ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return f"no NVIDIA driver on this machine ({CUDA_DRIVER} cannot be loaded)"
    return None


def cuda_version() -> str:
    """The newest CUDA version that the driver supports, such as "13.0". Raises OSError if there is no driver."""
    number = ctypes.c_int()
    ctypes.CDLL(CUDA_DRIVER).cuDriverGetVersion(ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"
