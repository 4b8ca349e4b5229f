"""Caches of what is computed once: rows in a memory-mapped file. Here are those of resized images, uint8.

The file's name is a digest of the images' encoded content and of everything that decides how they are
resized, so another image or setting means another file. The file is written under a lock with the
suffix `.part` and renamed when it is complete, so processes that start together fill it once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import PIL
import transformers
from filelock import FileLock, Timeout

from icclip.caches import cache_directory
from icclip.config import CacheMode
from icclip.console import Reporter
from icclip.data.batches import prepared_batches
from icclip.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from icclip.models.pixels import Pixels

FORMAT = 1
"""The version of the format, which increases whenever the same image and settings give other rows than before."""
KIBI = 1024
SPARED = 4 * 2**30
"""Number of bytes that `auto` leaves free on the disk."""
AT_ONCE = 8
"""Number of images in a worker's batch, which is small because containers often have little shared memory."""


class RowCache(Sequence[np.ndarray]):
    """Rows that were computed once, read from the disk when they are accessed.

    Args:
        path: an .npy file, [n, ...].
        rows: the rows to use; None means all of them.
    """

    def __init__(self, path: Path, rows: range | None = None) -> None:
        self.path = path
        self._rows = range(len(self._values)) if rows is None else rows

    @cached_property
    def _values(self) -> np.ndarray:
        values: np.ndarray = np.load(self.path, mmap_mode="r")
        return values

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Self:
        if isinstance(index, slice):
            return type(self)(self.path, self._rows[index])
        row: np.ndarray = self._values[self._rows[index]]
        return row

    def __reduce__(self) -> tuple[Any, ...]:
        """Workers get the path alone; a memory map would be pickled with its content."""
        return type(self), (self.path, self._rows)

    def shard(self, shards: int, index: int) -> Self:
        """The part number `index` of `shards` contiguous parts, as `SplitImages.shard` makes them."""
        part = np.array_split(np.arange(len(self)), shards)[index]
        return self[part[0] : part[-1] + 1] if len(part) else self[:0]


class PixelCache(RowCache):
    """The resized images of a split, uint8 [3, h, w] each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a cache is filled with."""

    name: str
    """For people, with its article left out: `image cache`."""
    of: str
    """What a row is of: `images`."""
    option: str
    """The option that asks for the cache: `--cache-images`."""
    otherwise: str
    """What happens without it: `images will be decoded again in every epoch`."""
    count: int
    row: Callable[[], np.ndarray]
    """Computes the first row, for its shape and type."""
    batches: Callable[[], Iterable[np.ndarray]]
    """Computes all rows in their order, [b, ...] at a time."""


def cache_path(content: Iterable[bytes], pixels: Pixels) -> Path:
    """The file that these images are cached in.

    Args:
        content: a digest of each image's encoded bytes.
        pixels: resizes the images.
    """
    versions = {"format": FORMAT, "pillow": PIL.__version__, "transformers": transformers.__version__}
    processor = {"class": type(pixels.processor).__name__, **pixels.settings}
    key = hashlib.sha256(json.dumps([versions, processor], sort_keys=True, default=str).encode())
    for digest in content:
        key.update(digest)
    return cache_directory() / "images" / f"{key.hexdigest()[:32]}.npy"


def cached_images(
    images: Sequence[Image],
    path: Path,
    pixels: Pixels,
    mode: CacheMode,
    *,
    worth_filling: bool = True,
    workers: int | None = None,
    reporter: Reporter,
) -> PixelCache | None:
    """Open the cache at `path`, and fill it first if it does not exist yet. Returns None to train without a cache.

    Args:
        images: the images, decoded when they are accessed.
        path: the path from `cache_path`.
        pixels: resizes the images.
        mode: if the cache cannot be written, "on" raises, and "auto" reports it and continues without.
        worth_filling: if False, "auto" uses an existing cache but does not fill a new one.
        workers: processes that decode images; None chooses from the number of cores.
        reporter: shows the size and the progress.

    Raises:
        DataError: an image cannot be decoded.
        UsageError: `mode` is "on" and the cache cannot be written.
    """

    def first() -> np.ndarray:
        row: np.ndarray = pixels.resized([images[0]])[0].numpy()
        return row

    def batches() -> Iterator[np.ndarray]:
        for batch in prepared_batches(images, pixels.resized, batch_size=AT_ONCE, workers=workers):
            yield batch.numpy()

    rows = Rows(
        name="image cache",
        of="images",
        option="--cache-images",
        otherwise="images will be decoded again in every epoch",
        count=len(images),
        row=first,
        batches=batches,
    )
    return PixelCache(path) if is_cached(rows, path, mode, worth_filling=worth_filling, reporter=reporter) else None


def is_cached(rows: Rows, path: Path, mode: CacheMode, *, worth_filling: bool, reporter: Reporter) -> bool:
    """Whether the rows are at `path`, where they are written first if they are not there yet.

    The arguments and errors are those of `cached_images`.
    """
    if mode == "auto" and not worth_filling and not _is_whole(path, rows.count):
        return False
    try:
        if not _is_whole(path, rows.count):
            with _locked(path, rows.name, reporter):
                # The previous holder of the lock may have filled it.
                if not _is_whole(path, rows.count):
                    if path.exists():
                        reporter.warn(f"the {rows.name} {path} is damaged: filling it again")
                    _fill(path, rows, spared=SPARED if mode == "auto" else 0, reporter=reporter)
    except OSError as error:
        reason = f"cannot write the {rows.name} {path}: {error.strerror or error}"
        if mode == "on":
            raise UsageError(f"{reason}; set ICCLIP_CACHE to another directory, or leave out {rows.option}") from error
        reporter.note(f"{reason}; {rows.otherwise}")
        return False
    reporter.note(f"{rows.name}: {rows.count:,} {rows.of}, {_size(path.stat().st_size)} in {path}")
    return True


def _is_whole(path: Path, count: int) -> bool:
    """Whether the file exists with all its rows; a crash or an interrupted copy may have truncated it."""
    try:
        return len(np.load(path, mmap_mode="r")) == count
    except (OSError, ValueError, EOFError):
        return False


@contextmanager
def _locked(path: Path, name: str, reporter: Reporter) -> Iterator[None]:
    """Let one process at a time continue; the system releases the lock of a process that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.note(f"another process is filling the {name} {path}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fill(path: Path, rows: Rows, *, spared: int, reporter: Reporter) -> None:
    """Write all rows, or nothing. Raises OSError, DataError."""
    first = rows.row()
    shape = (rows.count, *first.shape)
    _check_room(path.parent, math.prod(shape) * first.itemsize, spared)
    part = path.with_suffix(".part")
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    try:
        with part.open("wb") as file, reporter.progress(f"filling the {rows.name}", rows.count) as advance:
            # Written instead of mapped, because on a full disk this raises an error instead of killing the process.
            np.lib.format.write_array_header_1_0(file, header)
            for batch in rows.batches():
                file.write(np.ascontiguousarray(batch).data)
                advance(len(batch))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _check_room(directory: Path, size: int, spared: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < size + spared:
        wanted = f"it needs {_size(size)}" + (f" and must leave {_size(spared)} free" if spared else "")
        raise OSError(errno.ENOSPC, f"{wanted}, and the disk has {_size(free)}")


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < KIBI:
            return f"{count:.0f} {unit}"
        count /= KIBI
    return f"{count:.1f} GiB"
