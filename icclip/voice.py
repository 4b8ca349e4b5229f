"""Which of the processes of a run says an error that several of them have before they have met."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from icclip.errors import UsageError
from icclip.identity import Identity, identity

STALE = 60.0
"""Seconds after which what an earlier launch has left is not believed any more."""


def is_first_to_say(text: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether no other process of this launch on this machine has said the same. A process alone always speaks.

    The processes of a launch have the same parent. They meet in a file that each of them adds a byte to; the last one
    deletes it.

    Args:
        text: what is to be said.
        environment: says which process this is.
    """
    try:
        who = identity(environment)
    except UsageError:
        return True
    if who.size == 1:
        return True
    file = Path(tempfile.gettempdir()) / f"icclip-said-{_launch(text, environment)}"
    with contextlib.suppress(OSError):
        if time.time() - file.stat().st_mtime > STALE:
            file.unlink()
    try:
        return _position(file, who) == 0
    except OSError:
        # Twice is better than not at all.
        return True


def _launch(text: str, environment: Mapping[str, str]) -> str:
    """A name that the processes of one launch share."""
    told = [environment.get(name) for name in ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")]
    user = os.getuid() if hasattr(os, "getuid") else ""
    return hashlib.sha256(repr((user, os.getppid(), told, text)).encode()).hexdigest()[:16]


def _position(file: Path, who: Identity) -> int:
    """How many have spoken before, counted in the file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, b".")
        # Where an appended byte lands is decided by the system, for one process at a time.
        position = os.lseek(descriptor, 0, os.SEEK_CUR) - 1
    finally:
        os.close(descriptor)
    if position >= who.local_size - 1:
        with contextlib.suppress(OSError):
            file.unlink()
    return position
