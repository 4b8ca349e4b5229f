"""The caches on the disk, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from icclip.caches import DOWNLOADS, GRAPHS, CacheEntry, Cleared, cache_directory

if TYPE_CHECKING:
    from rich.console import RenderableType

KIBI = 1024


@dataclass(frozen=True)
class CacheList:
    """The result of `icclip cache list`: every cached file."""

    entries: Sequence[CacheEntry]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"directory": str(cache_directory()), "entries": [entry.to_mapping() for entry in self.entries]}

    def renderables(self) -> Iterable[RenderableType]:
        """The files as a table."""
        return [cache_table(self.entries)]

    def verdict(self) -> None:
        """Listing the caches always succeeds; a directory that cannot be read has already raised UsageError."""


@dataclass(frozen=True)
class CacheCleared:
    """The result of `icclip cache clear`: what was deleted and what was kept."""

    cleared: Cleared

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.cleared.to_mapping()

    def renderables(self) -> Iterable[RenderableType]:
        """One line with the number of files and their size."""
        return [cleared_line(self.cleared)]

    def verdict(self) -> None:
        """Always succeeds; a file that cannot be deleted has already raised UsageError."""


def question(entries: Sequence[CacheEntry]) -> str:
    """What to ask before the files are deleted."""
    size = size_text(sum(entry.bytes for entry in entries))
    return f"Delete {len(entries)} cached files ({size}) in {cache_directory()}?"


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
    """One line about what was deleted and what was kept because another process is filling it."""
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
    if entry.kind == DOWNLOADS:
        return "a file from the network"
    if entry.kind == GRAPHS:
        return _graph(entry)
    if entry.shape is None:
        return "unfinished or damaged"
    count, *rest = entry.shape
    return f"{count:,} rows of {' x '.join(map(str, rest)) or '1'}"


def _graph(entry: CacheEntry) -> str:
    if entry.path.name.startswith("."):
        return "unfinished or damaged"
    return "a graph, optimised for this CPU" if entry.bytes else "a note that a graph was opened"
