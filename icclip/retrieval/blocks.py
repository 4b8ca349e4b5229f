"""How much of a large matrix of similarities is worked on at once.

A block that fits the processor's cache is read and written without waiting for the memory, and a product
of matrices that is large enough keeps all cores, or a GPU, busy. Both sizes follow the machine, and both
are small against the memory that is free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MIB = 2**20
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
"""Where Linux tells the sizes of the first processor's caches."""
UNKNOWN_CACHE = MIB
"""Bytes: what a core of any processor of the last ten years has, about."""
SHARE_OF_FREE = 32
"""A block takes at most this fraction (one part in N) of the free memory."""


def spans(rows: int, size: int) -> Iterator[slice]:
    """Consecutive slices that cover `rows`, of `size` rows each; the last may have fewer."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def rows_of(limit: int, columns: int, itemsize: int) -> int:
    """The rows of `columns` values of `itemsize` bytes that fit in `limit` bytes; one where none does."""
    return max(1, limit // max(1, columns * itemsize))


def block_bytes(wanted: int, free: int | None = None) -> int:
    """`wanted` bytes, or less where little memory is free.

    Args:
        wanted: what would be fast.
        free: bytes of the device; None: of this machine, where it tells.
    """
    known = free_memory() if free is None else free
    return wanted if known is None else max(1, min(wanted, known // SHARE_OF_FREE))


def free_memory() -> int | None:
    """The memory of this machine that nothing is held in, in bytes; None where it does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


@cache
def cache_bytes() -> int:
    """The second-level cache of a core, in bytes, or what is usual where the system does not tell."""
    for folder in sorted(CACHES.glob("index*")):
        try:
            level, size = (folder.joinpath(name).read_text(encoding="ascii").strip() for name in ("level", "size"))
        except OSError:
            continue
        if level == "2" and size.endswith("K"):
            return int(size.removesuffix("K")) * 1024
    return UNKNOWN_CACHE
