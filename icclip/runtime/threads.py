"""The number of threads to start: more than the physical cores, or than a container's quota, make encoders slower."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_CPUS = Path("/sys/devices/system/cpu")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_VARIABLE = "OMP_NUM_THREADS"


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """A number of threads, and the reason for it."""

    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.count} {'thread' if self.count == 1 else 'threads'} ({self.reason})"


def choose_threads(
    cpus: Path = _CPUS,
    groups: Path = _GROUPS,
    own_groups: Path = _OWN_GROUPS,
    environment: Mapping[str, str] = os.environ,
) -> ThreadChoice:
    """Choose the number of threads for the CPU provider and preprocessing if the user gave none.

    `OMP_NUM_THREADS` decides if it is set. Otherwise the number is that of the physical cores that this process
    may use, or fewer if a container's quota is smaller; one and a half CPUs give two threads.

    Args:
        cpus: the directory in which the system describes its processors.
        groups: the directory in which control groups are mounted.
        own_groups: the file that names the groups of this process.
        environment: the environment variables of this process.
    """
    asked = _from_environment(environment)
    if asked:
        return ThreadChoice(asked, _VARIABLE)
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = max(1, _physical_cores(cpus, allowed))
    quota = container_quota(groups, own_groups)
    if quota is not None and math.ceil(quota) < cores:
        return ThreadChoice(max(1, math.ceil(quota)), f"the container's quota of {quota:g} CPUs")
    return ThreadChoice(cores, "physical cores")


def default_threads() -> int:
    """The number that `choose_threads` gives."""
    return choose_threads().count


def container_quota(groups: Path = _GROUPS, own_groups: Path = _OWN_GROUPS) -> float | None:
    """The number of CPUs that the control groups of this process allow, the smallest of all levels; None means no limit."""
    found = [share for share in _quotas(groups, own_groups) if share is not None]
    return min(found, default=None)


def _from_environment(environment: Mapping[str, str]) -> int | None:
    """The first number of `4` or `4,2` (OpenMP's nested levels); anything else is ignored."""
    first = environment.get(_VARIABLE, "").split(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() and int(first) > 0 else None


def _physical_cores(cpus: Path, allowed: Iterable[int]) -> int:
    """The number of physical cores; hyper-threads of one core name the same siblings. All count if the system does not tell."""
    cores = set()
    for cpu in allowed:
        siblings = str(cpu)
        with contextlib.suppress(OSError):
            siblings = (cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        cores.add(siblings.strip())
    return len(cores)


def _quotas(groups: Path, own_groups: Path) -> Iterator[float | None]:
    """The limits of all levels between the process's own group and the root."""
    second, first = _own_groups(own_groups)
    for level in _levels(second):
        # Where both versions are mounted, the second has a place of its own.
        for root in (groups, groups / "unified"):
            yield _quota_v2(root / level / "cpu.max")
    for level in _levels(first):
        for root in (groups / "cpu", groups / "cpu,cpuacct"):
            yield _quota_v1(root / level)


def _own_groups(path: Path) -> tuple[str, str]:
    """The groups of this process, of version 2 (`0::/path`) and of version 1 (`4:cpu,cpuacct:/path`)."""
    second = first = ""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            number, controllers, group = [*line.split(":", 2), "", ""][:3]
            if number == "0" and not controllers:
                second = group
            elif "cpu" in controllers.split(","):
                first = group
    return second, first


def _levels(group: str) -> list[str]:
    """A group and all above it, as relative paths; inside a container the path may be the host's, and absent."""
    own = PurePosixPath(group.lstrip("/"))
    if ".." in own.parts:
        return ["."]
    return [str(own), *map(str, own.parents)]


def _quota_v2(path: Path) -> float | None:
    """`200000 100000` is two CPUs' worth; `max 100000` no limit."""
    with contextlib.suppress(OSError, ValueError):
        share, period = path.read_text().split()
        return _ratio(int(share), int(period))
    return None


def _quota_v1(directory: Path) -> float | None:
    """`cpu.cfs_quota_us` of `cpu.cfs_period_us`; -1 is no limit."""
    with contextlib.suppress(OSError, ValueError):
        share, period = (int((directory / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return _ratio(share, period)
    return None


def _ratio(share: int, period: int) -> float | None:
    return share / period if share > 0 and period > 0 else None
