"""The files that icclip keeps on disk between runs: their directory, a list of them, and how to delete them.

A cache is a directory below `cache_directory()` that is named after its content: `images`, which are decoded;
`downloads`, the files that a dataset names by URL; and `graphs`, which onnxruntime has optimised for this machine (a
directory each). Its files are named by a digest of everything that decides their content, so a deleted file is simply
created again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from icclip.errors import UsageError

DIGEST = re.compile(r"[0-9a-f]{32}\.(npy|part)")
DOWNLOADS = "downloads"
DOWNLOADED = re.compile(r"[0-9a-f]{64}(\.tar)?")
GRAPHS = "graphs"
OPTIMISED = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\.\w+")
"""The names of our files; ICCLIP_CACHE may name a directory with other files, which are never touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One file of a cache, or one directory of `graphs`."""

    path: Path
    kind: str
    """The cache it belongs to, such as `images`."""
    bytes: int
    modified: datetime
    """When it was last written, in UTC."""
    shape: tuple[int, ...] | None
    """The shape of the array; None for a file that was never finished, or that is damaged."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = {**dataclasses.asdict(self), "path": str(self.path), "modified": self.modified.isoformat()}
        return {**own, "shape": None if self.shape is None else list(self.shape)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """What clearing the caches has done."""

    removed: tuple[CacheEntry, ...]
    kept: tuple[CacheEntry, ...]
    """Entries that another process is filling at this moment."""

    @property
    def bytes(self) -> int:
        """The number of bytes freed on the disk."""
        return sum(entry.bytes for entry in self.removed)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "removed": [entry.to_mapping() for entry in self.removed],
            "kept": [entry.to_mapping() for entry in self.kept],
            "bytes": self.bytes,
        }


def cache_directory() -> Path:
    """The directory in `ICCLIP_CACHE`, or else `icclip` in the user's cache directory."""
    said = os.environ.get("ICCLIP_CACHE")
    return Path(said) if said else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icclip"


def cache_entries(directory: Path | None = None) -> list[CacheEntry]:
    """Every file that icclip has cached, the largest first.

    Args:
        directory: the directory to look in; None means `cache_directory()`. A missing directory has no entries.

    Raises:
        UsageError: the directory cannot be read.
    """
    root = cache_directory() if directory is None else directory
    try:
        images = [path for path in root.glob("*/*") if path.is_file() and DIGEST.fullmatch(path.name)]
        found = root.glob(f"{DOWNLOADS}/*/*")
        downloads = [path for path in found if path.is_file() and DOWNLOADED.fullmatch(path.name)]
        entries = [_entry(path, path.parent.name) for path in sorted(images)]
        entries += [_entry(path, DOWNLOADS) for path in sorted(downloads)]
        graphs = [path for path in root.glob(f"{GRAPHS}/*") if path.is_dir() and OPTIMISED.fullmatch(path.name)]
        entries += [_entry(path, GRAPHS) for path in sorted(graphs)]
    except OSError as error:
        raise UsageError(f"cannot read the cache {root}: {error.strerror or error}; check its permissions") from error
    return sorted(entries, key=lambda entry: -entry.bytes)


def clear_cache(entries: Sequence[CacheEntry]) -> Cleared:
    """Delete cached files, except those that another process is filling.

    A run that is reading such a file continues, because the system keeps an open file until it is closed.

    Raises:
        UsageError: a file cannot be deleted.
    """
    removed: list[CacheEntry] = []
    kept: list[CacheEntry] = []
    for entry in entries:
        # Downloads and graphs appear under their names when they are complete.
        whole = entry.kind in (DOWNLOADS, GRAPHS)
        with contextlib.nullcontext(True) if whole else _unless_busy(entry.path) as free:
            if free:
                _delete(entry.path)
            (removed if free else kept).append(entry)
    return Cleared(removed=tuple(removed), kept=tuple(kept))


def tree_size(directory: Path) -> int:
    """The size of all files below a directory in bytes; links are not followed, and unreadable files count as 0."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(folder, name)).st_size
    return total


def _entry(path: Path, kind: str) -> CacheEntry:
    about = path.stat()
    return CacheEntry(
        path=path,
        kind=kind,
        bytes=tree_size(path) if path.is_dir() else about.st_size,
        modified=datetime.fromtimestamp(about.st_mtime, UTC),
        shape=_shape(path) if path.suffix == ".npy" else None,
    )


def _shape(path: Path) -> tuple[int, ...] | None:
    try:
        return tuple(np.load(path, mmap_mode="r").shape)
    except (OSError, ValueError, EOFError):
        return None


@contextlib.contextmanager
def _unless_busy(path: Path) -> Iterator[bool]:
    """Hold the lock under which a cache is filled; yields False if another process holds it."""
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        # filelock comes with the extra `train`; without it, nothing on this machine fills a cache.
        yield True
        return
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _delete(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot delete {path}: {error.strerror or error}; check its permissions") from error
