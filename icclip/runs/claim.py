"""Ensure that a directory has only one writer: it is claimed before anything in it is written or deleted."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from icclip.errors import UsageError
from icclip.files import readable_os_errors

CLAIM = ".claim"
"""The name of the lock file in a run directory; beside a directory that is replaced as a whole, it is `.NAME.claim`."""


def claim_of(directory: Path) -> Path:
    """The lock file of a directory that is written to in place, such as a run's."""
    return directory / CLAIM


def claim_beside(directory: Path) -> Path:
    """The lock file of a directory that appears, or is replaced, as a whole, such as a bundle."""
    absolute = directory.absolute()
    return absolute.parent / f".{absolute.name}{CLAIM}"


@contextlib.contextmanager
def claimed(directory: Path, lock: Path, note: Callable[[str], None] | None = None) -> Iterator[None]:
    """Be the only writer of `directory` while the block runs.

    The claim is a file lock, which the system releases when its holder dies, however it dies. The lock file says
    who holds it; the entry of a dead holder is replaced and reported through `note`. A directory that was made for
    the claim is removed again if nothing was written into it.

    Args:
        directory: the claimed directory, for messages.
        lock: the lock file, from `claim_of` or `claim_beside`; it is deleted after the block.
        note: called with a line if the claim of a dead process was taken over.

    Raises:
        UsageError: another process holds the claim, or the lock file cannot be written.
    """
    from filelock import FileLock, Timeout

    new = not lock.parent.exists()
    with readable_os_errors("the claim", lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock, timeout=0)
        try:
            held.acquire()
        except Timeout as error:
            raise UsageError(
                f"{directory} is being written by {_told(_holder(lock))}: wait until it ends, stop it, or give another "
                "--output-dir"
            ) from error
    try:
        earlier = _holder(lock)
        if earlier and note is not None:
            note(f"{_told(earlier)} claimed {directory} and died; this process takes over")
        with readable_os_errors("the claim", lock):
            lock.write_text(json.dumps(_self()) + "\n", encoding="utf-8")
        yield
    finally:
        # Deleted while it is held, so that a process that has opened it meanwhile notices this and tries again.
        lock.unlink(missing_ok=True)
        held.release()
        if new:
            # Only an empty directory can be removed: it remains if anything was written into it.
            with contextlib.suppress(OSError):
                lock.parent.rmdir()


def _self() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}


def _holder(lock: Path) -> Mapping[str, Any]:
    """The content of the lock file; empty if the file is empty or incomplete."""
    try:
        content = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _told(holder: Mapping[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('process')} on {holder.get('host')} since {holder.get('since')}"
