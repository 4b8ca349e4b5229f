"""How large a block of a matrix of similarities is processed at a time.

A block that fits the processor's cache is read and written without waiting for main memory, and a matrix
product that is large enough keeps all cores, or a GPU, busy. Both sizes depend on the machine, and both are
small compared with the free memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MIB = 2**20
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
"""Directory in which Linux lists the caches of the first processor."""
UNKNOWN_CACHE = MIB
"""Bytes of second-level cache per core; roughly what processors of the last ten years have."""
PRODUCTS = 16 * MIB
"""Bytes of a block of similarities on a CPU; products of matrices of this size keep all cores busy."""
SHARE_OF_FREE = 32
"""A block takes at most this fraction (one part in N) of the free memory."""


def spans(rows: int, size: int) -> Iterator[slice]:
    """Consecutive slices that cover `rows`, of `size` rows each; the last may have fewer."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def rows_of(limit: int, columns: int, itemsize: int) -> int:
    """How many rows of `columns` values of `itemsize` bytes fit in `limit` bytes; at least one."""
    return max(1, limit // max(1, columns * itemsize))


def block_bytes(wanted: int, free: int | None = None) -> int:
    """The size of a block: `wanted` bytes, or less if little memory is free.

    Args:
        wanted: the size in bytes that would be fast.
        free: free memory of the device in bytes; None looks it up for this machine, if the system tells.
    """
    known = free_memory() if free is None else free
    return wanted if known is None else max(1, min(wanted, known // SHARE_OF_FREE))


def free_memory() -> int | None:
    """The free memory of this machine in bytes; None if the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


@cache
def cache_bytes() -> int:
    """The second-level cache of a core in bytes, or a usual value if the system does not tell."""
    for folder in sorted(CACHES.glob("index*")):
        try:
            level, size = (folder.joinpath(name).read_text(encoding="ascii").strip() for name in ("level", "size"))
        except OSError:
            continue
        if level == "2" and size.endswith("K"):
            return int(size.removesuffix("K")) * 1024
    return UNKNOWN_CACHE
