"""What this machine offers: cores to use, and a CUDA driver or the reason why not. Standard library only."""

import ctypes
import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """How many cores this process may use: the smaller of its CPU affinity mask and its cgroup's quota; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(CGROUP)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def cgroup_quota(root: Path) -> float | None:
    """The CPU quota in cores that the cgroup (version 2 or 1) mounted at `root` sets; None where it sets none."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no cgroup here, or "max": no quota
        return None


def missing_cuda_driver() -> str | None:
    """Why CUDA cannot run here for lack of a driver, or None where the driver's library loads."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver on this machine ({library} cannot be loaded)"
    return None
