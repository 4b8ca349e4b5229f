"""A directory has one writer at a time: it is claimed before the first byte is written or deleted."""

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
"""Name of the lock file: in a run directory, or beside one that is replaced as a whole (`.NAME.claim`)."""


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

    The claim is a file lock, which the system takes back when its holder dies, however it dies. The lock file
    says who holds it; what a dead holder left in it is replaced, and said through `note`.

    Args:
        directory: what is claimed, for messages.
        lock: the lock file, from `claim_of` or `claim_beside`; it is gone after the block.
        note: hears that a dead process's claim was taken over.

    Raises:
        UsageError: another process holds the claim, or the lock file cannot be written.
    """
    from filelock import FileLock, Timeout

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
        # While it is held: whoever opened this file meanwhile finds it without a name, and tries again.
        lock.unlink(missing_ok=True)
        held.release()


def _self() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}


def _holder(lock: Path) -> Mapping[str, Any]:
    """What the lock file says; nothing where it is empty or was cut short."""
    try:
        content = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _told(holder: Mapping[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('process')} on {holder.get('host')} since {holder.get('since')}"
