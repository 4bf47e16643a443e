"""How many threads are worth having: physical cores, within what this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def default_threads() -> int:
    """min(physical cores, CPU affinity, cgroup quota), at least 1."""
    limits = [psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0))]
    quota = cgroup_cpus()
    if quota is not None:
        limits.append(max(1, int(quota)))
    return max(1, min(limits))


def cgroup_cpus(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that the control group grants (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`), None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)
