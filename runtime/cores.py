"""How many cores this process may use, which in a container is fewer than the host has."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def count() -> int:
    """The number of cores: those of the process's affinity, within its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota() -> float | None:
    """The cores' time that the control group has, in cores; None where it has no limit."""
    try:
        version_2 = _CGROUPS / "cpu.max"
        if version_2.exists():
            quota, period = version_2.read_text().split()
        else:
            quota = (_CGROUPS / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (_CGROUPS / "cpu" / "cpu.cfs_period_us").read_text()
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max", or a system without control groups
        return None
    return cores if cores > 0 else None  # version 1 has -1 for no limit
