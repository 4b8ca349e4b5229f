"""Write files and directories under a temporary name, fsync and rename, so that icclip never leaves a half-written one."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icclip.errors import UsageError


@contextlib.contextmanager
def readable_os_errors(what: str, path: Path) -> Iterator[None]:
    """Turn errors such as a full disk, a missing permission or a file in the way into one line about `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot write {what} to {path}: {reason}") from error


def refused_path(error: Exception) -> UsageError | None:
    """What the system refuses about a path, whatever it was looked at for, as one line; None for any other error."""
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return UsageError(f"{error.filename}: {error.strerror}: give another path")
    # What pathlib raises instead of ELOOP before Python 3.13.
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from"):
        return UsageError(f"{error}: give another path")
    return None


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was.

    Raises:
        UsageError: the disk is full, or the directory is not writable.
    """
    with readable_os_errors(path.name, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp creates files that only the owner can read, but results are meant to be shared.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def atomic_write_text(path: Path, text: str) -> None:
    """Like `atomic_write_bytes`, for UTF-8 text."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON. NaN and infinity are refused, because they are not JSON."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a staging directory beside `path` that becomes `path` when the block succeeds.

    An existing directory at `path` is only replaced then. After an error or an interrupt, nothing is left of the
    staging directory.

    Raises:
        UsageError: the disk is full, or the parent is not writable.
    """
    with staging_directory(path) as staging:
        yield staging
        put_in_place(staging, path)


@contextlib.contextmanager
def staging_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory beside `path`, which is removed after the block unless it was moved to its final place.

    Raises:
        UsageError: the disk is full, or the parent is not writable.
    """
    with readable_os_errors(path.name, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        with readable_os_errors(path.name, path):
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_in_place(staging: Path, path: Path) -> None:
    """Move a finished staging directory to `path`, replacing what is there.

    Raises:
        UsageError: the disk is full, or the parent is not writable.
    """
    with readable_os_errors(path.name, path):
        staging.chmod(0o777 & ~_umask())
        fsync_tree(staging)
        _swap(staging, path)


def exchange(staging: Path, path: Path) -> None:
    """Make a finished staging directory `path`, whose old content then lies at `staging` and is removed with it.

    Where the system can (Linux), the two change places in one step, so that `path` is there, whole, at every moment.

    Raises:
        UsageError: the disk is full, or the parent is not writable.
    """
    with readable_os_errors(path.name, path):
        staging.chmod(0o777 & ~_umask())
        fsync_tree(staging)
        if not _exchanged(staging, path):
            _swap(staging, path)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the system made the two change places; it does not on every system and file system."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def fsync_tree(root: Path) -> None:
    """Ask the system to write every file and directory below `root` to the disk."""
    for directory, _, names in os.walk(root):
        for name in names:
            _fsync(Path(directory) / name)
        _fsync(Path(directory))


def _swap(staging: Path, path: Path) -> None:
    """Move `staging` to `path`, keeping the time without a directory at `path` as short as possible."""
    if not path.exists():
        staging.replace(path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    path.replace(old / "replaced")
    staging.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
