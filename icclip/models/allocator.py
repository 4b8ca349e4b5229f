"""Memory that a layer has freed stays with the process, for the next layer: asking the kernel again can take longer than computing.

glibc's malloc returns large blocks to the kernel as soon as they are freed. On a CPU the outputs of a model's layers are such blocks, and
the kernel clears every page of each new one. It costs a convolutional network a third of its time (benchmarks/allocator.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h; see mallopt(3)."""
KEPT = 1 << 30
"""Bytes: larger blocks go back at once, and so does what is free at the end of the heap beyond it."""
USERS_OWN = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")
"""Variables by which a user chooses what the allocator does, or another one."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to a GiB; whether it does from now on.

    Nothing changes without glibc, or where the environment has settings of its own for the allocator. What is computed is the
    same to the bit.
    """
    if any(os.environ.get(name) for name in USERS_OWN):
        return False
    with contextlib.suppress(AttributeError, OSError):
        # 1: it was understood. musl and macOS have no mallopt.
        mallopt = ctypes.CDLL(None).mallopt
        return all(mallopt(option, KEPT) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
    return False
