"""CPU cores, free memory and the CUDA driver of this machine. Standard library only."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CUDA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
CGROUP_ROOT, CGROUP_MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
FALLBACK_MEMORY_BYTES = 4 * 2**30  # where the system does not report how much memory is free


def usable_cores() -> int:
    """Return the number of cores that CPU affinity and cgroup quota let this process use; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(CGROUP_ROOT, CGROUP_MEMBERSHIP)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def cgroup_quota(root: Path, membership: Path) -> float | None:
    """Return the CPU quota of this process's cgroup (version 1 or 2) in cores; None if it has no quota.

    `root` is the mount point of the cgroups, and the file `membership` names the cgroup of the process. Cgroups may be
    nested, as with systemd; the smallest quota between the process's cgroup and `root` applies.
    """
    quotas = map(_quota_in, _cgroups(root, membership, "cpu"))
    return min((quota for quota in quotas if quota is not None), default=None)


def _cgroups(root: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the process's cgroup and of those that contain it, in version 2 and then in version 1.

    In version 1 each controller has its own tree. A line of `membership` is ID:CONTROLLERS:PATH; version 2 names no
    controllers. In a container, the path may be that on the host, and only its top may exist.
    """
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
        paths = {name: path for _, controllers, path in lines for name in controllers.split(",")}
    except (OSError, ValueError):
        paths = {}
    for top, name in ((root, ""), (root / controller, controller)):
        folder = top / paths.get(name, "/").lstrip("/")
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(top))


def _quota_in(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return None


def free_memory_bytes() -> int:
    """Return the bytes of memory that this process can use without swapping.

    This is Linux's estimate (4 GiB elsewhere), or less if the memory limit of a cgroup leaves less.
    """
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        available = FALLBACK_MEMORY_BYTES
    cgroups = _cgroups(CGROUP_ROOT, CGROUP_MEMBERSHIP, "memory")
    return min([available, *filter(None, map(_free_memory_in, cgroups))])


def _free_memory_in(folder: Path) -> int | None:
    """Return the bytes that a cgroup may still use, at least 1, or None if it has no limit. Caches count as free."""
    names = ("memory.max", "memory.current", "memory.stat", "inactive_file ")
    if not (folder / names[0]).exists():  # version 1
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file ")
    try:
        limit, used, stat = ((folder / name).read_text() for name in names[:3])
        cached = next((line.split()[1] for line in stat.splitlines() if line.startswith(names[3])), 0)
        return max(1, int(limit) - int(used) + int(cached))
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return None


def missing_cuda_driver() -> str | None:
    """Return why no CUDA driver is usable, or None if the driver's library loads."""
    try:
        ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return "no NVIDIA driver on this machine"
    return None


def cuda_version() -> str:
    """Return the newest CUDA version that the driver supports, e.g. "13.0". Raises OSError if there is no driver."""
    number = ctypes.c_int()
    ctypes.CDLL(CUDA_DRIVER).cuDriverGetVersion(ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"
