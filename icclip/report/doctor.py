"""The state of an installation and of its caches, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from icclip.caches import CacheEntry, Cleared
    from icclip.doctor import Diagnosis

_COLOURS = {"ok": "green", "absent": "dim", "warning": "yellow", "broken": "bold red"}
KIBI = 1024


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    """One row for everything that was looked at."""
    table = Table("area", "what", "status", "detail", box=None, header_style="bold")
    shown = ""
    for finding in diagnosis.findings:
        # Text, not str: square brackets, as in icclip[train], are markup in a str.
        status = Text(finding.status, style=_COLOURS[finding.status])
        area = finding.area if finding.area != shown else ""
        table.add_row(Text(area), Text(finding.name), status, Text(finding.detail))
        shown = finding.area
    return table


def cache_table(entries: Sequence[CacheEntry]) -> Table:
    """One row for each cached file, with the total below."""
    table = Table("cache", "holds", "size", "last written (UTC)", "file", box=None, header_style="bold")
    for entry in entries:
        written = entry.modified.strftime("%Y-%m-%d %H:%M")
        table.add_row(entry.kind, _content(entry), size_text(entry.bytes), written, Text(str(entry.path)))
    table.add_row(
        "total", f"{len(entries)} files", size_text(sum(entry.bytes for entry in entries)), "", "", style="bold"
    )
    return table


def cleared_line(cleared: Cleared) -> str:
    """What was deleted, and what was left because a process is filling it."""
    line = f"deleted {len(cleared.removed)} cached files, {size_text(cleared.bytes)}"
    return line + (f"; kept {len(cleared.kept)} that another process is filling" if cleared.kept else "")


def size_text(count: float) -> str:
    """`12 MiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < KIBI:
            return f"{count:.0f} {unit}"
        count /= KIBI
    return f"{count:.1f} GiB"


def _content(entry: CacheEntry) -> str:
    if entry.shape is None:
        return "unfinished or damaged"
    count, *rest = entry.shape
    return f"{count:,} rows of {' x '.join(map(str, rest)) or '1'}"
