"""Which instructions this CPU has, as far as the system tells, and what that means for int8."""

from __future__ import annotations

import platform
from collections.abc import Collection
from pathlib import Path

FACTS = Path("/proc/cpuinfo")
WITHOUT_VNNI = (
    "this CPU has no instructions for products of 8-bit integers (VNNI): int8 gives the same embeddings, since weights "
    "that meet integers have 7 bits, but saves less time than on CPUs that have them"
)
"""Weights of 8 bits would be wrong there: the sums of two products saturate."""
_KINDS = {
    "amx": {"amx_int8"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "avx512": {"avx512bw"},
    "avx2": {"avx2"},
    "arm i8mm": {"i8mm"},
    "arm dot product": {"asimddp"},
}
"""The best instructions for products of integers come first; any one of the flags will do."""
_SLOW = ("avx512", "avx2")


def cpu_flags(facts: Path = FACTS) -> frozenset[str]:
    """The instructions of the first processor that the system describes; empty if it does not."""
    try:
        with facts.open(encoding="utf-8", errors="replace") as lines:
            # Named `Features` on ARM; all processors have the same.
            found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return frozenset()
    return frozenset(found.partition(":")[2].split())


def integer_kind(flags: Collection[str] | None = None) -> str:
    """What multiplies 8-bit integers: `amx`, `vnni`, `avx512` or `avx2` (both without VNNI), `arm ...`; or the machine's name.

    Args:
        flags: the instructions of a CPU; None means this one.
    """
    own = set(cpu_flags() if flags is None else flags)
    return next((kind for kind, any_of in _KINDS.items() if any_of & own), platform.machine() or "unknown")


def int8_note(flags: Collection[str] | None = None) -> str | None:
    """A line for users of int8 on a CPU that is known to have no VNNI, or None."""
    return WITHOUT_VNNI if integer_kind(flags) in _SLOW else None
