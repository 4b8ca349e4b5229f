"""What the benchmarks share: times that can be compared, and a record of where they were taken.

Other programs, and the clock of the processor, change how fast everything is. So what is compared
takes turns, round after round, and a ratio is the median over the rounds of the ratios within one.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

VECTOR_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx_ne_convert", "amx_int8", "amx_bf16")
"""What decides how fast products of small integers and of bf16 are."""

Rounds = Mapping[str, Sequence[float]]
"""Seconds of each contestant, one number a round."""


def seconds(work: Callable[[], object], rest: float = 0.0) -> float:
    """Wall-clock time of one call, after a rest."""
    time.sleep(rest)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def take_turns(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1, rest: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of each contestant's calls, which alternate.

    Args:
        contestants: what is called.
        rounds: calls of each that count.
        warmup: rounds before them that do not.
        rest: seconds before each call: the threads of the one before may still be spinning.
    """
    taken = [{name: seconds(work, rest) for name, work in contestants.items()} for _ in range(warmup + rounds)]
    return {name: [one[name] for one in taken[warmup:]] for name in contestants}


def medians(taken: Rounds) -> dict[str, float]:
    """The median seconds of each contestant."""
    return {name: rounded(statistics.median(own)) for name, own in taken.items()}


def times_faster(taken: Rounds, name: str, than: str) -> float:
    """How many times the work `name` does while `than` does it once: the median over the rounds."""
    return rounded(statistics.median(b / a for a, b in zip(taken[name], taken[than], strict=True)))


def rounded(value: float) -> float:
    """Four digits: more would say something that was not measured."""
    return float(f"{value:.4g}")


def environment(*packages: str) -> dict[str, Any]:
    """The processor, the day, and the versions of Python and these packages (those that are there)."""
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "cpu": cpu(),
        "python": platform.python_version(),
        **{name: found for name in packages if (found := _version(name))},
    }


def cpu() -> str:
    """`AMD EPYC, 2 cores, avx2 avx512f avx512_vnni`."""
    facts = _cpu_facts()
    flags = [flag for flag in VECTOR_FLAGS if flag in facts.get("flags", "").split()]
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores" + (f", {' '.join(flags)}" if flags else "")


def write(script: str, result: Mapping[str, Any]) -> None:
    """Put the result beside its script, as JSON of the same name."""
    path = Path(script).with_suffix(".json")
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path.name}")


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with the same keys as a table."""
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cpu_facts() -> dict[str, str]:
    """Of the first processor, where the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
