"""How many threads are worth starting: more than the physical cores make encoders slower."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads(cpus: Path = _CPUS, quota: Path = _QUOTA) -> int:
    """The physical cores that this process may use, or fewer where a container is limited to less."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(1, min(_physical_cores(cpus, allowed), _quota(quota)))


def _physical_cores(cpus: Path, allowed: Iterable[int]) -> int:
    """Hyper-threads of one core name the same siblings; where the system does not tell, all count."""
    cores = set()
    for cpu in allowed:
        siblings = str(cpu)
        with contextlib.suppress(OSError):
            siblings = (cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        cores.add(siblings.strip())
    return len(cores)


def _quota(path: Path) -> int:
    """`cpu.max` of a container: `200000 100000` is two CPUs' worth."""
    with contextlib.suppress(OSError, ValueError):
        share, period = path.read_text().split()
        return max(1, int(share) // int(period))
    return os.cpu_count() or 1
