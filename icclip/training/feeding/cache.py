"""A cache of images that were decoded and resized once: uint8 rows in a memory-mapped file.

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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import PIL
import transformers
from filelock import FileLock, Timeout

from icclip.caches import cache_directory
from icclip.config import CacheImages
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


class PixelCache(Sequence[np.ndarray]):
    """The resized images of a split, uint8 [3, h, w] each, read from the disk when they are accessed.

    Args:
        path: an .npy file, uint8 [n, 3, h, w].
        rows: the rows to use; None means all of them.
    """

    def __init__(self, path: Path, rows: range | None = None) -> None:
        self.path = path
        self._rows = range(len(self._pixels)) if rows is None else rows

    @cached_property
    def _pixels(self) -> np.ndarray:
        pixels: np.ndarray = np.load(self.path, mmap_mode="r")
        return pixels

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Self:
        if isinstance(index, slice):
            return type(self)(self.path, self._rows[index])
        row: np.ndarray = self._pixels[self._rows[index]]
        return row

    def __reduce__(self) -> tuple[Any, ...]:
        """Workers get the path alone; a memory map would be pickled with its content."""
        return type(self), (self.path, self._rows)

    def shard(self, shards: int, index: int) -> Self:
        """The part number `index` of `shards` contiguous parts, as `SplitImages.shard` makes them."""
        part = np.array_split(np.arange(len(self)), shards)[index]
        return self[part[0] : part[-1] + 1] if len(part) else self[:0]


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
    mode: CacheImages,
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
    if mode == "auto" and not worth_filling and not _is_whole(path, len(images)):
        return None
    try:
        if not _is_whole(path, len(images)):
            with _locked(path, reporter):
                # The previous holder of the lock may have filled it.
                if not _is_whole(path, len(images)):
                    if path.exists():
                        reporter.warn(f"the image cache {path} is damaged: filling it again")
                    spared = SPARED if mode == "auto" else 0
                    _fill(path, images, pixels, spared=spared, workers=workers, reporter=reporter)
    except OSError as error:
        reason = f"cannot write the image cache {path}: {error.strerror or error}"
        if mode == "on":
            raise UsageError(f"{reason}; set ICCLIP_CACHE to another directory, or leave out --cache-images") from error
        reporter.note(f"{reason}; images will be decoded again in every epoch")
        return None
    reporter.note(f"image cache: {len(images):,} images, {_size(path.stat().st_size)} in {path}")
    return PixelCache(path)


def _is_whole(path: Path, count: int) -> bool:
    """Whether the file exists with all its rows; a crash or an interrupted copy may have truncated it."""
    try:
        return len(np.load(path, mmap_mode="r")) == count
    except (OSError, ValueError, EOFError):
        return False


@contextmanager
def _locked(path: Path, reporter: Reporter) -> Iterator[None]:
    """Let one process at a time continue; the system releases the lock of a process that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.note(f"another process is filling the image cache {path}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fill(
    path: Path, images: Sequence[Image], pixels: Pixels, *, spared: int, workers: int | None, reporter: Reporter
) -> None:
    """Write all rows, or nothing. Raises OSError, DataError."""
    shape = (len(images), *pixels.resized([images[0]]).shape[1:])
    _check_room(path.parent, math.prod(shape), spared)
    batches = prepared_batches(images, pixels.resized, batch_size=AT_ONCE, workers=workers)
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file, reporter.progress("filling the image cache", len(images)) as advance:
            # Written instead of mapped, because on a full disk this raises an error instead of killing the process.
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for batch in batches:
                file.write(batch.numpy().data)
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
